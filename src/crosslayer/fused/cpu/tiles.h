// A tile is a few positions of a program's channels, whose vectors stay in registers while a pass works on them.

#pragma once

#include "maps.h"

constexpr Index POSITIONS = 4;
constexpr Index AHEAD = 4096;  // bytes that are asked for before they are needed: a page, which hardware does not look beyond

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
        const T *const from = place.at(map, 0) + offset + p * place.size.channels;
        __builtin_prefetch((const char *)(from + group * Lanes<A>::count) + AHEAD, 0, 3);  // to the nearest cache
        return load(from, group);
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

template <class A> using Values = Vec<A>[POSITIONS][GROUPS];

// A map as one long row.
inline Size flat(const Size &size) { return {size.batch, 1, size.height * size.width, size.channels}; }

// Calls `use` with every tile of a program's map, or of so many of its positions, from a tile's first on.
template <class A, class Use> INLINE void each_tile(const Place<A> &place, Index first, Index last, Use use) {
    if (place.channels == Place<A>::BLOCK)
        for (; first + POSITIONS <= last; first += POSITIONS) use(Tile<A, true>(place, first));
    for (; first < last; first += POSITIONS) use(Tile<A, false>(place, first));
}
template <class A, class Use> INLINE void each_tile(const Place<A> &place, Use use) {
    each_tile(place, 0, place.size.width, use);
}

// Calls `use` with every program's place in maps as long rows, on so many threads.
template <class A, class Use> void each_program(const Size &size, int threads, Use use) {
    const Size whole = flat(size);
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(whole); ++program) use(Place<A>(program, whole));
}
