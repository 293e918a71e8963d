// The passes of the merge over the maps, in training and backward; that of evaluation is in light_merge.h.

#include <utility>

#include "../cpu/light_merge.h"
#include "../cpu/moments.h"
#include "../cpu/output_gradient.h"

namespace {

template <class A> Vec<A> mean_of(const Vec<A> *row, Index width) {
    Vec<A> sum{};
    for (Index w = 0; w < width; ++w) sum += row[w];
    return sum * (A(1) / width);
}

// z; and its mean and biased variance in every channel, rows of it at a time. The first centre is the mean of a row.
template <class T, class A, bool CARRIED, bool WHOLE>
void moments(
    const T *x, const T *shortcut, Terms<A> terms, Size size, T *merged, A *mean, A *variance, int threads
) {
    ImageMoments images(size);
#pragma omp parallel num_threads(threads)
    {
        std::unique_ptr<Vec<A>[]> row(new Vec<A>[size.width]);
#pragma omp for
        for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
            const Place<A, WHOLE> place(program, size);
            Moments<A> moments;
            Vec<A> sums[GROUPS] = {}, squares[GROUPS] = {};
            const Merge<T, A, CARRIED> merge(x, shortcut, terms, place);
            for (Index h = 0, before = 0; h < size.height; ++h) {
                const Index count = (h + 1) * size.width - before;
                const bool chunk = h + 1 == size.height || count >= (before ? CHUNK : FIRST_CHUNK);
                for (int group = 0; group < place.groups; ++group) {
                    T *const to = place.at(merged, h);
                    merge.each(place, h, group, [&](Index w, const Vec<A> &z) {
                        row[w] = z;
                        place.store(z, to + w * place.size.channels, group);
                    });
                    if (h == 0) moments.start(group, mean_of<A>(row.get(), size.width));
                    const Vec<A> centre = moments.centre(group);
                    Vec<A> sum{}, square{};
                    for (Index w = 0; w < size.width; ++w) {
                        sum += row[w] - centre;
                        square += (row[w] - centre) * (row[w] - centre);
                    }
                    sums[group] += sum, squares[group] += square;
                    if (chunk) {
                        moments.add(group, sums[group], squares[group], count, before);
                        sums[group] = squares[group] = Vec<A>{};
                    }
                }
                if (chunk) before += count;
            }
            images.put(place, moments);
        }
    }
    images.together(mean, variance);
}

// For the z that `moments` wrote.
template <class T, class A>
void normalise(const T *x, const T *merged, Size size, Norm<A> norm, T *out, A *sums, int threads) {
    normalised(size, norm, out, sums, threads, [=](const auto &tile, const auto &affine, Values<A> &made) {
        tile.each([&](Index p, int group) {
            made[p][group] = tile.load(x, p, group) + affine.of(tile.load(merged, p, group), group);
        });
    });
}

// Σ dout and Σ dout ⊙ (z - μ) over each image's map.
template <class T, class A>
void norm_sums(
    Incoming<T, A> gradient, const T *merged, Size size, Norm<A> norm, A *plain, A *weighted, int threads
) {
    norm_sums_of(size, norm, plain, weighted, threads, [=](const auto &tile, const auto &, Values<A> &z, Values<A> &g) {
        tile.each([&](Index p, int group) {
            z[p][group] = tile.load(merged, p, group);
            g[p][group] = gradient.at(tile, p, group);
        });
    });
}

// From the output's gradient to dz; where the statistics were known, dz stands for dout.
template <class T, class A, bool WHOLE>
Coefficients<A> incoming_coefficients(
    const Place<A, WHOLE> &place, const Norm<A> &norm, const NormGradient<A> &of_norm, const Incoming<T, A> &gradient,
    int group
) {
    Coefficients<A> made{};
    if (of_norm.weight) made = Coefficients<A>(place, norm, of_norm, group);
    else made.alpha += 1;
    made.same += made.alpha * place.of(gradient.everywhere, place.image, group);
    return made;
}

// A row of dz, and its sum.
template <class T, class A, bool WHOLE>
void read_norm_gradient(
    const T *gradient, const T *merged, const Coefficients<A> *given, const Place<A, WHOLE> &place, Index row, Row<A> &into,
    Vec<A> *sums
) {
    if (row == place.size.height) return into.clear();
    for (int group = 0; group < place.groups; ++group) {
        const Coefficients<A> own = given[group];
        const T *dout = place.at(gradient, row);
        Vec<A> sum{}, *const dz = into[group];
        if (merged) {
            const T *z = place.at(merged, row);
            for (Index w = 0; w < place.size.width; ++w, dout += place.size.channels, z += place.size.channels)
                sum += dz[w] = own.of(place.load(dout, group), place.load(z, group));
        } else
            for (Index w = 0; w < place.size.width; ++w, dout += place.size.channels)
                sum += dz[w] = own.alpha * place.load(dout, group) + own.same;
        sums[group] += sum;
    }
}

// dx = dout + DWᵀ(dz; K), row by row, for an x that is kept.
template <class T, class A> class MapGradient {
  public:
    template <bool WHOLE>
    MapGradient(const T *x, Incoming<T, A> gradient, T *dx, const Place<A, WHOLE> &place) : x(x), dout(gradient.map), dx(dx) {
        for (int group = 0; group < place.groups; ++group)
            everywhere[group] = place.of(gradient.everywhere, place.image, group);
    }
    template <bool WHOLE>
    INLINE void write(
        const Kernel<A, TAPS> &transposed, const Window<A> &dz, const Place<A, WHOLE> &place, Index row, int group,
        TapProducts<A, TAPS> &products
    ) {
        const T *const from = place.at(dout, row);
        const Vec<A> same = everywhere[group];
        write_gradient(
            transposed, dz, place.at(x, row), place, group, place.at(dx, row), products,
            [&](Index at, const Vec<A> &made) INLINE_LAMBDA { return place.load(from + at, group) + (made + same); }
        );
    }
    template <bool WHOLE> void end(const Place<A, WHOLE> &) const {}

  private:
    const T *const x, *const dout;
    T *const dx;
    Vec<A> everywhere[GROUPS];
};

// ds = DWᵀ(dz; K_s), what rows of x's gradient `begin` makes of dz, and the sums from which all other gradients follow.
template <class T, class A, bool CARRIED, bool WHOLE, class Begin>
void merge_gradients(
    Incoming<T, A> gradient, const T *shortcut, const T *merged, Terms<A> terms, Size size, Norm<A> norm,
    NormGradient<A> of_norm, T *ds, A *plain, A *of_value, A *of_shortcut, int threads, Begin begin
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
                coefficients[group] = incoming_coefficients(place, norm, of_norm, gradient, group);
                to_value[group] = value_kernel(place, terms, group).transposed();
                to_shortcut[group] = shortcut_kernel<SHORTCUT_TAPS>(place, terms, group).transposed();
            }
            Vec<A> sums[GROUPS] = {};
            TapProducts<A, TAPS> values[GROUPS];
            TapProducts<A, SHORTCUT_TAPS> shortcuts[GROUPS];
            auto rows = begin(place);
            dz.here.clear();
            read_norm_gradient(gradient.map, merged, coefficients, place, 0, dz.below, sums);
            for (Index h = 0; h < size.height; ++h) {
                dz.move();
                read_norm_gradient(gradient.map, merged, coefficients, place, h + 1, dz.below, sums);
                for (int group = 0; group < place.groups; ++group) {
                    rows.write(to_value[group], dz, place, h, group, values[group]);
                    write_gradient(
                        to_shortcut[group], dz, place.at(shortcut, h), place, group, place.at(ds, h), shortcuts[group],
                        [](Index, const Vec<A> &made) INLINE_LAMBDA { return made; }
                    );
                }
            }
            rows.end(place);
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
        normalise(x, merged, size, norm, out, sums, threads);                                                          \
    }                                                                                                                  \
    extern "C" void norm_sums_##NAME(                                                                                  \
        Incoming<T, A> g, const T *merged, Size size, Norm<A> norm, A *plain, A *weighted, int threads                 \
    ) {                                                                                                                \
        norm_sums(g, merged, size, norm, plain, weighted, threads);                                                    \
    }                                                                                                                  \
    extern "C" void merge_gradients_##NAME(                                                                            \
        Incoming<T, A> g, const T *x, const T *s, const T *merged, Terms<A> terms, Size size, Norm<A> norm,            \
        NormGradient<A> of_norm, Norm<A> ending, A *ended_plain, A *ended_weighted, T *dx, T *ds, A *plain,            \
        A *of_value, A *of_shortcut, int threads                                                                       \
    ) {                                                                                                                \
        for_each<A>(size, terms, [&](auto whole, auto carried) {                                                       \
            const auto run = [&](auto begin) {                                                                         \
                merge_gradients<T, A, carried, whole>(                                                                 \
                    g, s, merged, terms, size, norm, of_norm, ds, plain, of_value, of_shortcut, threads, begin         \
                );                                                                                                     \
            };                                                                                                         \
            const EndedMaps<T, A> maps{x, s, g, dx, ended_plain, ended_weighted};                                      \
            if (ending.mean) run([&](const auto &place) { return OutputGradient<T, A>(maps, ending, place); });        \
            else run([&](const auto &place) { return MapGradient<T, A>(x, g, dx, place); });                           \
        });                                                                                                            \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
