// The recurrent cell of dynamic layer attention as released (DSU), for several images at once:
//
//     c ← σ(z_f) ⊙ c + σ(z_i) ⊙ tanh(z_c),   z = MLP_y(y) + MLP_h(σ(c))

#pragma once

#include "lanes.h"
#include "../cpu/normalisation.h"

// W₂ ReLU(W₁ v + b₁) + b₂, from `channels` over `squeezed` to three times `channels`.
template <class A> struct SqueezeNet {
    const A *squeeze, *squeeze_bias, *excite, *excite_bias;

    void of(const Vec<A> *v, Index channels, Index squeezed, Vec<A> *between, Vec<A> *made) const {
        product(squeeze, squeeze_bias, squeezed, channels, v, between);
        for (Index i = 0; i < squeezed; ++i) between[i] = rectified<A>(between[i]);
        product(excite, excite_bias, 3 * channels, squeezed, between, made);
    }
};

template <class A> struct Cell {
    SqueezeNet<A> of_input, of_hidden;
};

// A channel of the next memory, from what the cell has made of its input and of the last hidden vector.
template <class A>
INLINE Vec<A> next_memory(const Vec<A> *seen, const Vec<A> *recalled, const Vec<A> &memory, Index c, Index channels) {
    const auto z = [&](Index gate) INLINE_LAMBDA { return seen[gate * channels + c] + recalled[gate * channels + c]; };
    return sigmoid<A>(z(1)) * memory + sigmoid<A>(z(0)) * hyperbolic_tangent<A>(z(2));
}
