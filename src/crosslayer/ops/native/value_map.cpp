// A depth-wise 3×3 convolution, pass by pass over the maps:
//
//     V = DW(x; K)

#include "value.h"

namespace {

// And Σ V over each image's map.
template <class T, class A, bool WHOLE>
void convolve(const T *x, const A *taps, Size size, T *value, A *sums, int threads) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
        const Place<A, WHOLE> place(program, size);
        Kernel<A, TAPS> kernels[GROUPS];
        Vec<A> sum[GROUPS] = {};
        for (int group = 0; group < place.groups; ++group) kernels[group] = kernel_of(place, taps, group);
        for (Index h = 0; h < size.height; ++h) {
            T *const to = place.at(value, h);
            for (int group = 0; group < place.groups; ++group) {
                Vec<A> total{};
                const auto use = [&](Index w, const Vec<A> &made) {
                    total += made;
                    place.store(made, to + w * place.size.channels, group);
                };
                convolve_row(place, group, Vec<A>{}, use, Convolved<T, A, TAPS>{{x, place, h}, kernels[group]});
                sum[group] += total;
            }
        }
        for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    }
}

// dx = DWᵀ(g; K), row by row.
template <class T, class A> class MapGradient {
  public:
    MapGradient(const T *x, T *dx) : x(x), dx(dx) {}

    template <bool WHOLE>
    INLINE void write(
        const Kernel<A, TAPS> &transposed, const Window<A> &g, const Place<A, WHOLE> &place, Index row, int group,
        TapProducts<A, TAPS> &products
    ) {
        write_gradient(
            transposed, g, place.at(x, row), place, group, place.at(dx, row), products,
            [](Index, const Vec<A> &made) INLINE_LAMBDA { return made; }
        );
    }
    template <bool WHOLE> void end(const Place<A, WHOLE> &) const {}

  private:
    const T *const x;
    T *const dx;
};

template <class T, class A, bool WHOLE>
void gradients(Incoming<T, A> gradient, const T *x, const A *taps, Size size, T *dx, A *products, int threads) {
    value_gradients<T, A, WHOLE>(gradient, taps, size, products, threads, [=](const auto &) {
        return MapGradient<T, A>(x, dx);
    });
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void convolve_##NAME(const T *x, const A *taps, Size size, T *value, A *sums, int threads) {            \
        for_channels<A>(size, [&](auto whole) {                                                                        \
            convolve<T, A, whole>(x, taps, size, value, sums, threads);                                                \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void gradients_##NAME(                                                                                  \
        Incoming<T, A> g, const T *x, const A *taps, Size size, T *dx, A *products, int threads                        \
    ) {                                                                                                                \
        for_channels<A>(size, [&](auto whole) {                                                                        \
            gradients<T, A, whole>(g, x, taps, size, dx, products, threads);                                           \
        });                                                                                                            \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
