// The merge of the L forms with its normalisation:
//
//     z = G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s)
//
// An image's channel has a kernel of its own in each map: the gate goes into K, the scale a into the centre of K_s, which
// has nine taps or that one only.

#pragma once

#include "depthwise.h"
#include "normalisation.h"

// What z is made of, besides the maps.
template <class A> struct Terms {
    const A *kernel, *gate, *shortcut_kernel, *scale;  // taps × channels, batch × channels
    const A *times;                                    // batch × channels: z is multiplied with it, if it is there
};

template <class A, bool WHOLE>
INLINE Kernel<A, TAPS> value_kernel(const Place<A, WHOLE> &place, const Terms<A> &terms, int group) {
    Kernel<A, TAPS> made = kernel_of(place, terms.kernel, group);
    made.multiply(place.of(terms.gate, place.image, group));
    if (terms.times) made.multiply(place.of(terms.times, place.image, group));
    return made;
}
template <int COUNT, class A, bool WHOLE>
INLINE Kernel<A, COUNT> shortcut_kernel(const Place<A, WHOLE> &place, const Terms<A> &terms, int group) {
    Kernel<A, COUNT> made{};
    if constexpr (COUNT == TAPS) made = kernel_of(place, terms.shortcut_kernel, group);
    made.taps[COUNT / 2] += place.of(terms.scale, place.image, group);
    if (terms.times) made.multiply(place.of(terms.times, place.image, group));
    return made;
}

// z, row by row.
template <class T, class A, bool CARRIED> class Merge {
  public:
    static constexpr int SHORTCUT_TAPS = CARRIED ? TAPS : 1;

    template <bool WHOLE>
    Merge(const T *x, const T *shortcut, const Terms<A> &terms, const Place<A, WHOLE> &place)
        : x(x), shortcut(shortcut) {
        for (int group = 0; group < place.groups; ++group) {
            of_value[group] = value_kernel(place, terms, group);
            of_shortcut[group] = shortcut_kernel<SHORTCUT_TAPS>(place, terms, group);
        }
    }

    // From here on x plus what the normalisation makes of z: one more kernel of x and the shortcut, and a constant.
    void normalise_and_add(const Affine<A> &affine, int groups) {
        for (int group = 0; group < groups; ++group) {
            start[group] = affine.of(Vec<A>{}, group);
            of_value[group].multiply(affine.slope(group));
            of_shortcut[group].multiply(affine.slope(group));
            of_value[group].taps[TAPS / 2] += 1;
        }
    }

    // Calls `use` with every position of a group's row and with z there.
    template <bool WHOLE, class Use>
    INLINE void each(const Place<A, WHOLE> &place, Index row, int group, Use use) const {
        const Convolved<T, A, TAPS> value{{x, place, row}, of_value[group]};
        const Convolved<T, A, SHORTCUT_TAPS> carried{{shortcut, place, row}, of_shortcut[group]};
        convolve_row(place, group, start[group], use, value, carried);
    }

  private:
    const T *x, *shortcut;
    Kernel<A, TAPS> of_value[GROUPS];
    Kernel<A, SHORTCUT_TAPS> of_shortcut[GROUPS];
    Vec<A> start[GROUPS] = {};
};

// Calls a pass with whether the channels fill their groups, and whether the shortcut has nine taps, as constants.
template <class A, class Pass> void for_each(const Size &size, const Terms<A> &terms, Pass pass) {
    for_channels<A>(size, [&](auto whole) {
        if (terms.shortcut_kernel) pass(whole, std::true_type());
        else pass(whole, std::false_type());
    });
}

// For a z that is not written: its statistics were known beforehand. And Σ out over each image's map.
template <class T, class A, bool CARRIED, bool WHOLE>
void merge_and_normalise(
    const T *x, const T *shortcut, Terms<A> terms, Size size, Norm<A> norm, T *out, A *sums, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
        const Place<A, WHOLE> place(program, size);
        Merge<T, A, CARRIED> merge(x, shortcut, terms, place);
        merge.normalise_and_add(Affine<A>(place, norm), place.groups);
        Vec<A> sum[GROUPS] = {};
        for (Index h = 0; h < size.height; ++h) {
            T *const to = place.at(out, h);
            for (int group = 0; group < place.groups; ++group) {
                Vec<A> total{};
                merge.each(place, h, group, [&](Index w, const Vec<A> &made) {
                    total += made;
                    place.store(made, to + w * place.size.channels, group);
                });
                sum[group] += total;
            }
        }
        for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    }
}
