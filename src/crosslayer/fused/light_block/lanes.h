// Vectors of several images at once: an image in each lane, a register for each channel.
//
// A weight is then one number for all lanes: matrices are read as PyTorch lays them, and nothing is summed across lanes.

#pragma once

#include <memory>

#include "../cpu/maps.h"

template <class A> using Columns = std::unique_ptr<Vec<A>[]>;
template <class A> Columns<A> columns(Index count) { return Columns<A>(new Vec<A>[count]()); }

// Calls `use` with every image and column of a matrix, a few columns at a time: those lie in the nearest cache one by one.
template <class Use> INLINE void by_columns(Index images, Index count, Use use) {
    constexpr Index TOGETHER = 32;
    for (Index first = 0; first < count; first += TOGETHER)
        for (Index image = 0; image < images; ++image)
            for (Index c = first; c < std::min(count, first + TOGETHER); ++c) use(image, c);
}

// From a matrix with a row for each image, times a factor, and back. Lanes beyond the images keep what they hold.
template <class A> void to_lanes(const A *rows, Index images, Index count, A factor, Vec<A> *lanes) {
    by_columns(images, count, [&](Index image, Index c) {
        reinterpret_cast<A *>(lanes + c)[image] = rows[image * count + c] * factor;
    });
}
template <class A> void to_rows(const Vec<A> *lanes, Index images, Index count, A *rows) {
    by_columns(images, count, [&](Index image, Index c) {
        rows[image * count + c] = reinterpret_cast<const A *>(lanes + c)[image];
    });
}

// Numbers times a factor, as they are stored.
template <class T, class A> void narrow(const A *from, Index count, A factor, T *to) {
    for (Index i = 0; i < count; i += Lanes<A>::count) {
        const Index some = std::min<Index>(Lanes<A>::count, count - i);
        Vec<A> numbers{};
        T narrowed[Lanes<A>::count];
        std::copy_n(from + i, some, reinterpret_cast<A *>(&numbers));
        store(numbers * factor, narrowed);
        std::copy_n(narrowed, some, to + i);
    }
}

// made = W · of + b, with W rows × columns. Rows go eight together: that many sums are needed so that none waits for itself.
template <class A>
void product(const A *weights, const A *bias, Index rows, Index columns, const Vec<A> *of, Vec<A> *made) {
    constexpr int TOGETHER = 8;
    for (Index row = 0; row < rows; row += TOGETHER) {
        const A *own[TOGETHER];
        Vec<A> sums[TOGETHER];
        for (int i = 0; i < TOGETHER; ++i) {
            const Index at = std::min(row + i, rows - 1);  // the last row again, where there are fewer
            own[i] = weights + at * columns;
            sums[i] = Vec<A>{} + bias[at];
        }
        for (Index c = 0; c < columns; ++c)
#pragma GCC unroll 8
            for (int i = 0; i < TOGETHER; ++i) sums[i] += own[i][c] * of[c];
        for (int i = 0; i < TOGETHER && row + i < rows; ++i) made[row + i] = sums[i];
    }
}

// e^x to 1e-7 of itself, for |x| ≤ 87: 2ⁿ eʳ with |r| ≤ ln 2 / 2. What is no number stays so. Beyond, it is e⁻⁸⁷ or infinite, so that
// a closed gate is 0: numbers below 1e-38 take a hundred times as long to multiply with.
INLINE Vec<float> exponential(const Vec<float> &of) {
    constexpr float TO_WHOLE = 0x1.8p23f;  // added, it leaves a sum's lowest bits as a whole number
    const Vec<float> x = of < -87 ? Vec<float>{} - 87 : of;
    const Vec<float> shifted = x * 0x1.715476p0f + TO_WHOLE, n = shifted - TO_WHOLE;
    const Vec<float> r = (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;  // ln 2 in two parts, the first exact times n
    Vec<float> sum = Vec<float>{} + 1.f / 5040;
    for (const float factorial : {720.f, 120.f, 24.f, 6.f, 2.f, 1.f, 1.f}) sum = sum * r + 1 / factorial;
    return of > 87 ? Vec<float>{} + INFINITY : sum * (Vec<float>)(((Words)shifted << 23) + (127u << 23));
}
INLINE Vec<double> exponential(const Vec<double> &of) {
    Vec<double> made;
    for (int i = 0; i < Lanes<double>::count; ++i) made[i] = std::exp(of[i]);
    return made;
}

template <class A> INLINE Vec<A> sigmoid(const Vec<A> &of) { return 1 / (1 + exponential(-of)); }
template <class A> INLINE Vec<A> hyperbolic_tangent(const Vec<A> &of) { return 2 * sigmoid<A>(2 * of) - 1; }
