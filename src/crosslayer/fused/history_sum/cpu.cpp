// The sum over stored layers, o = Σ_m f_m ⊙ V_m, and what follows it, pass by pass over the maps:
//
//     out = x + ReLU(BN(o))
//
// With a normalisation o is never written: every pass sums the layers anew, tile by tile.

#include "../cpu/moments.h"
#include "../cpu/normalisation.h"
#include "history.h"

namespace {

// Beginning with `start` of each image and channel, if there is that, at every position.
template <class T, class A>
void weighted_sum(History<T, A> history, const A *start, Size size, T *out, int threads) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        Vec<A> same[GROUPS] = {};
        if (start)
            for (int group = 0; group < place.groups; ++group) same[group] = place.of(start, place.image, group);
        each_tile(place, [&](const auto &tile) {
            Values<A> sums;
            tile.each([&](Index p, int group) { sums[p][group] = same[group]; });
            add_layers(tile, history, sums);
            tile.each([&](Index p, int group) { tile.store(sums[p][group], out, p, group); });
        });
    });
}

// df_m = Σ dout ⊙ V_m over each image's map.
template <class T, class A>
void factor_gradients(const T *gradient, const T *const *values, Index layers, Size size, A *out, int threads) {
    const Size whole = flat(size);
#pragma omp parallel num_threads(threads)
    {
        Products<A> products(layers);
#pragma omp for
        for (Index program = 0; program < Place<A>::programs(whole); ++program) {
            const Place<A> place(program, whole);
            products.clear();
            each_tile(place, [&](const auto &tile) {
                Values<A> incoming;
                tile.each([&](Index p, int group) { incoming[p][group] = tile.load(gradient, p, group); });
                products.add(tile, values, incoming);
            });
            products.put(place, out);
        }
    }
}

// o's mean and biased variance in every channel.
template <class T, class A> void moments(History<T, A> history, Size size, A *mean, A *variance, int threads) {
    moments_of<A>(size, mean, variance, threads, [=](const auto &tile, Values<A> &o) {
        sum_over_layers(tile, history, o);
    });
}

template <class T, class A>
void normalise(const T *x, History<T, A> history, Size size, Norm<A> norm, T *out, int threads) {
    normalised<T, A>(size, norm, out, nullptr, threads, [=](const auto &tile, const auto &affine, Values<A> &made) {
        sum_over_layers(tile, history, made);
        tile.each([&](Index p, int group) {
            made[p][group] = tile.load(x, p, group) + rectified<A>(affine.of(made[p][group], group));
        });
    });
}

// o, and the gradient that comes through ReLU.
template <class T, class A, bool WHOLE>
INLINE void incoming(
    const Tile<A, WHOLE> &tile, const T *gradient, const History<T, A> &history, const Affine<A> &affine, Values<A> &o,
    Values<A> &g
) {
    sum_over_layers(tile, history, o);
    tile.each([&](Index p, int group) {
        g[p][group] = through_relu<A>(tile.load(gradient, p, group), affine.of(o[p][group], group));
    });
}

// Σ g and Σ g ⊙ (o - μ) over each image's map, with g the gradient through ReLU.
template <class T, class A>
void norm_sums(
    const T *gradient, History<T, A> history, Size size, Norm<A> norm, A *plain, A *weighted, int threads
) {
    norm_sums_of(size, norm, plain, weighted, threads, [=](const auto &tile, const auto &affine, auto &o, auto &g) {
        incoming(tile, gradient, history, affine, o, g);
    });
}

// do, and df_m = Σ do ⊙ V_m over each image's map.
template <class T, class A>
void norm_gradients(
    const T *gradient, History<T, A> history, Size size, Norm<A> norm, NormGradient<A> of_norm, T *sum_gradient,
    A *factor_gradients, int threads
) {
    const Size whole = flat(size);
#pragma omp parallel num_threads(threads)
    {
        Products<A> products(history.layers);
#pragma omp for
        for (Index program = 0; program < Place<A>::programs(whole); ++program) {
            const Place<A> place(program, whole);
            const Affine<A> affine(place, norm);
            const AllCoefficients<A> coefficients(place, norm, of_norm);
            products.clear();
            each_tile(place, [&](const auto &tile) {
                Values<A> o, g;
                incoming(tile, gradient, history, affine, o, g);
                tile.each([&](Index p, int group) {
                    g[p][group] = coefficients.of(g[p][group], o[p][group], group);
                    tile.store(g[p][group], sum_gradient, p, group);
                });
                products.add(tile, history.values, g);
            });
            products.put(place, factor_gradients);
        }
    }
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void weighted_sum_##NAME(                                                                               \
        History<T, A> history, const A *start, Size size, T *out, int threads                                          \
    ) {                                                                                                                \
        weighted_sum(history, start, size, out, threads);                                                              \
    }                                                                                                                  \
    extern "C" void factor_gradients_##NAME(                                                                           \
        const T *gradient, const T *const *values, Index layers, Size size, A *out, int threads                        \
    ) {                                                                                                                \
        factor_gradients(gradient, values, layers, size, out, threads);                                                \
    }                                                                                                                  \
    extern "C" void moments_##NAME(History<T, A> history, Size size, A *mean, A *variance, int threads) {              \
        moments(history, size, mean, variance, threads);                                                               \
    }                                                                                                                  \
    extern "C" void normalise_##NAME(                                                                                  \
        const T *x, History<T, A> history, Size size, Norm<A> norm, T *out, int threads                                \
    ) {                                                                                                                \
        normalise(x, history, size, norm, out, threads);                                                               \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        const T *gradient, History<T, A> history, Size size, Norm<A> norm, A *plain, A *weighted, int threads          \
    ) {                                                                                                                \
        norm_sums(gradient, history, size, norm, plain, weighted, threads);                                            \
    }                                                                                                                  \
    extern "C" void norm_gradients_##NAME(                                                                             \
        const T *gradient, History<T, A> history, Size size, Norm<A> norm, NormGradient<A> of_norm, T *sum_gradient,   \
        A *factors, int threads                                                                                        \
    ) {                                                                                                                \
        norm_gradients(gradient, history, size, norm, of_norm, sum_gradient, factors, threads);                        \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
