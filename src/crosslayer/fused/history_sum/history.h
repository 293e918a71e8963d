// Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel, as the passes over stored layers see it.

#pragma once

#include "../cpu/tiles.h"

template <class T, class A> struct History {
    const T *const *values;
    const A *factors;  // image × layer × channels
    Index layers;
};

// What is already in the sums is added to.
template <class T, class A, bool WHOLE>
INLINE void add_layers(const Tile<A, WHOLE> &tile, const History<T, A> &history, Values<A> &sums) {
    for (Index m = 0; m < history.layers; ++m) {
        Vec<A> factor[GROUPS];
        const Index row = tile.place.image * history.layers + m;
        tile.groups([&](int group) { factor[group] = tile.of(history.factors, row, group); });
        tile.each([&](Index p, int group) {
            sums[p][group] += factor[group] * tile.load(history.values[m], p, group);
        });
    }
}

template <class T, class A, bool WHOLE>
INLINE void sum_over_layers(const Tile<A, WHOLE> &tile, const History<T, A> &history, Values<A> &sums) {
    tile.each([&](Index p, int group) { sums[p][group] = Vec<A>{}; });
    add_layers(tile, history, sums);
}

// Σ other ⊙ V_m for every layer, tile by tile.
template <class A> class Products {
  public:
    explicit Products(Index layers) : layers(layers), sums(new Vec<A>[layers * GROUPS]) {}

    void clear() { std::fill_n(sums.get(), layers * GROUPS, Vec<A>{}); }

    template <class T, bool WHOLE>
    INLINE void add(const Tile<A, WHOLE> &tile, const T *const *values, const Values<A> &other) {
        for (Index m = 0; m < layers; ++m) {
            Vec<A> sum[GROUPS];
            tile.groups([&](int group) { sum[group] = sums[m * GROUPS + group]; });
            tile.each([&](Index p, int group) { sum[group] += other[p][group] * tile.load(values[m], p, group); });
            tile.groups([&](int group) { sums[m * GROUPS + group] = sum[group]; });
        }
    }
    void put(const Place<A> &place, A *matrix) const {
        for (Index m = 0; m < layers; ++m)
            for (int group = 0; group < place.groups; ++group)
                place.put(sums[m * GROUPS + group], matrix, place.image * layers + m, group);
    }

  private:
    const Index layers;
    std::unique_ptr<Vec<A>[]> sums;
};
