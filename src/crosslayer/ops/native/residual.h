// The end of a residual block:
//
//     out = ReLU(BN(x) + s)

#pragma once

#include "normalisation.h"

// Writes it, and Σ out over each image's map.
template <class T, class A>
void output(const T *x, const T *shortcut, Size size, Norm<A> norm, T *out, A *sums, int threads) {
    normalised(size, norm, out, sums, threads, [=](const auto &tile, const auto &affine, Values<A> &made) {
        tile.each([&](Index p, int group) {
            made[p][group] = rectified<A>(affine.of(tile.load(x, p, group), group) + tile.load(shortcut, p, group));
        });
    });
}
