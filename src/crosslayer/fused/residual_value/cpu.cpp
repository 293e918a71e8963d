// The end of a residual block together with the value that the B forms make of it, backward, pass by pass over the maps:
//
//     out = ReLU(BN(x) + s),  V = DW(out; K)
//
// out is not kept: it is made anew from x and s, which are.

#include "../cpu/output_gradient.h"
#include "value.h"

namespace {

// V, and Σ V over each image's map.
template <class T, class A, bool WHOLE>
void convolve(const T *x, const A *taps, Size size, T *value, A *sums, int threads) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
        const Place<A, WHOLE> place(program, size);
        Kernel<A, TAPS> kernels[GROUPS];
        Vec<A> sum[GROUPS] = {};
        for (int group = 0; group < place.groups; ++group) kernels[group] = kernel_of(place, taps, group);
        for (Index h = 0; h < size.height; ++h) {
            T *const to = place.at(value, h);
            for (int group = 0; group < place.groups; ++group) {
                Vec<A> total{};
                const auto use = [&](Index w, const Vec<A> &made) {
                    total += made;
                    place.store(made, to + w * place.size.channels, group);
                };
                convolve_row(place, group, Vec<A>{}, use, Convolved<T, A, TAPS>{{x, place, h}, kernels[group]});
                sum[group] += total;
            }
        }
        for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    }
}

template <class T, class A, bool WHOLE>
void gradients(
    Incoming<T, A> of_value, const EndedMaps<T, A> &maps, const A *taps, Size size, const Norm<A> &norm, A *products, int threads
) {
    value_gradients<T, A, WHOLE>(of_value, taps, size, products, threads, [&](const auto &place) {
        return OutputGradient<T, A>(maps, norm, place);
    });
}

// dx, from the g that the first pass wrote.
template <class T, class A>
void norm_gradient(const T *g, const T *x, Size size, Norm<A> norm, NormGradient<A> of_norm, T *dx, int threads) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const AllCoefficients<A> coefficients(place, norm, of_norm);
        each_tile(place, [&](const auto &tile) {
            tile.each([&](Index p, int group) {
                tile.store(coefficients.of(tile.load(g, p, group), tile.load(x, p, group), group), dx, p, group);
            });
        });
    });
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void convolve_##NAME(const T *x, const A *taps, Size size, T *value, A *sums, int threads) {            \
        for_channels<A>(size, [&](auto whole) {                                                                        \
            convolve<T, A, whole>(x, taps, size, value, sums, threads);                                                \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void gradients_##NAME(                                                                                  \
        Incoming<T, A> of_value, EndedMaps<T, A> maps, const A *taps, Size size, Norm<A> norm, A *products, int threads\
    ) {                                                                                                                \
        for_channels<A>(size, [&](auto whole) {                                                                        \
            gradients<T, A, whole>(of_value, maps, taps, size, norm, products, threads);                               \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void norm_gradient_##NAME(                                                                              \
        const T *g, const T *x, Size size, Norm<A> norm, NormGradient<A> of_norm, T *dx, int threads                   \
    ) {                                                                                                                \
        norm_gradient(g, x, size, norm, of_norm, dx, threads);                                                         \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
