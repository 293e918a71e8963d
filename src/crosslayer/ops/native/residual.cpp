// The end of a residual block, pass by pass over the maps:
//
//     out = ReLU(BN(x) + s)

#include "moments.h"
#include "normalisation.h"

namespace {

template <class T, class A> void moments(const T *x, Size size, A *mean, A *variance, int threads) {
    moments_of<A>(size, mean, variance, threads, [=](const auto &tile, Values<A> &made) {
        tile.each([&](Index p, int group) { made[p][group] = tile.load(x, p, group); });
    });
}

// Over each image's map, how often the output is above zero, and Σ (x - μ) there: what a gradient that is the same everywhere adds
// to sums over ReLU's.
template <class A> struct Above {
    A *count, *deviation;
};

// And Σ out over each image's map; `above`, if it is there.
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

// dx, and ds = g plus what is known of it beforehand, if anything is.
template <class T, class A>
void gradients(
    Incoming<T, A> gradient, const T *x, const T *shortcut, const T *known, Size size, Norm<A> norm,
    NormGradient<A> of_norm, T *dx, T *ds, int threads
) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const Affine<A> affine(place, norm);
        const AllCoefficients<A> coefficients(place, norm, of_norm);
        const auto write = [&](const auto &tile, auto adds) {
            tile.each([&](Index p, int group) {
                const Vec<A> own = tile.load(x, p, group);
                const Vec<A> out = affine.of(own, group) + tile.load(shortcut, p, group);
                const Vec<A> g = through_relu<A>(gradient.at(tile, p, group), out);
                tile.store(coefficients.of(g, own, group), dx, p, group);
                if constexpr (adds) tile.store(g + tile.load(known, p, group), ds, p, group);
                else tile.store(g, ds, p, group);
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
        Incoming<T, A> g, const T *x, const T *shortcut, const T *known, Size size, Norm<A> norm,                      \
        NormGradient<A> of_norm, T *dx, T *ds, int threads                                                             \
    ) {                                                                                                                \
        gradients(g, x, shortcut, known, size, norm, of_norm, dx, ds, threads);                                        \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
