// The sum over stored layers with what follows it, pass by pass over the maps:
//
//     o = Σ_m f_m ⊙ V_m,   out = x + ReLU(slope ⊙ o + shift)
//
// o is never written: every pass sums the layers anew, tile by tile.

#include "history.h"
#include "moments.h"

namespace {

// o's mean and biased variance in every channel. Over each image's map first the mean and the sum of squared deviations from
// it, both by way of the deviations from o's first position, so that a mean far from zero costs no digits.
template <class T, class A> void moments(History<T, A> history, Size size, A *mean, A *variance, int threads) {
    const Size whole = flat(size);
    std::vector<A> means(size.batch * size.channels), deviations(means.size());
    const A share = A(1) / whole.width;
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(whole); ++program) {
        const Place<A> place(program, whole);
        Vec<A> start[GROUPS], sum[GROUPS] = {}, squares[GROUPS] = {};
        bool begun = false;
        each_tile(place, [&](const auto &tile) {
            Sums<A> o;
            sum_over_layers(tile, history, o);
            if (!begun) tile.groups([&](int group) { start[group] = o[0][group]; });
            begun = true;
            tile.each([&](Index p, int group) {
                const Vec<A> deviation = o[p][group] - start[group];
                sum[group] += deviation;
                squares[group] += deviation * deviation;
            });
        });
        for (int group = 0; group < place.groups; ++group) {
            place.put(start[group] + sum[group] * share, means.data(), place.image, group);
            place.put(squares[group] - sum[group] * sum[group] * share, deviations.data(), place.image, group);
        }
    }
    over_images(means.data(), deviations.data(), size, mean, variance);
}

// What the normalisation does, with a slope and a shift for each image and channel.
template <class A> struct Affine {
    const A *slopes, *shifts;

    template <bool WHOLE> INLINE Vec<A> of(const Tile<A, WHOLE> &tile, const Vec<A> &o, int group) const {
        return tile.of(slopes, tile.place.image, group) * o + tile.of(shifts, tile.place.image, group);
    }
};

template <class T, class A>
void normalise(const T *x, History<T, A> history, Size size, Affine<A> affine, T *out, int threads) {
    const Size whole = flat(size);
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(whole); ++program) {
        const Place<A> place(program, whole);
        each_tile(place, [&](const auto &tile) {
            Sums<A> o;
            sum_over_layers(tile, history, o);
            tile.each([&](Index p, int group) {
                const Vec<A> made = affine.of(tile, o[p][group], group), branch = made > 0 ? made : Vec<A>{};
                tile.store(tile.load(x, p, group) + branch, out, p, group);
            });
        });
    }
}

// o, and the gradient that comes through ReLU.
template <class T, class A, bool WHOLE>
INLINE void rectified(
    const Tile<A, WHOLE> &tile, const T *gradient, const History<T, A> &history, const Affine<A> &affine, Sums<A> &o,
    Sums<A> &incoming
) {
    sum_over_layers(tile, history, o);
    tile.each([&](Index p, int group) {
        incoming[p][group] = affine.of(tile, o[p][group], group) > 0 ? tile.load(gradient, p, group) : Vec<A>{};
    });
}

// Σ g and Σ g ⊙ (o - μ) over each image's map, with g the gradient through ReLU.
template <class T, class A>
void norm_sums(
    const T *gradient, History<T, A> history, Size size, Affine<A> affine, const A *mean, A *plain, A *weighted,
    int threads
) {
    const Size whole = flat(size);
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(whole); ++program) {
        const Place<A> place(program, whole);
        Vec<A> sum[GROUPS] = {}, product[GROUPS] = {};
        each_tile(place, [&](const auto &tile) {
            Sums<A> o, incoming;
            rectified(tile, gradient, history, affine, o, incoming);
            tile.each([&](Index p, int group) {
                sum[group] += incoming[p][group];
                product[group] += incoming[p][group] * (o[p][group] - tile.of(mean, 0, group));
            });
        });
        for (int group = 0; group < place.groups; ++group) {
            place.put(sum[group], plain, place.image, group);
            place.put(product[group], weighted, place.image, group);
        }
    }
}

// do = α g - β - γ (o - μ), with α for each image, the others for all.
template <class A> struct Coefficients {
    const A *alpha, *beta, *gamma, *mean;
};

// do, and df_m = Σ do ⊙ V_m over each image's map.
template <class T, class A>
void norm_gradients(
    const T *gradient, History<T, A> history, Size size, Affine<A> affine, Coefficients<A> given, T *sum_gradient,
    A *factor_gradients, int threads
) {
    const Size whole = flat(size);
#pragma omp parallel num_threads(threads)
    {
        Products<A> products(history.layers);
#pragma omp for
        for (Index program = 0; program < Place<A>::programs(whole); ++program) {
            const Place<A> place(program, whole);
            products.clear();
            each_tile(place, [&](const auto &tile) {
                Sums<A> o, outgoing;
                rectified(tile, gradient, history, affine, o, outgoing);
                tile.each([&](Index p, int group) {
                    const Vec<A> deviation = o[p][group] - tile.of(given.mean, 0, group);
                    outgoing[p][group] = tile.of(given.alpha, place.image, group) * outgoing[p][group] -
                                         (tile.of(given.beta, 0, group) + tile.of(given.gamma, 0, group) * deviation);
                    tile.store(outgoing[p][group], sum_gradient, p, group);
                });
                products.add(tile, history.values, outgoing);
            });
            products.put(place, factor_gradients);
        }
    }
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void moments_##NAME(History<T, A> history, Size size, A *mean, A *variance, int threads) {              \
        moments(history, size, mean, variance, threads);                                                               \
    }                                                                                                                  \
    extern "C" void normalise_##NAME(                                                                                  \
        const T *x, History<T, A> history, Size size, Affine<A> affine, T *out, int threads                            \
    ) {                                                                                                                \
        normalise(x, history, size, affine, out, threads);                                                             \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        const T *gradient, History<T, A> history, Size size, Affine<A> affine, const A *mean, A *plain, A *weighted,   \
        int threads                                                                                                    \
    ) {                                                                                                                \
        norm_sums(gradient, history, size, affine, mean, plain, weighted, threads);                                    \
    }                                                                                                                  \
    extern "C" void norm_gradients_##NAME(                                                                             \
        const T *gradient, History<T, A> history, Size size, Affine<A> affine, Coefficients<A> given, T *sum_gradient, \
        A *factors, int threads                                                                                        \
    ) {                                                                                                                \
        norm_gradients(gradient, history, size, affine, given, sum_gradient, factors, threads);                        \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
