// Maps in memory, channels last (images × rows × columns × channels), and how a program sees one.
//
// A program takes a block of an image's channels and walks down its rows, group of lanes by group of lanes. Forward, a row and
// its neighbours are read as they lie; backward, rows of a gradient that has to be computed first go to scratch memory that stays
// in a near cache, each between two columns of zeros. What is outside the map is zero in both.

#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>

#include "numbers.h"

using Index = std::int64_t;

constexpr int GROUPS = 4;  // in a block at most: a few cache lines side by side are fetched about as fast as any

struct Size {
    Index batch, height, width, channels;
};

// A program's image and channels. WHOLE: the map's channels fill all their groups, so that no vector has to be looked at.
template <class A, bool WHOLE = false> class Place {
  public:
    static constexpr Index BLOCK = GROUPS * Lanes<A>::count;

    static Index programs(const Size &size) { return size.batch * blocks(size); }

    Place(Index program, const Size &size)
        : size(size), image(program / blocks(size)), first(program % blocks(size) * BLOCK),
          channels(std::min(BLOCK, size.channels - first)),
          groups(int((channels + Lanes<A>::count - 1) / Lanes<A>::count)) {}

    // A group's channels in a row of a matrix with a column per channel.
    INLINE Vec<A> of(const A *matrix, Index row, int group) const { return load(matrix + row * size.channels + first, group); }
    INLINE void put(const Vec<A> &vector, A *matrix, Index row, int group) const {
        store(vector, matrix + row * size.channels + first, group);
    }

    // A group's channels where a block begins; lanes beyond the map are zero, and are not stored.
    template <class T> INLINE Vec<A> load(const T *block, int group) const {
        Vec<A> vector;
        if constexpr (!WHOLE)
            if (present(group) < Lanes<A>::count) return load_some(block, group);
        ::load(block + group * Lanes<A>::count, vector);
        return vector;
    }
    template <class T> INLINE void store(const Vec<A> &vector, T *block, int group) const {
        if constexpr (!WHOLE)
            if (present(group) < Lanes<A>::count) return store_some(vector, block, group);
        ::store(vector, block + group * Lanes<A>::count);
    }

    // Asks for a group's channels, which a later row will need, while there is arithmetic to do.
    template <class T> INLINE void fetch(const T *block, int group) const {
        __builtin_prefetch(block + group * Lanes<A>::count, 0, 2);  // beyond the map's end it does nothing
    }

    // A group's channels in a row, having asked for those of the row after it.
    template <class T> INLINE Vec<A> load_and_fetch(const T *block, int group) const {
        fetch(block + size.width * size.channels, group);
        return load(block, group);
    }

    // Where the block begins at a row's first position; the next position is `size.channels` further on.
    template <class T> T *at(T *map, Index row) const {
        return map + (image * size.height + row) * size.width * size.channels + first;
    }

    const Size size;  // its own: what is written elsewhere cannot change it
    const Index image, first, channels;
    const int groups;

  private:
    template <class T> RARE Vec<A> load_some(const T *block, int group) const {
        T some[Lanes<A>::count] = {};
        Vec<A> vector;
        std::copy_n(block + group * Lanes<A>::count, present(group), some);
        ::load(some, vector);
        return vector;
    }
    template <class T> RARE void store_some(const Vec<A> &vector, T *block, int group) const {
        T all[Lanes<A>::count];
        ::store(vector, all);
        std::copy_n(all, present(group), block + group * Lanes<A>::count);
    }
    static Index blocks(const Size &size) { return (size.channels + BLOCK - 1) / BLOCK; }
    Index present(int group) const { return std::min<Index>(Lanes<A>::count, channels - group * Lanes<A>::count); }
};

// Calls a pass with whether the channels fill their groups, as a constant.
template <class A, class Pass> void for_channels(const Size &size, Pass pass) {
    if (size.channels % Lanes<A>::count) pass(std::false_type());
    else pass(std::true_type());
}

template <class A> struct Column {
    Vec<A> above, here, below;
};

// A row of a map with those above and below it, zeros where there are none, as they lie in memory.
template <class T, class A> class ThreeRows {
  public:
    template <bool WHOLE> ThreeRows(const T *map, const Place<A, WHOLE> &place, Index row) {
        static const T zeros[Place<A>::BLOCK] = {};
        for (int i = 0; i < 3; ++i) {
            const Index at = row + i - 1;
            const bool there = at >= 0 && at < place.size.height;
            rows[i] = there ? place.at(map, at) : zeros;
            strides[i] = there ? place.size.channels : 0;
        }
    }
    // A group's three vectors in a column; and asks for what the row after these has there.
    template <bool WHOLE> INLINE Column<A> column(const Place<A, WHOLE> &place, Index w, int group) const {
        place.fetch(rows[2] + (place.size.width + w) * strides[2], group);
        const auto at = [&](int i) { return place.load(rows[i] + w * strides[i], group); };
        return {at(0), at(1), at(2)};
    }

  private:
    const T *rows[3];
    Index strides[3];
};

// A row of a block in scratch memory, one thread's own.
template <class A> class Row {
  public:
    explicit Row(Index width) : width(width), vectors(new Vec<A>[GROUPS * (width + 2)]()) {}

    // A group's vectors; there is one of zeros before the first and after the last.
    Vec<A> *operator[](int group) { return vectors.get() + group * (width + 2) + 1; }
    const Vec<A> *operator[](int group) const { return vectors.get() + group * (width + 2) + 1; }

    void clear() { std::fill_n(vectors.get(), GROUPS * (width + 2), Vec<A>{}); }

    // What `make` makes of every group's vectors in a row; rows outside the map are zero.
    template <class T, bool WHOLE, class Make>
    void read(const T *map, const Place<A, WHOLE> &place, Index row, Make make) {
        if (row < 0 || row >= place.size.height) return clear();
        const T *from = place.at(map, row);
        for (Index w = 0; w < width; ++w, from += place.size.channels)
            for (int group = 0; group < place.groups; ++group)
                (*this)[group][w] = make(place.load_and_fetch(from, group), group);
    }

  private:
    Index width;
    std::unique_ptr<Vec<A>[]> vectors;  // C++17: aligned as the type asks
};

// Three rows of a map; one more is read as the window moves down.
template <class A> struct Window {
    Row<A> above, here, below;

    explicit Window(Index width) : above(width), here(width), below(width) {}
    void move() {
        std::swap(above, here);
        std::swap(here, below);
    }
};

// Along a group's row with what is around each position: its own vector, or the 3×3 with their rows one after another, of
// which each is fetched once and handed on from position to position.
template <int COUNT, class A, class Use> INLINE void walk(const Window<A> &window, int group, Index width, Use use) {
    const Vec<A> *const here = window.here[group];
    if constexpr (COUNT == 1)
        for (Index w = 0; w < width; ++w) {
            const Vec<A> around[1] = {here[w]};
            use(w, around);
        }
    else {
        const Vec<A> *const above = window.above[group], *const below = window.below[group];
        Vec<A> around[9] = {{}, above[-1], above[0], {}, here[-1], here[0], {}, below[-1], below[0]};
        for (Index w = 0; w < width; ++w) {
            for (int row = 0; row < 9; row += 3) around[row] = around[row + 1], around[row + 1] = around[row + 2];
            around[2] = above[w + 1], around[5] = here[w + 1], around[8] = below[w + 1];
            use(w, around);
        }
    }
}
