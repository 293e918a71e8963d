// Sums over each image's map: global average pooling.

#include "maps.h"

namespace {

template <class T, class A, bool WHOLE> void map_sums(const T *x, Size size, A *sums, int threads) {
    const Size flat{size.batch, 1, size.height * size.width, size.channels};
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A, WHOLE>::programs(flat); ++program) {
        const Place<A, WHOLE> place(program, flat);
        Vec<A> sum[GROUPS] = {};
        const T *const from = place.at(x, 0);
        for (Index p = 0; p < flat.width; ++p)
            for (int group = 0; group < place.groups; ++group)
                sum[group] += place.load(from + p * size.channels, group);
        for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    }
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void map_sums_##NAME(const T *x, Size size, A *sums, int threads) {                                     \
        for_channels<A>(size, [&](auto whole) { map_sums<T, A, whole>(x, size, sums, threads); });                     \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
