// The merge of the L forms with its normalisation, pass by pass over the maps:
//
//     z = G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s)
//
// An image's channel has a kernel of its own in each map: the gate goes into K, the scale a into the centre of K_s, which
// has nine taps or that one only.

#include <utility>

#include "moments.h"

namespace {

constexpr int TAPS = 9;

// What z is made of, besides the maps.
template <class A> struct Terms {
    const A *kernel, *gate, *shortcut_kernel, *scale;  // taps × channels, batch × channels
    const A *times;                                    // batch × channels: z is multiplied with it, if it is there
};

// A group's depth-wise 3×3 kernel, or its one tap in the middle.
template <class A, int COUNT> struct Kernel {
    Vec<A> taps[COUNT];

    INLINE Vec<A> at(const Vec<A> (&around)[COUNT]) const {
        if constexpr (COUNT == 1) return taps[0] * around[0];
        else  // two sums, so that neither waits for all of the other
            return (taps[0] * around[0] + taps[1] * around[1] + taps[2] * around[2] + taps[3] * around[3]) +
                   (taps[4] * around[4] + taps[5] * around[5] + taps[6] * around[6] + taps[7] * around[7] +
                    taps[8] * around[8]);
    }
    // The kernel of the transposed convolution, which gradients go through.
    INLINE Kernel transposed() const {
        Kernel turned = *this;
        std::reverse(turned.taps, turned.taps + COUNT);
        return turned;
    }
    INLINE void multiply(const Vec<A> &factor) {
        for (Vec<A> &tap : taps) tap *= factor;
    }
};

template <class A, bool WHOLE>
INLINE Kernel<A, TAPS> value_kernel(const Place<A, WHOLE> &place, const Terms<A> &terms, int group) {
    Kernel<A, TAPS> made;
    for (int i = 0; i < TAPS; ++i) made.taps[i] = place.of(terms.kernel, i, group);
    made.multiply(place.of(terms.gate, place.image, group));
    if (terms.times) made.multiply(place.of(terms.times, place.image, group));
    return made;
}
template <int COUNT, class A, bool WHOLE>
INLINE Kernel<A, COUNT> shortcut_kernel(const Place<A, WHOLE> &place, const Terms<A> &terms, int group) {
    Kernel<A, COUNT> made{};
    if constexpr (COUNT == TAPS)
        for (int i = 0; i < TAPS; ++i) made.taps[i] = place.of(terms.shortcut_kernel, i, group);
    made.taps[COUNT / 2] += place.of(terms.scale, place.image, group);
    if (terms.times) made.multiply(place.of(terms.times, place.image, group));
    return made;
}

// A normalisation; and each image's keep factor, if paths are dropped.
template <class A> struct Norm {
    const A *weight, *bias, *mean, *variance, *keep;
    A epsilon;

    template <bool WHOLE> INLINE Vec<A> inverse(const Place<A, WHOLE> &place, int group) const {
        return inverse_root<A>(place.of(variance, 0, group) + epsilon);
    }
    template <bool WHOLE> INLINE Vec<A> kept(const Place<A, WHOLE> &place, const Vec<A> &of, int group) const {
        return keep ? of * keep[place.image] : of;
    }
    // What z is multiplied with.
    template <bool WHOLE> INLINE Vec<A> slope(const Place<A, WHOLE> &place, int group) const {
        return kept(place, place.of(weight, 0, group) * inverse(place, group), group);
    }
};

// x and s as z sees them: a window of each that moves down from row to row, so that every row is read once.
template <class T, class A, bool CARRIED> class Merge {
  public:
    static constexpr int SHORTCUT_TAPS = CARRIED ? TAPS : 1;

    Merge(const T *x, const T *shortcut, const Terms<A> &terms, Index width)
        : xs(width), ss(width), x(x), shortcut(shortcut), terms(terms), values(new Vec<A>[width]) {}

    // Above the first row of a program's image.
    template <bool WHOLE> void enter(const Place<A, WHOLE> &place) {
        for (int group = 0; group < place.groups; ++group) {
            of_value[group] = value_kernel(place, terms, group);
            of_shortcut[group] = shortcut_kernel<SHORTCUT_TAPS>(place, terms, group);
        }
        xs.here.clear(), ss.here.clear();
        xs.below.read(x, place, 0), ss.below.read(shortcut, place, 0);
    }
    template <bool WHOLE> void move_to(const Place<A, WHOLE> &place, Index row) {
        xs.move(), ss.move();
        xs.below.read(x, place, row + 1), ss.below.read(shortcut, place, row + 1);
    }

    // z in a group of the row, position by position: one map after the other, since registers hold what is around in one.
    template <bool WHOLE, class Use> INLINE void each(const Place<A, WHOLE> &place, int group, Use use) const {
        const Index width = place.size.width;
        Vec<A> *const value = values.get();
        const auto own = of_value[group];
        walk<TAPS>(xs, group, width, [&](Index w, const auto &around) { value[w] = own.at(around); });
        const auto carried = of_shortcut[group];
        walk<SHORTCUT_TAPS>(
            ss, group, width, [&](Index w, const auto &around) { use(w, value[w] + carried.at(around)); }
        );
    }

    Window<A> xs, ss;

  private:
    const T *x, *shortcut;
    const Terms<A> terms;
    Kernel<A, TAPS> of_value[GROUPS];
    Kernel<A, SHORTCUT_TAPS> of_shortcut[GROUPS];
    std::unique_ptr<Vec<A>[]> values;
};

// z; and its mean and biased variance in every channel. Over each image's map first the mean and the sum of squared
// deviations from it, row by row (the update of Chan, Golub & LeVeque), then over the images.
template <class T, class A, bool CARRIED, bool WHOLE>
void moments(
    const T *x, const T *shortcut, Terms<A> terms, Size size, T *merged, A *mean, A *variance, int threads
) {
    const A per_row = A(1) / size.width;
    std::vector<A> means(size.batch * size.channels), deviations(means.size());
#pragma omp parallel num_threads(threads)
    {
        Merge<T, A, CARRIED> merge(x, shortcut, terms, size.width);
        std::unique_ptr<Vec<A>[]> row(new Vec<A>[size.width]);
#pragma omp for
        for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
            const Place<A, WHOLE> place(program, size);
            Vec<A> mean[GROUPS] = {}, deviation[GROUPS] = {};
            merge.enter(place);
            for (Index h = 0; h < size.height; ++h) {
                merge.move_to(place, h);
                for (int group = 0; group < place.groups; ++group) {
                    Vec<A> total{}, squares{};
                    T *const to = place.at(merged, h);
                    merge.each(place, group, [&](Index w, const Vec<A> &z) {
                        total += row[w] = z;
                        place.store(z, to + w * place.size.channels, group);
                    });
                    const Vec<A> centre = total * per_row, change = centre - mean[group];
                    for (Index w = 0; w < size.width; ++w) squares += (row[w] - centre) * (row[w] - centre);
                    mean[group] += change * (A(1) / A(h + 1));
                    deviation[group] += squares + change * change * (A(size.width) * A(h) / A(h + 1));
                }
            }
            for (int group = 0; group < place.groups; ++group) {
                place.put(mean[group], means.data(), place.image, group);
                place.put(deviation[group], deviations.data(), place.image, group);
            }
        }
    }
    over_images(means.data(), deviations.data(), size, mean, variance);
}

// How a group is normalised in one image: out = x + slope ⊙ z + shift.
template <class A> struct Affine {
    Vec<A> slope, shift;
};
template <class A, bool WHOLE> INLINE Affine<A> affine(const Place<A, WHOLE> &place, const Norm<A> &norm, int group) {
    const Vec<A> slope = norm.slope(place, group), mean = place.of(norm.mean, 0, group);
    return {slope, norm.kept(place, place.of(norm.bias, 0, group), group) - mean * slope};
}

// For a z that is not written: its statistics were known beforehand. And Σ out over each image's map.
template <class T, class A, bool CARRIED, bool WHOLE>
void merge_and_normalise(
    const T *x, const T *shortcut, Terms<A> terms, Size size, Norm<A> norm, T *out, A *sums, int threads
) {
#pragma omp parallel num_threads(threads)
    {
        Merge<T, A, CARRIED> merge(x, shortcut, terms, size.width);
#pragma omp for
        for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
            const Place<A, WHOLE> place(program, size);
            Affine<A> affines[GROUPS];
            for (int group = 0; group < place.groups; ++group) affines[group] = affine(place, norm, group);
            Vec<A> sum[GROUPS] = {};
            merge.enter(place);
            for (Index h = 0; h < size.height; ++h) {
                merge.move_to(place, h);
                T *const to = place.at(out, h);
                for (int group = 0; group < place.groups; ++group) {
                    const auto [slope, shift] = affines[group];
                    const Vec<A> *const value = merge.xs.here[group];
                    Vec<A> total{};
                    merge.each(place, group, [&, slope = slope, shift = shift](Index w, const Vec<A> &z) {
                        const Vec<A> made = value[w] + (slope * z + shift);
                        total += made;
                        place.store(made, to + w * place.size.channels, group);
                    });
                    sum[group] += total;
                }
            }
            for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
        }
    }
}

// For the z that `moments` wrote.
template <class T, class A, bool WHOLE>
void normalise(const T *x, const T *merged, Size size, Norm<A> norm, T *out, A *sums, int threads) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
        const Place<A, WHOLE> place(program, size);
        Affine<A> affines[GROUPS];
        for (int group = 0; group < place.groups; ++group) affines[group] = affine(place, norm, group);
        Vec<A> sum[GROUPS] = {};
        for (Index h = 0; h < size.height; ++h) {
            const T *const value = place.at(x, h), *const z = place.at(merged, h);
            T *const to = place.at(out, h);
            for (int group = 0; group < place.groups; ++group) {
                const auto [slope, shift] = affines[group];
                Vec<A> total{};
                for (Index w = 0; w < place.size.width; ++w) {
                    const Index at = w * place.size.channels;
                    const Vec<A> made = place.load(value + at, group) + (slope * place.load(z + at, group) + shift);
                    total += made;
                    place.store(made, to + at, group);
                }
                sum[group] += total;
            }
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
template <class T, class A, bool WHOLE>
void norm_sums(
    Incoming<T, A> gradient, const T *merged, Size size, const A *mean, A *plain, A *weighted, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
        const Place<A, WHOLE> place(program, size);
        Vec<A> sum[GROUPS] = {}, product[GROUPS] = {};
        for (Index h = 0; h < size.height; ++h)
            for (int group = 0; group < place.groups; ++group) {
                const Vec<A> everywhere = place.of(gradient.everywhere, place.image, group);
                const Vec<A> centre = place.of(mean, 0, group);
                Vec<A> total{}, products{};
                for (Index w = 0; w < place.size.width; ++w) {
                    const Index at = w * place.size.channels;
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

// The normalisation's own gradients: Σ dout r (z - μ) and Σ dout in every channel. Absent, where the statistics were known
// beforehand.
template <class A> struct NormGradient {
    const A *weight, *bias;
};

// dz = α dout - β - γ (z - μ) = α dout + (γ μ - β) - γ z in a group; where the statistics were known, dz stands for dout.
template <class A> struct Coefficients {
    Vec<A> alpha, same, gamma;

    Coefficients() = default;
    template <bool WHOLE>
    Coefficients(const Place<A, WHOLE> &place, const Norm<A> &norm, const NormGradient<A> &of, const A *everywhere, int group)
        : alpha{}, same{}, gamma{} {
        alpha += 1;
        if (of.weight) {
            const A count = place.size.batch * place.size.height * place.size.width;
            const Vec<A> inverse = norm.inverse(place, group), slope = place.of(norm.weight, 0, group) * inverse;
            alpha = norm.kept(place, slope, group);
            gamma = slope / count * inverse * place.of(of.weight, 0, group);
            same = gamma * place.of(norm.mean, 0, group) - slope / count * place.of(of.bias, 0, group);
        }
        same += alpha * place.of(everywhere, place.image, group);
    }
};

// A row of dz, and its sum.
template <class T, class A, bool WHOLE>
void read_norm_gradient(
    const T *gradient, const T *merged, const Coefficients<A> *given, const Place<A, WHOLE> &place, Index row, Row<A> &into,
    Vec<A> *sums
) {
    if (row == place.size.height) return into.clear();
    for (int group = 0; group < place.groups; ++group) {
        const auto [alpha, same, gamma] = given[group];
        const T *dout = place.at(gradient, row);
        Vec<A> sum{}, *const dz = into[group];
        if (merged) {
            const T *z = place.at(merged, row);
            for (Index w = 0; w < place.size.width; ++w, dout += place.size.channels, z += place.size.channels)
                sum += dz[w] = alpha * place.load(dout, group) + (same - gamma * place.load(z, group));
        } else
            for (Index w = 0; w < place.size.width; ++w, dout += place.size.channels)
                sum += dz[w] = alpha * place.load(dout, group) + same;
        sums[group] += sum;
    }
}

// Σ dz ⊙ (map shifted by each of a kernel's taps), in one group.
template <class A, int COUNT> struct Products {
    Vec<A> sums[COUNT] = {};

    INLINE void add(const Vec<A> (&dz)[COUNT], const Vec<A> &value) {
        for (int i = 0; i < COUNT; ++i) sums[i] += dz[COUNT - 1 - i] * value;
    }
    template <bool WHOLE> void put(const Place<A, WHOLE> &place, A *matrix, int group) const {
        for (int i = 0; i < COUNT; ++i) place.put(sums[i], matrix, place.image * COUNT + i, group);
    }
};

// One map's row of gradients, DWᵀ(dz; K) plus what `passed` adds, and its products, in one group.
template <class T, class A, int COUNT, bool WHOLE, class Passed>
INLINE void write_gradient(
    Kernel<A, COUNT> transposed, const Window<A> &dz, const T *map, const Place<A, WHOLE> &place, int group, T *to,
    Products<A, COUNT> &products, Passed passed
) {
    Products<A, COUNT> local = products;
    walk<COUNT>(dz, group, place.size.width, [&](Index w, const auto &around) {
        const Index at = w * place.size.channels;
        place.store(passed(at, transposed.at(around)), to + at, group);
        local.add(around, place.load(map + at, group));
    });
    products = local;
}

// dx = dout + DWᵀ(dz; K), ds = DWᵀ(dz; K_s), and the sums from which all other gradients follow.
template <class T, class A, bool CARRIED, bool WHOLE>
void merge_gradients(
    Incoming<T, A> gradient, const T *x, const T *shortcut, const T *merged, Terms<A> terms, Size size, Norm<A> norm,
    NormGradient<A> of_norm, T *dx, T *ds, A *plain, A *of_value, A *of_shortcut, int threads
) {
    constexpr int SHORTCUT_TAPS = CARRIED ? TAPS : 1;
#pragma omp parallel num_threads(threads)
    {
        Window<A> dz(size.width);
#pragma omp for
        for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
            const Place<A, WHOLE> place(program, size);
            Coefficients<A> coefficients[GROUPS];
            Kernel<A, TAPS> to_value[GROUPS];
            Kernel<A, SHORTCUT_TAPS> to_shortcut[GROUPS];
            for (int group = 0; group < place.groups; ++group) {
                coefficients[group] = Coefficients<A>(place, norm, of_norm, gradient.everywhere, group);
                to_value[group] = value_kernel(place, terms, group).transposed();
                to_shortcut[group] = shortcut_kernel<SHORTCUT_TAPS>(place, terms, group).transposed();
            }
            Vec<A> sums[GROUPS] = {};
            Products<A, TAPS> values[GROUPS];
            Products<A, SHORTCUT_TAPS> shortcuts[GROUPS];
            dz.here.clear();
            read_norm_gradient(gradient.map, merged, coefficients, place, 0, dz.below, sums);
            for (Index h = 0; h < size.height; ++h) {
                dz.move();
                read_norm_gradient(gradient.map, merged, coefficients, place, h + 1, dz.below, sums);
                const T *const from = place.at(gradient.map, h);
                for (int group = 0; group < place.groups; ++group) {
                    const Vec<A> everywhere = place.of(gradient.everywhere, place.image, group);
                    write_gradient(
                        to_value[group], dz, place.at(x, h), place, group,
                        place.at(dx, h), values[group],
                        [&](Index at, const Vec<A> &made) { return place.load(from + at, group) + (made + everywhere); }
                    );
                    write_gradient(
                        to_shortcut[group], dz, place.at(shortcut, h), place, group, place.at(ds, h), shortcuts[group],
                        [](Index, const Vec<A> &made) { return made; }
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

// Calls a pass with whether the channels fill their groups, and whether the shortcut has nine taps, as constants.
template <class A, class Pass> void for_each(const Size &size, const Terms<A> &terms, Pass pass) {
    for_channels<A>(size, [&](auto whole) {
        if (terms.shortcut_kernel) pass(whole, std::true_type());
        else pass(whole, std::false_type());
    });
}

}  // namespace

// One set of C functions for each storage type; the number of threads is PyTorch's.
#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void moments_##NAME(                                                                                    \
        const T *x, const T *s, Terms<A> terms, Size size, T *merged, A *mean, A *variance, int threads                \
    ) {                                                                                                                \
        for_each<A>(size, terms, [&](auto whole, auto carried) {                                                       \
            moments<T, A, carried, whole>(x, s, terms, size, merged, mean, variance, threads);                         \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void merge_and_normalise_##NAME(                                                                        \
        const T *x, const T *s, Terms<A> terms, Size size, Norm<A> norm, T *out, A *sums, int threads                  \
    ) {                                                                                                                \
        for_each<A>(size, terms, [&](auto whole, auto carried) {                                                       \
            merge_and_normalise<T, A, carried, whole>(x, s, terms, size, norm, out, sums, threads);                    \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void normalise_##NAME(                                                                                  \
        const T *x, const T *merged, Size size, Norm<A> norm, T *out, A *sums, int threads                             \
    ) {                                                                                                                \
        for_channels<A>(size, [&](auto whole) { normalise<T, A, whole>(x, merged, size, norm, out, sums, threads); }); \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        Incoming<T, A> g, const T *merged, Size size, const A *mean, A *plain, A *weighted, int threads                \
    ) {                                                                                                                \
        for_channels<A>(size, [&](auto whole) {                                                                        \
            norm_sums<T, A, whole>(g, merged, size, mean, plain, weighted, threads);                                   \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void merge_gradients_##NAME(                                                                            \
        Incoming<T, A> g, const T *x, const T *s, const T *merged, Terms<A> terms, Size size, Norm<A> norm,            \
        NormGradient<A> of_norm, T *dx, T *ds, A *plain, A *of_value, A *of_shortcut, int threads                      \
    ) {                                                                                                                \
        for_each<A>(size, terms, [&](auto whole, auto carried) {                                                       \
            merge_gradients<T, A, carried, whole>(                                                                     \
                g, x, s, merged, terms, size, norm, of_norm, dx, ds, plain, of_value, of_shortcut, threads             \
            );                                                                                                         \
        });                                                                                                            \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
