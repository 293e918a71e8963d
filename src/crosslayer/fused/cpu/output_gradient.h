// The gradient of a block's output that is not kept but made anew, where a depth-wise convolution reads it:
//
//     out = ReLU(BN(x) + s)

#pragma once

#include "depthwise.h"
#include "normalisation.h"

// The maps that a block's output is made of, its gradient but for a convolution's, and where what follows from both is to go.
template <class T, class A> struct EndedMaps {
    const T *x, *shortcut;
    Incoming<T, A> gradient;
    T *g;
    A *plain, *weighted;
};

// g, the whole gradient of out through ReLU, row by row; and Σ g and Σ g ⊙ (x - μ) over each image's map.
template <class T, class A> class OutputGradient {
  public:
    template <bool WHOLE>
    OutputGradient(const EndedMaps<T, A> &maps, const Norm<A> &norm, const Place<A, WHOLE> &place)
        : maps(maps), affine(place, norm) {
        for (int group = 0; group < place.groups; ++group) {
            centre[group] = place.of(norm.mean, 0, group);
            everywhere[group] = place.of(maps.gradient.everywhere, place.image, group);
        }
    }

    template <bool WHOLE>
    INLINE void write(
        const Kernel<A, TAPS> &transposed, const Window<A> &convolved, const Place<A, WHOLE> &place, Index row, int group,
        TapProducts<A, TAPS> &products
    ) {
        const T *const x = place.at(maps.x, row), *const shortcut = place.at(maps.shortcut, row);
        const T *const dout = place.at(maps.gradient.map, row);
        T *const to = place.at(maps.g, row);
        Vec<A> own{}, sum{}, product{};
        const auto out = [&](Index at) INLINE_LAMBDA {
            own = place.load_and_fetch(x + at, group);
            return rectified<A>(affine.of(own, group) + place.load_and_fetch(shortcut + at, group));
        };
        const auto use = [&](Index at, const Vec<A> &out, const Vec<A> &made) INLINE_LAMBDA {
            const Vec<A> whole = place.load_and_fetch(dout + at, group) + (made + everywhere[group]);
            const Vec<A> g = through_relu<A>(whole, out);
            place.store(g, to + at, group);
            sum += g;
            product += g * (own - centre[group]);
        };
        walk_gradient(transposed, convolved, place, group, products, out, use);
        sums[group] += sum;
        weighted[group] += product;
    }
    template <bool WHOLE> void end(const Place<A, WHOLE> &place) const {
        for (int group = 0; group < place.groups; ++group) {
            place.put(sums[group], maps.plain, place.image, group);
            place.put(weighted[group], maps.weighted, place.image, group);
        }
    }

  private:
    const EndedMaps<T, A> maps;
    const Affine<A> affine;
    Vec<A> centre[GROUPS], everywhere[GROUPS], sums[GROUPS] = {}, weighted[GROUPS] = {};
};
