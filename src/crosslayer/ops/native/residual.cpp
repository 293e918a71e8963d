// The passes of a residual block's end over the maps, and backward; the one that writes the output is in residual.h.

#include "moments.h"
#include "residual.h"

namespace {

template <class T, class A> void moments(const T *x, Size size, A *mean, A *variance, int threads) {
    moments_of<A>(size, mean, variance, threads, [=](const auto &tile, Values<A> &made) {
        tile.each([&](Index p, int group) { made[p][group] = tile.load(x, p, group); });
    });
}

// Σ g and Σ g ⊙ (x - μ) over each image's map, with g the gradient through ReLU.
template <class T, class A>
void norm_sums(
    Incoming<T, A> gradient, const T *out, const T *x, Size size, Norm<A> norm, A *plain, A *weighted, int threads
) {
    norm_sums_of(size, norm, plain, weighted, threads, [=](const auto &tile, const auto &, Values<A> &z, Values<A> &g) {
        tile.each([&](Index p, int group) {
            z[p][group] = tile.load(x, p, group);
            g[p][group] = through_relu<A>(gradient.at(tile, p, group), tile.load(out, p, group));
        });
    });
}

// dx, and ds = g.
template <class T, class A>
void gradients(
    Incoming<T, A> gradient, const T *out, const T *x, Size size, Norm<A> norm, NormGradient<A> of_norm, T *dx, T *ds,
    int threads
) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const AllCoefficients<A> coefficients(place, norm, of_norm);
        each_tile(place, [&](const auto &tile) {
            tile.each([&](Index p, int group) {
                const Vec<A> g = through_relu<A>(gradient.at(tile, p, group), tile.load(out, p, group));
                tile.store(coefficients.of(g, tile.load(x, p, group), group), dx, p, group);
                tile.store(g, ds, p, group);
            });
        });
    });
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void moments_##NAME(const T *x, Size size, A *mean, A *variance, int threads) {                         \
        moments(x, size, mean, variance, threads);                                                                     \
    }                                                                                                                  \
    extern "C" void output_##NAME(                                                                                     \
        const T *x, const T *shortcut, Size size, Norm<A> norm, T *out, A *sums, int threads                           \
    ) {                                                                                                                \
        output(x, shortcut, size, norm, out, sums, threads);                                                           \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        Incoming<T, A> g, const T *out, const T *x, Size size, Norm<A> norm, A *plain, A *weighted, int threads        \
    ) {                                                                                                                \
        norm_sums(g, out, x, size, norm, plain, weighted, threads);                                                    \
    }                                                                                                                  \
    extern "C" void gradients_##NAME(                                                                                  \
        Incoming<T, A> g, const T *out, const T *x, Size size, Norm<A> norm, NormGradient<A> of_norm, T *dx, T *ds,    \
        int threads                                                                                                    \
    ) {                                                                                                                \
        gradients(g, out, x, size, norm, of_norm, dx, ds, threads);                                                    \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
