// Numbers as they lie in memory, and in registers: `Lanes<A>::count` channels at once.
//
// Vectors are those of the GNU extension that GCC and Clang share; where a machine's registers are narrower than 64
// bytes, the compiler takes several.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE __attribute__((always_inline)) inline  // into loops over a row
#define INLINE_LAMBDA __attribute__((always_inline))
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
#ifdef __AVX512F__  // one instruction, where GCC makes four of the conversion below
    to = (Vec<float>)((Words)_mm512_cvtepu16_epi32((__m256i)bits) << 16);
#else
    to = (Vec<float>)(__builtin_convertvector(bits, Words) << 16);
#endif
}

INLINE void store(const Vec<float> &from, float *to) { std::memcpy(to, &from, sizeof from); }
INLINE void store(const Vec<double> &from, double *to) { std::memcpy(to, &from, sizeof from); }
INLINE void store(const Vec<float> &from, BFloat16 *to) {  // to nearest, ties to even
#ifdef __AVX512BF16__  // takes numbers under 1e-38 for zero
    const __m256bh halves = _mm512_cvtneps_pbh((__m512)from);
#else
    Words bits = (Words)from;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Halves halves = __builtin_convertvector(from == from ? rounded : Words{} + 0x7fc0, Halves);
#endif
    std::memcpy(to, &halves, sizeof halves);
}

template <class A> INLINE Vec<A> inverse_root(const Vec<A> &of) {
    Vec<A> root;
    for (int i = 0; i < Lanes<A>::count; ++i) root[i] = 1 / std::sqrt(of[i]);
    return root;
}
