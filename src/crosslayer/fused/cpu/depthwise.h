// Depth-wise convolutions of rows, with kernels that may differ from image to image, and their gradients.

#pragma once

#include "maps.h"

constexpr int TAPS = 9;

// A group's depth-wise 3×3 kernel, or its one tap in the middle.
template <class A, int COUNT> struct Kernel {
    Vec<A> taps[COUNT];

    INLINE Vec<A> at(const Vec<A> (&around)[COUNT]) const {
        if constexpr (COUNT == 1) return taps[0] * around[0];
        else  // two sums, so that neither waits for all of the other
            return (taps[0] * around[0] + taps[1] * around[1] + taps[2] * around[2] + taps[3] * around[3]) +
                   (taps[4] * around[4] + taps[5] * around[5] + taps[6] * around[6] + taps[7] * around[7] +
                    taps[8] * around[8]);
    }
    // Adds a column to the sum of the position whose left, middle or right column it is.
    INLINE void left(const Column<A> &column, Vec<A> &sum) const { of_column<0>(column, sum); }
    INLINE void middle(const Column<A> &column, Vec<A> &sum) const { of_column<1>(column, sum); }
    INLINE void right(const Column<A> &column, Vec<A> &sum) const { of_column<2>(column, sum); }

    // The kernel of the transposed convolution, which gradients go through.
    INLINE Kernel transposed() const {
        Kernel turned = *this;
        std::reverse(turned.taps, turned.taps + COUNT);
        return turned;
    }
    INLINE void multiply(const Vec<A> &factor) {
        for (Vec<A> &tap : taps) tap *= factor;
    }

  private:
    template <int I> INLINE void of_column(const Column<A> &column, Vec<A> &sum) const {
        if constexpr (COUNT == TAPS) {  // one after another: positions wait for themselves only, and nothing is added up later
            sum += taps[I] * column.above;
            sum += taps[I + 3] * column.here;
            sum += taps[I + 6] * column.below;
        } else if constexpr (I == 1) sum += taps[0] * column.here;
    }
};

// Of a taps × channels matrix.
template <class A, bool WHOLE> INLINE Kernel<A, TAPS> kernel_of(const Place<A, WHOLE> &place, const A *taps, int group) {
    Kernel<A, TAPS> made;
    for (int i = 0; i < TAPS; ++i) made.taps[i] = place.of(taps, i, group);
    return made;
}

// A group's row of a map with its kernel, read as it lies.
template <class T, class A, int COUNT> struct Convolved {
    ThreeRows<T, A> rows;
    Kernel<A, COUNT> kernel;
};

// `start` plus the sum of convolved rows, position by position. What is around a position is fetched column by column, and each
// column goes into the sums of the three positions that see it: so nine taps of two maps fit into registers.
template <class A, bool WHOLE, class Use, class... Rows>
INLINE void convolve_row(const Place<A, WHOLE> &place, int group, const Vec<A> &start, Use use, const Rows &...rows) {
    Vec<A> done, next = start, begun = start;
    const auto take = [&](Index w) INLINE_LAMBDA {
        done = next, next = begun, begun = start;
        const auto add = [&](const auto &convolved) INLINE_LAMBDA {
            const Column<A> column = convolved.rows.column(place, w, group);
            convolved.kernel.right(column, done);
            convolved.kernel.middle(column, next);
            convolved.kernel.left(column, begun);
        };
        (add(rows), ...);
    };
    take(0);
    for (Index w = 1; w < place.size.width; ++w) {
        take(w);
        use(w - 1, done);
    }
    use(place.size.width - 1, next);
}

// Σ dz ⊙ (map shifted by each of a kernel's taps), in one group.
template <class A, int COUNT> struct TapProducts {
    Vec<A> sums[COUNT] = {};

    INLINE void add(const Vec<A> (&dz)[COUNT], const Vec<A> &value) {
        for (int i = 0; i < COUNT; ++i) sums[i] += dz[COUNT - 1 - i] * value;
    }
    template <bool WHOLE> void put(const Place<A, WHOLE> &place, A *matrix, int group) const {
        for (int i = 0; i < COUNT; ++i) place.put(sums[i], matrix, place.image * COUNT + i, group);
    }
};

// A row of gradients in one group: `own` gives a position's vector of the map that was convolved, which goes into the products;
// `use` receives that and DWᵀ(dz; K) there. Both are given how far from the row's beginning the position lies.
template <class A, int COUNT, bool WHOLE, class Own, class Use>
INLINE void walk_gradient(
    Kernel<A, COUNT> transposed, const Window<A> &dz, const Place<A, WHOLE> &place, int group,
    TapProducts<A, COUNT> &products, Own own, Use use
) {
    TapProducts<A, COUNT> local = products;
    walk<COUNT>(dz, group, place.size.width, [&](Index w, const auto &around) {
        const Index at = w * place.size.channels;
        const Vec<A> value = own(at);
        use(at, value, transposed.at(around));
        local.add(around, value);
    });
    products = local;
}

// The same for a map that lies in memory, whose next row is asked for; written is DWᵀ(dz; K) plus what `passed` adds.
template <class T, class A, int COUNT, bool WHOLE, class Passed>
INLINE void write_gradient(
    const Kernel<A, COUNT> &transposed, const Window<A> &dz, const T *map, const Place<A, WHOLE> &place, int group, T *to,
    TapProducts<A, COUNT> &products, Passed passed
) {
    const auto own = [&](Index at) INLINE_LAMBDA { return place.load_and_fetch(map + at, group); };
    walk_gradient(transposed, dz, place, group, products, own, [&](Index at, const Vec<A> &, const Vec<A> &made) INLINE_LAMBDA {
        place.store(passed(at, made), to + at, group);
    });
}
