// Numbers as they lie in memory, and in registers: `Lanes<A>::count` channels at once.
//
// Vectors are those of the GNU extension that GCC and Clang share; where a machine's registers are narrower than 64
// bytes, the compiler takes several.

#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define INLINE __attribute__((always_inline)) inline  // into loops over a row
#define RARE __attribute__((noinline, cold))

struct BFloat16 {
    std::uint16_t bits;
};

template <class A> struct Lanes {
    static constexpr int count = 64 / sizeof(A);
    typedef A type __attribute__((vector_size(64)));
};
template <class A> using Vec = typename Lanes<A>::type;

typedef std::uint16_t Halves __attribute__((vector_size(32)));
typedef std::uint32_t Words __attribute__((vector_size(64)));

// Vectors go through references: how they are passed by value differs between instruction sets.
INLINE void load(const float *from, Vec<float> &to) { std::memcpy(&to, from, sizeof to); }
INLINE void load(const double *from, Vec<double> &to) { std::memcpy(&to, from, sizeof to); }
INLINE void load(const BFloat16 *from, Vec<float> &to) {
    Halves bits;
    std::memcpy(&bits, from, sizeof bits);
    to = (Vec<float>)(__builtin_convertvector(bits, Words) << 16);
}

INLINE void store(const Vec<float> &from, float *to) { std::memcpy(to, &from, sizeof from); }
INLINE void store(const Vec<double> &from, double *to) { std::memcpy(to, &from, sizeof from); }
#ifdef __AVX512BF16__
INLINE void store(const Vec<float> &from, BFloat16 *to) {  // to nearest, ties to even; subnormal numbers become zero
    const __m256bh halves = _mm512_cvtneps_pbh((__m512)from);
    std::memcpy(to, &halves, sizeof halves);
}
#else
INLINE void store(const Vec<float> &from, BFloat16 *to) {
    Words bits = (Words)from;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    Halves halves = __builtin_convertvector(from == from ? rounded : Words{} + 0x7fc0, Halves);
    std::memcpy(to, &halves, sizeof halves);
}
#endif
