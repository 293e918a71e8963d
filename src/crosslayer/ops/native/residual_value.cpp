// The end of a residual block together with the value that the B forms make of it, backward, pass by pass over the maps:
//
//     out = ReLU(BN(x) + s),  V = DW(out; K)
//
// out is not kept: it is made anew from x and s, which are.

#include "value.h"

namespace {

// Maps as a block's end is made of them, the gradient of out, and what the first pass makes of both.
template <class T, class A> struct Maps {
    const T *x, *shortcut;
    Incoming<T, A> gradient;
    T *of_shortcut;
    A *plain, *weighted;
};

// ds = g, the whole gradient of out through ReLU, row by row; and Σ g and Σ g ⊙ (x - μ) over each image's map.
template <class T, class A> class OutputGradient {
  public:
    template <bool WHOLE>
    OutputGradient(const Maps<T, A> &maps, const Norm<A> &norm, const Place<A, WHOLE> &place)
        : maps(maps), affine(place, norm) {
        for (int group = 0; group < place.groups; ++group) {
            centre[group] = place.of(norm.mean, 0, group);
            everywhere[group] = place.of(maps.gradient.everywhere, place.image, group);
        }
    }

    template <bool WHOLE>
    INLINE void write(
        const Kernel<A, TAPS> &transposed, const Window<A> &of_value, const Place<A, WHOLE> &place, Index row, int group,
        TapProducts<A, TAPS> &products
    ) {
        const T *const x = place.at(maps.x, row), *const shortcut = place.at(maps.shortcut, row);
        const T *const dout = place.at(maps.gradient.map, row);
        T *const to = place.at(maps.of_shortcut, row);
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
        walk_gradient(transposed, of_value, place, group, products, out, use);
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
    const Maps<T, A> maps;
    const Affine<A> affine;
    Vec<A> centre[GROUPS], everywhere[GROUPS], sums[GROUPS] = {}, weighted[GROUPS] = {};
};

template <class T, class A, bool WHOLE>
void gradients(
    Incoming<T, A> of_value, const Maps<T, A> &maps, const A *taps, Size size, const Norm<A> &norm, A *products, int threads
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
        Incoming<T, A> of_value, Maps<T, A> maps, const A *taps, Size size, Norm<A> norm, A *products, int threads      \
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
