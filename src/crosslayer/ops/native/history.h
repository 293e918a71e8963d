// Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel, as the passes over stored layers see it.
//
// A tile is a few positions of a program's channels: the sums of a whole one stay in registers while the layers go by.

#pragma once

#include "maps.h"

constexpr Index POSITIONS = 4;

template <class T, class A> struct History {
    const T *const *values;
    const A *factors;  // image × layer × channels
    Index layers;
};

// A whole tile's bounds are known to the compiler.
template <class A, bool WHOLE> class Tile {
  public:
    Tile(const Place<A> &place, Index first)
        : place(place), offset(first * place.size.channels), positions(std::min(POSITIONS, place.size.width - first)),
          present(std::min(GROUPS, place.groups)) {}

    template <class Use> INLINE void groups(Use use) const {
#pragma GCC unroll 4
        for (int group = 0; group < (WHOLE ? GROUPS : present); ++group) use(group);
    }
    template <class Use> INLINE void each(Use use) const {
#pragma GCC unroll 4
        for (Index p = 0; p < (WHOLE ? POSITIONS : positions); ++p) groups([&](int group) { use(p, group); });
    }
    // A group's channels in a row of a matrix with a column per channel, and at a position of a map.
    INLINE Vec<A> of(const A *matrix, Index row, int group) const {
        return load(matrix + row * place.size.channels + place.first, group);
    }
    template <class T> INLINE Vec<A> load(const T *map, Index p, int group) const {
        return load(place.at(map, 0) + offset + p * place.size.channels, group);
    }
    template <class T> INLINE void store(const Vec<A> &vector, T *map, Index p, int group) const {
        T *const to = place.at(map, 0) + offset + p * place.size.channels;
        if constexpr (WHOLE) ::store(vector, to + group * Lanes<A>::count);
        else place.store(vector, to, group);
    }

    const Place<A> &place;

  private:
    template <class T> INLINE Vec<A> load(const T *block, int group) const {
        if constexpr (!WHOLE) return place.load(block, group);
        Vec<A> vector;
        ::load(block + group * Lanes<A>::count, vector);
        return vector;
    }

    const Index offset, positions;
    const int present;
};

template <class A> using Sums = Vec<A>[POSITIONS][GROUPS];

template <class T, class A, bool WHOLE>
INLINE void sum_over_layers(const Tile<A, WHOLE> &tile, const History<T, A> &history, Sums<A> &sums) {
    tile.each([&](Index p, int group) { sums[p][group] = Vec<A>{}; });
    for (Index m = 0; m < history.layers; ++m) {
        Vec<A> factor[GROUPS];
        const Index row = tile.place.image * history.layers + m;
        tile.groups([&](int group) { factor[group] = tile.of(history.factors, row, group); });
        tile.each([&](Index p, int group) {
            sums[p][group] += factor[group] * tile.load(history.values[m], p, group);
        });
    }
}

// Σ other ⊙ V_m for every layer, tile by tile.
template <class A> class Products {
  public:
    explicit Products(Index layers) : layers(layers), sums(new Vec<A>[layers * GROUPS]) {}

    void clear() { std::fill_n(sums.get(), layers * GROUPS, Vec<A>{}); }

    template <class T, bool WHOLE>
    INLINE void add(const Tile<A, WHOLE> &tile, const T *const *values, const Sums<A> &other) {
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

// A map as one long row.
inline Size flat(const Size &size) { return {size.batch, 1, size.height * size.width, size.channels}; }

// Calls `use` with every tile of a program's map.
template <class A, class Use> INLINE void each_tile(const Place<A> &place, Use use) {
    Index first = 0;
    if (place.channels == Place<A>::BLOCK)
        for (; first + POSITIONS <= place.size.width; first += POSITIONS) use(Tile<A, true>(place, first));
    for (; first < place.size.width; first += POSITIONS) use(Tile<A, false>(place, first));
}
