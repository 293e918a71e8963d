// The passes of a residual block's end over the maps, and backward; the one that writes the output is in residual.h.

#include "../cpu/moments.h"
#include "../cpu/residual.h"

namespace {

template <class T, class A> void moments(const T *x, Size size, A *mean, A *variance, int threads) {
    moments_of<A>(size, mean, variance, threads, [=](const auto &tile, Values<A> &made) {
        tile.each([&](Index p, int group) { made[p][group] = tile.load(x, p, group); });
    });
}

// Σ g and Σ g ⊙ (x - μ) over each image's map, with g the gradient through ReLU.
template <class T, class A>
void norm_sums(
    Incoming<T, A> gradient, const T *x, const T *shortcut, Size size, Norm<A> norm, A *plain, A *weighted, int threads
) {
    const auto make = [=](const auto &tile, const auto &affine, Values<A> &z, Values<A> &g) {
        tile.each([&](Index p, int group) {
            z[p][group] = tile.load(x, p, group);
            const Vec<A> out = affine.of(z[p][group], group) + tile.load(shortcut, p, group);
            g[p][group] = through_relu<A>(gradient.at(tile, p, group), out);
        });
    };
    norm_sums_of(size, norm, plain, weighted, threads, make);
}

// dx, and ds = g plus what is known of it beforehand and what its pool adds everywhere, if there are such.
template <class T, class A>
void gradients(
    Incoming<T, A> gradient, const T *x, const T *shortcut, const T *known, const A *of_pool, Size size,
    Norm<A> norm, NormGradient<A> of_norm, T *dx, T *ds, int threads
) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const Affine<A> affine(place, norm);
        const AllCoefficients<A> coefficients(place, norm, of_norm);
        Vec<A> same[GROUPS] = {};
        if (of_pool)
            for (int group = 0; group < place.groups; ++group) same[group] = place.of(of_pool, place.image, group);
        const auto write = [&](const auto &tile, auto adds) {
            tile.each([&](Index p, int group) {
                const Vec<A> own = tile.load(x, p, group);
                const Vec<A> out = affine.of(own, group) + tile.load(shortcut, p, group);
                const Vec<A> g = through_relu<A>(gradient.at(tile, p, group), out);
                tile.store(coefficients.of(g, own, group), dx, p, group);
                if constexpr (adds) tile.store(g + tile.load(known, p, group) + same[group], ds, p, group);
                else tile.store(g + same[group], ds, p, group);
            });
        };
        if (known) each_tile(place, [&](const auto &tile) { write(tile, std::true_type()); });
        else each_tile(place, [&](const auto &tile) { write(tile, std::false_type()); });
    });
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void moments_##NAME(const T *x, Size size, A *mean, A *variance, int threads) {                         \
        moments(x, size, mean, variance, threads);                                                                     \
    }                                                                                                                  \
    extern "C" void output_##NAME(                                                                                     \
        const T *x, const T *shortcut, Size size, Norm<A> norm, T *out, A *sums, Above<A> above, int threads           \
    ) {                                                                                                                \
        if (above.count) output<T, A, true>(x, shortcut, size, norm, out, sums, above, threads);                       \
        else output<T, A, false>(x, shortcut, size, norm, out, sums, above, threads);                                  \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        Incoming<T, A> g, const T *x, const T *shortcut, Size size, Norm<A> norm, A *plain, A *weighted, int threads   \
    ) {                                                                                                                \
        norm_sums(g, x, shortcut, size, norm, plain, weighted, threads);                                               \
    }                                                                                                                  \
    extern "C" void gradients_##NAME(                                                                                  \
        Incoming<T, A> g, const T *x, const T *shortcut, const T *known, const A *of_pool, Size size,                  \
        Norm<A> norm, NormGradient<A> of_norm, T *dx, T *ds, int threads                                                             \
    ) {                                                                                                                \
        gradients(g, x, shortcut, known, of_pool, size, norm, of_norm, dx, ds, threads);                                        \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
