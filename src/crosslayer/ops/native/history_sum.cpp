// The sum over stored layers, Σ_m f_m ⊙ V_m, and the gradient of its factors.

#include "history.h"

namespace {

template <class T, class A> void weighted_sum(History<T, A> history, Size size, T *out, int threads) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        each_tile(place, [&](const auto &tile) {
            Values<A> sums;
            sum_over_layers(tile, history, sums);
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

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void weighted_sum_##NAME(History<T, A> history, Size size, T *out, int threads) {                       \
        weighted_sum(history, size, out, threads);                                                                     \
    }                                                                                                                  \
    extern "C" void factor_gradients_##NAME(                                                                           \
        const T *gradient, const T *const *values, Index layers, Size size, A *out, int threads                        \
    ) {                                                                                                                \
        factor_gradients(gradient, values, layers, size, out, threads);                                                \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
