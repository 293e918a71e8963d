// The merge of the L forms with its normalisation, pass by pass over the maps:
//
//     z = DW(x; K) + DW(s; K_s)
//
// Each image has kernels of its own here, taps × channels: a gate is already in K, and the scale a in the centre of K_s,
// which has nine taps or that one only.

#include <utility>

#include "maps.h"

namespace {

constexpr int TAPS = 9;

template <class A> struct Kernels {
    const A *of_value, *of_shortcut;  // image × taps × channels
    bool carried;                     // whether the shortcut has nine taps
};

// A group's depth-wise 3×3 kernel, or its one tap in the middle.
template <class A, int COUNT> struct Kernel {
    Vec<A> taps[COUNT];

    Kernel(const Place<A> &place, const A *kernels, int group) {
        for (int i = 0; i < COUNT; ++i) taps[i] = place.of(kernels, place.image * COUNT + i, group);
    }
    INLINE Vec<A> at(const Neighbours<A> &map, Index w) const {
        if constexpr (COUNT == 1) return taps[0] * map.here[w];
        else
            return taps[0] * map.above[w - 1] + taps[1] * map.above[w] + taps[2] * map.above[w + 1] +
                   taps[3] * map.here[w - 1] + taps[4] * map.here[w] + taps[5] * map.here[w + 1] +
                   taps[6] * map.below[w - 1] + taps[7] * map.below[w] + taps[8] * map.below[w + 1];
    }
    // The kernel of the transposed convolution, which gradients go through.
    INLINE Kernel transposed() const {
        Kernel turned = *this;
        std::reverse(turned.taps, turned.taps + COUNT);
        return turned;
    }
};

// x and s as z sees them: a window of each that moves down from row to row, so that every row is read once.
template <class T, class A, bool CARRIED> class Merge {
  public:
    static constexpr int SHORTCUT_TAPS = CARRIED ? TAPS : 1;

    Merge(const T *x, const T *shortcut, const Kernels<A> &kernels, Index width)
        : xs(width), ss(width), x(x), shortcut(shortcut), kernels(kernels) {}

    // Above the first row of a program's image.
    void enter(const Place<A> &place) {
        xs.here.clear(), ss.here.clear();
        xs.below.read(x, place, 0), ss.below.read(shortcut, place, 0);
    }
    void move_to(const Place<A> &place, Index row) {
        xs.move(), ss.move();
        xs.below.read(x, place, row + 1), ss.below.read(shortcut, place, row + 1);
    }

    // z in a group of the row, position by position.
    template <class Use> INLINE void each(const Place<A> &place, int group, Use use) const {
        const Kernel<A, TAPS> of_value(place, kernels.of_value, group);
        const Kernel<A, SHORTCUT_TAPS> of_shortcut(place, kernels.of_shortcut, group);
        const Neighbours<A> value(xs, group), carried(ss, group);
        for (Index w = 0; w < place.size.width; ++w) use(w, of_value.at(value, w) + of_shortcut.at(carried, w));
    }

    Window<A> xs, ss;

  private:
    const T *x, *shortcut;
    const Kernels<A> &kernels;
};

// z; and over each image's map its mean and the sum of squared deviations from it, row by row (the update of Chan, Golub
// & LeVeque).
template <class T, class A, bool CARRIED>
void moments(
    const T *x, const T *shortcut, Kernels<A> kernels, Size size, T *merged, A *means, A *deviations, int threads
) {
    const A per_row = A(1) / size.width;
#pragma omp parallel num_threads(threads)
    {
        Merge<T, A, CARRIED> merge(x, shortcut, kernels, size.width);
        std::unique_ptr<Vec<A>[]> row(new Vec<A>[size.width]);
#pragma omp for
        for (Index program = 0; program < Place<A>::programs(size); ++program) {
            const Place<A> place(program, size);
            Vec<A> mean[GROUPS] = {}, deviation[GROUPS] = {};
            merge.enter(place);
            for (Index h = 0; h < size.height; ++h) {
                merge.move_to(place, h);
                for (int group = 0; group < place.groups; ++group) {
                    Vec<A> total{}, squares{};
                    T *const to = place.at(merged, h);
                    merge.each(place, group, [&](Index w, const Vec<A> &z) {
                        total += row[w] = z;
                        place.store(z, to + w * size.channels, group);
                    });
                    const Vec<A> centre = total * per_row, change = centre - mean[group];
                    for (Index w = 0; w < size.width; ++w) squares += (row[w] - centre) * (row[w] - centre);
                    mean[group] += change * (A(1) / A(h + 1));
                    deviation[group] += squares + change * change * (A(size.width) * A(h) / A(h + 1));
                }
            }
            for (int group = 0; group < place.groups; ++group) {
                place.put(mean[group], means, place.image, group);
                place.put(deviation[group], deviations, place.image, group);
            }
        }
    }
}

// What a normalisation does, with a slope and a shift for each image and channel: out = x + slope ⊙ z + shift; and Σ out.
template <class A> struct Affine {
    const A *slopes, *shifts;
};

// For a z that is not written: its statistics were known beforehand.
template <class T, class A, bool CARRIED>
void merge_and_normalise(
    const T *x, const T *shortcut, Kernels<A> kernels, Size size, Affine<A> affine, T *out, A *sums, int threads
) {
#pragma omp parallel num_threads(threads)
    {
        Merge<T, A, CARRIED> merge(x, shortcut, kernels, size.width);
#pragma omp for
        for (Index program = 0; program < Place<A>::programs(size); ++program) {
            const Place<A> place(program, size);
            Vec<A> sum[GROUPS] = {};
            merge.enter(place);
            for (Index h = 0; h < size.height; ++h) {
                merge.move_to(place, h);
                T *const to = place.at(out, h);
                for (int group = 0; group < place.groups; ++group) {
                    const Vec<A> slope = place.of(affine.slopes, place.image, group);
                    const Vec<A> shift = place.of(affine.shifts, place.image, group);
                    const Vec<A> *value = merge.xs.here[group];
                    Vec<A> total{};
                    merge.each(place, group, [&](Index w, const Vec<A> &z) {
                        const Vec<A> made = value[w] + slope * z + shift;
                        total += made;
                        place.store(made, to + w * size.channels, group);
                    });
                    sum[group] += total;
                }
            }
            for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
        }
    }
}

// For the z that `moments` wrote.
template <class T, class A>
void normalise(const T *x, const T *merged, Size size, Affine<A> affine, T *out, A *sums, int threads) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(size); ++program) {
        const Place<A> place(program, size);
        Vec<A> sum[GROUPS] = {};
        for (Index h = 0; h < size.height; ++h)
            for (int group = 0; group < place.groups; ++group) {
                const Vec<A> slope = place.of(affine.slopes, place.image, group);
                const Vec<A> shift = place.of(affine.shifts, place.image, group);
                Vec<A> total{};
                for (Index w = 0; w < size.width; ++w) {
                    const Index at = w * size.channels;
                    const Vec<A> made = place.load(place.at(x, h) + at, group) +
                                        slope * place.load(place.at(merged, h) + at, group) + shift;
                    total += made;
                    place.store(made, place.at(out, h) + at, group);
                }
                sum[group] += total;
            }
        for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    }
}

// The gradient that comes in: the output's own, and for each image and channel what its pool's adds everywhere.
template <class T, class A> struct Incoming {
    const T *map;
    const A *everywhere;
};

// Σ dout and Σ dout ⊙ (z - μ) over each image's map.
template <class T, class A>
void norm_sums(
    Incoming<T, A> gradient, const T *merged, Size size, const A *mean, A *plain, A *weighted, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A>::programs(size); ++program) {
        const Place<A> place(program, size);
        Vec<A> sum[GROUPS] = {}, product[GROUPS] = {};
        for (Index h = 0; h < size.height; ++h)
            for (int group = 0; group < place.groups; ++group) {
                const Vec<A> everywhere = place.of(gradient.everywhere, place.image, group);
                const Vec<A> centre = place.of(mean, 0, group);
                Vec<A> total{}, products{};
                for (Index w = 0; w < size.width; ++w) {
                    const Index at = w * size.channels;
                    const Vec<A> incoming = place.load(place.at(gradient.map, h) + at, group) + everywhere;
                    total += incoming;
                    products += incoming * (place.load(place.at(merged, h) + at, group) - centre);
                }
                sum[group] += total, product[group] += products;
            }
        for (int group = 0; group < place.groups; ++group) {
            place.put(sum[group], plain, place.image, group);
            place.put(product[group], weighted, place.image, group);
        }
    }
}

// dz = α dout - β - γ (z - μ), with α for each image, the others for all; without γ, dz = α dout.
template <class A> struct Coefficients {
    const A *alpha, *beta, *gamma, *mean;
};

// A row of dz, and its sum.
template <class T, class A>
void read_norm_gradient(
    const Incoming<T, A> &gradient, const T *merged, const Coefficients<A> &given, const Place<A> &place, Index row,
    Row<A> &into, Vec<A> *sums
) {
    if (row == place.size.height) return into.clear();
    const T *const from = place.at(gradient.map, row);
    for (int group = 0; group < place.groups; ++group) {
        const Vec<A> alpha = place.of(given.alpha, place.image, group);
        Vec<A> same = alpha * place.of(gradient.everywhere, place.image, group), sum{};
        Vec<A> *const dz = into[group];
        const auto scaled = [&](Index w) { return alpha * place.load(from + w * place.size.channels, group); };
        if (given.gamma) {
            const Vec<A> gamma = place.of(given.gamma, 0, group), mean = place.of(given.mean, 0, group);
            const T *const z = place.at(merged, row);
            same -= place.of(given.beta, 0, group);
            for (Index w = 0; w < place.size.width; ++w)
                sum += dz[w] = scaled(w) + (same - gamma * (place.load(z + w * place.size.channels, group) - mean));
        } else
            for (Index w = 0; w < place.size.width; ++w) sum += dz[w] = scaled(w) + same;
        sums[group] += sum;
    }
}

// Σ dz ⊙ (map shifted by each of a kernel's taps), in one group.
template <class A, int COUNT> struct Products {
    Vec<A> sums[COUNT] = {};

    INLINE void add(const Neighbours<A> &dz, Index w, const Vec<A> &value) {
        if constexpr (COUNT == 1) sums[0] += dz.here[w] * value;
        else
            for (int i = 0; i < 3; ++i) {
                sums[i] += dz.below[w + 1 - i] * value;
                sums[3 + i] += dz.here[w + 1 - i] * value;
                sums[6 + i] += dz.above[w + 1 - i] * value;
            }
    }
    void put(const Place<A> &place, A *matrix, int group) const {
        for (int i = 0; i < COUNT; ++i) place.put(sums[i], matrix, place.image * COUNT + i, group);
    }
};

// One map's row of gradients, DWᵀ(dz; K) plus what `passed` adds, and its products, in one group.
template <class T, class A, int COUNT, class Passed>
void write_gradient(
    const A *kernels, const Neighbours<A> &dz, const T *map, const Place<A> &place, int group, T *to,
    Products<A, COUNT> &products, Passed passed
) {
    const Kernel<A, COUNT> kernel = Kernel<A, COUNT>(place, kernels, group).transposed();
    Products<A, COUNT> local = products;
    for (Index w = 0; w < place.size.width; ++w) {
        const Index at = w * place.size.channels;
        place.store(passed(at, kernel.at(dz, w)), to + at, group);
        local.add(dz, w, place.load(map + at, group));
    }
    products = local;
}

// dx = dout + DWᵀ(dz; K), ds = DWᵀ(dz; K_s), and the sums from which all other gradients follow.
template <class T, class A, bool CARRIED>
void merge_gradients(
    Incoming<T, A> gradient, const T *x, const T *shortcut, const T *merged, Kernels<A> kernels, Size size,
    Coefficients<A> coefficients, T *dx, T *ds, A *plain, A *of_value, A *of_shortcut, int threads
) {
#pragma omp parallel num_threads(threads)
    {
        Window<A> dz(size.width);
#pragma omp for
        for (Index program = 0; program < Place<A>::programs(size); ++program) {
            const Place<A> place(program, size);
            Vec<A> sums[GROUPS] = {};
            Products<A, TAPS> values[GROUPS];
            Products<A, CARRIED ? TAPS : 1> shortcuts[GROUPS];
            dz.here.clear();
            read_norm_gradient(gradient, merged, coefficients, place, 0, dz.below, sums);
            for (Index h = 0; h < size.height; ++h) {
                dz.move();
                read_norm_gradient(gradient, merged, coefficients, place, h + 1, dz.below, sums);
                const T *const from = place.at(gradient.map, h);
                for (int group = 0; group < place.groups; ++group) {
                    const Neighbours<A> around(dz, group);
                    const Vec<A> everywhere = place.of(gradient.everywhere, place.image, group);
                    write_gradient(
                        kernels.of_value, around, place.at(x, h), place, group, place.at(dx, h), values[group],
                        [&](Index at, const Vec<A> &made) { return place.load(from + at, group) + (made + everywhere); }
                    );
                    write_gradient(
                        kernels.of_shortcut, around, place.at(shortcut, h), place, group, place.at(ds, h),
                        shortcuts[group], [](Index, const Vec<A> &made) { return made; }
                    );
                }
            }
            for (int group = 0; group < place.groups; ++group) {
                place.put(sums[group], plain, place.image, group);
                values[group].put(place, of_value, group);
                shortcuts[group].put(place, of_shortcut, group);
            }
        }
    }
}

}  // namespace

// One set of C functions for each storage type; the number of threads is PyTorch's.
#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void moments_##NAME(                                                                                    \
        const T *x, const T *s, Kernels<A> kernels, Size size, T *merged, A *means, A *deviations, int threads         \
    ) {                                                                                                                \
        auto pass = kernels.carried ? moments<T, A, true> : moments<T, A, false>;                                      \
        pass(x, s, kernels, size, merged, means, deviations, threads);                                                 \
    }                                                                                                                  \
    extern "C" void merge_and_normalise_##NAME(                                                                        \
        const T *x, const T *s, Kernels<A> kernels, Size size, Affine<A> affine, T *out, A *sums, int threads          \
    ) {                                                                                                                \
        auto pass = kernels.carried ? merge_and_normalise<T, A, true> : merge_and_normalise<T, A, false>;              \
        pass(x, s, kernels, size, affine, out, sums, threads);                                                         \
    }                                                                                                                  \
    extern "C" void normalise_##NAME(                                                                                  \
        const T *x, const T *merged, Size size, Affine<A> affine, T *out, A *sums, int threads                         \
    ) {                                                                                                                \
        normalise<T, A>(x, merged, size, affine, out, sums, threads);                                                  \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        Incoming<T, A> g, const T *merged, Size size, const A *mean, A *plain, A *weighted, int threads                \
    ) {                                                                                                                \
        norm_sums<T, A>(g, merged, size, mean, plain, weighted, threads);                                              \
    }                                                                                                                  \
    extern "C" void merge_gradients_##NAME(                                                                            \
        Incoming<T, A> g, const T *x, const T *s, const T *merged, Kernels<A> kernels, Size size,                      \
        Coefficients<A> coefficients, T *dx, T *ds, A *plain, A *of_value, A *of_shortcut, int threads                 \
    ) {                                                                                                                \
        auto pass = kernels.carried ? merge_gradients<T, A, true> : merge_gradients<T, A, false>;                      \
        pass(g, x, s, merged, kernels, size, coefficients, dx, ds, plain, of_value, of_shortcut, threads);             \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
