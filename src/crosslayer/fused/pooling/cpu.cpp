// Global average pooling.

#include "../cpu/map_sums.h"

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void map_sums_##NAME(const T *x, Size size, A *sums, int threads) {                                     \
        map_sums(x, size, sums, threads);                                                                              \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
