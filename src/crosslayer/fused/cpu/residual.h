// The end of a residual block:
//
//     out = ReLU(BN(x) + s)

#pragma once

#include "normalisation.h"

// Over each image's map, how often the output is above zero, and Σ (x - μ) there: what a gradient that is the same everywhere adds
// to sums over ReLU's.
template <class A> struct Above {
    A *count, *deviation;
};

// Writes it; and Σ out over each image's map, with `above` if it is counted.
template <class T, class A, bool COUNTED>
void output(const T *x, const T *shortcut, Size size, Norm<A> norm, T *out, A *sums, Above<A> above, int threads) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const Affine<A> affine(place, norm);
        Vec<A> centre[GROUPS], sum[GROUPS] = {}, count[GROUPS] = {}, deviation[GROUPS] = {};
        for (int group = 0; group < place.groups; ++group) centre[group] = place.of(norm.mean, 0, group);
        each_tile(place, [&](const auto &tile) {
            tile.each([&](Index p, int group) {
                const Vec<A> own = tile.load(x, p, group);
                const Vec<A> made = rectified<A>(affine.of(own, group) + tile.load(shortcut, p, group));
                tile.store(made, out, p, group);
                sum[group] += made;
                if constexpr (COUNTED) {
                    count[group] += through_relu<A>(Vec<A>{} + 1, made);
                    deviation[group] += through_relu<A>(own - centre[group], made);
                }
            });
        });
        for (int group = 0; group < place.groups; ++group) {
            place.put(sum[group], sums, place.image, group);
            if constexpr (COUNTED) {
                place.put(count[group], above.count, place.image, group);
                place.put(deviation[group], above.deviation, place.image, group);
            }
        }
    });
}
