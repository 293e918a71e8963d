// The end of a residual block together with the value that the B forms make of it, backward, pass by pass over the maps:
//
//     out = ReLU(BN(x) + s),  V = DW(out; K)
//
// out is not kept: it is made anew from x and s, which are.

#include "output_gradient.h"
#include "value.h"

namespace {

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
