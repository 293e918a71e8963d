// The sum over stored layers, Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel; and its gradients.

#include "maps.h"

namespace {

// Positions are taken in stretches that stay in the first cache while the layers go by.
constexpr Index STRETCH = 64;

template <class T, class A>
void weighted_sum(const T *const *values, const A *factors, Index layers, Size size, T *out, int threads) {
    const Size flat{size.batch, 1, size.height * size.width, size.channels};
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(flat); ++program) {
        const Place<A> place(program, flat);
        Vec<A> sums[STRETCH];
        for (Index first = 0; first < flat.width; first += STRETCH)
            for (int group = 0; group < place.groups; ++group) {
                const Index count = std::min(STRETCH, flat.width - first), offset = first * size.channels;
                std::fill_n(sums, count, Vec<A>{});
                for (Index m = 0; m < layers; ++m) {
                    const Vec<A> factor = place.of(factors, place.image * layers + m, group);
                    const T *const from = place.at(values[m], 0) + offset;
                    for (Index p = 0; p < count; ++p)
                        sums[p] += factor * place.load(from + p * size.channels, group);
                }
                T *const to = place.at(out, 0) + offset;
                for (Index p = 0; p < count; ++p) place.store(sums[p], to + p * size.channels, group);
            }
    }
}

// dV_m = f_m ⊙ dout, df_m = Σ dout ⊙ V_m over each image's map.
template <class T, class A>
void gradients(
    const T *gradient, const T *const *values, const A *factors, Index layers, Size size, T *const *value_gradients,
    A *factor_gradients, int threads
) {
    const Size flat{size.batch, 1, size.height * size.width, size.channels};
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(flat); ++program) {
        const Place<A> place(program, flat);
        const T *const incoming = place.at(gradient, 0);
        for (Index m = 0; m < layers; ++m) {
            const T *const value = place.at(values[m], 0);
            T *const to = place.at(value_gradients[m], 0);
            Vec<A> sums[GROUPS] = {};
            for (Index first = 0; first < flat.width; first += STRETCH)
                for (int group = 0; group < place.groups; ++group) {
                    const Vec<A> factor = place.of(factors, place.image * layers + m, group);
                    Vec<A> sum{};
                    for (Index p = first; p < std::min(flat.width, first + STRETCH); ++p) {
                        const Vec<A> here = place.load(incoming + p * size.channels, group);
                        sum += here * place.load(value + p * size.channels, group);
                        place.store(factor * here, to + p * size.channels, group);
                    }
                    sums[group] += sum;
                }
            for (int group = 0; group < place.groups; ++group)
                place.put(sums[group], factor_gradients, place.image * layers + m, group);
        }
    }
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void weighted_sum_##NAME(                                                                               \
        const T *const *values, const A *factors, Index layers, Size size, T *out, int threads                         \
    ) {                                                                                                                \
        weighted_sum<T, A>(values, factors, layers, size, out, threads);                                               \
    }                                                                                                                  \
    extern "C" void gradients_##NAME(                                                                                  \
        const T *g, const T *const *values, const A *factors, Index layers, Size size, T *const *value_gradients,      \
        A *factor_gradients, int threads                                                                               \
    ) {                                                                                                                \
        gradients<T, A>(g, values, factors, layers, size, value_gradients, factor_gradients, threads);                 \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
