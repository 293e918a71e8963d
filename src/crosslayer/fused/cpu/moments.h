// Mean and variance of maps in every channel.
//
// Numbers are summed chunk by chunk, as deviations from the mean of the chunk before, and chunks are put together in double
// precision (the update of Chan, Golub & LeVeque). However far a few numbers lie from the rest, what is lost by a centre that
// is not the chunk's own is a few roundings of the variance: chunks whose means are far apart are a part of it.

#pragma once

#include "tiles.h"

// As many numbers as a vector has, in double precision.
template <class A> struct Exact {
    typedef double type __attribute__((vector_size(Lanes<A>::count * sizeof(double))));
};

// Mean and sum of squared deviations from it, in a program's groups.
template <class A> class Moments {
  public:
    // What the next numbers' deviations are taken from.
    INLINE const Vec<A> &centre(int group) const { return centres[group]; }
    INLINE void start(int group, const Vec<A> &at) { centres[group] = at; }

    // So many more numbers, by the sums of their deviations from the centre, and of those squared.
    INLINE void add(int group, const Vec<A> &sum, const Vec<A> &squares, Index count, Index before) {
        const double some = count, share = some / (before + some);
        const Vec<A> shift = sum * A(1 / some);
        const Numbers own = wide(squares - sum * shift), at = wide(centres[group]) + wide(sum) * (1 / some);
        centres[group] += shift;
        if (!before) {
            means[group] = at, deviations[group] = own;
            return;
        }
        const Numbers change = at - means[group];
        means[group] += change * share;
        deviations[group] += own + change * change * (before * share);
    }

    template <bool WHOLE>
    void put(const Place<A, WHOLE> &place, double *mean, double *deviation) const {
        const Index at = place.image * place.size.channels + place.first;
        std::memcpy(mean + at, means, place.channels * sizeof(double));
        std::memcpy(deviation + at, deviations, place.channels * sizeof(double));
    }

  private:
    using Numbers = typename Exact<A>::type;
    static INLINE Numbers wide(const Vec<A> &of) { return __builtin_convertvector(of, Numbers); }

    Vec<A> centres[GROUPS] = {};
    Numbers means[GROUPS], deviations[GROUPS];
};

// Those of every image's map, put together in the end.
class ImageMoments {
  public:
    explicit ImageMoments(const Size &size)
        : size(size), means(new double[size.batch * size.channels]), deviations(new double[size.batch * size.channels]) {}

    template <class A, bool WHOLE> void put(const Place<A, WHOLE> &place, const Moments<A> &of) {
        of.put(place, means.get(), deviations.get());
    }

    // Mean and biased variance over all of them; an empty batch has zeros.
    template <class A> void together(A *mean, A *variance) const {
        const double images = std::max<Index>(size.batch, 1), per_map = size.height * size.width;
        const std::unique_ptr<double[]> sums(new double[2 * size.channels]());
        double *const centre = sums.get(), *const squares = centre + size.channels;
        each([&](Index c, double own, double) { centre[c] += own / images; });
        each([&](Index c, double own, double deviation) {
            squares[c] += deviation + per_map * (own - centre[c]) * (own - centre[c]);
        });
        for (Index c = 0; c < size.channels; ++c) mean[c] = A(centre[c]), variance[c] = A(squares[c] / (images * per_map));
    }

  private:
    template <class Use> INLINE void each(Use use) const {
        for (Index b = 0; b < size.batch; ++b)
            for (Index c = 0; c < size.channels; ++c)
                use(c, means[b * size.channels + c], deviations[b * size.channels + c]);
    }

    const Size size;
    const std::unique_ptr<double[]> means, deviations;
};

// Positions in the first chunk, for whose centre there is the mean of a tile only, and in those after it. Stretches are summed
// by themselves: long sums of like numbers round one way.
constexpr Index FIRST_CHUNK = 64, CHUNK = 1024, STRETCH = 128;

// Whether there are so many groups or not: vectors with indices known to the compiler stay in registers.
template <class Use> INLINE void all_groups(Use use) {
#pragma GCC unroll 4
    for (int group = 0; group < GROUPS; ++group) use(group);
}

// Mean and biased variance in every channel of what `make` fills a tile with.
template <class A, class Make>
void moments_of(const Size &size, A *mean, A *variance, int threads, Make make) {
    ImageMoments images(size);
    each_program<A>(size, threads, [&](const Place<A> &place) {
        Moments<A> moments;
        const Index positions = place.size.width, few = std::min(POSITIONS, positions);
        each_tile(place, 0, few, [&](const auto &tile) {
            Values<A> made;
            Vec<A> sum[GROUPS] = {};
            make(tile, made);
            tile.each([&](Index p, int group) { sum[group] += made[p][group]; });
            tile.groups([&](int group) { moments.start(group, sum[group] * (A(1) / few)); });
        });
        for (Index first = 0, last; first < positions; first = last) {
            Vec<A> centre[GROUPS], sums[GROUPS] = {}, squares[GROUPS] = {};
            last = std::min(positions, first + (first ? CHUNK : FIRST_CHUNK));
            all_groups([&](int group) { centre[group] = moments.centre(group); });
            for (Index from = first; from < last; from += STRETCH) {
                Vec<A> sum[GROUPS] = {}, square[GROUPS] = {};
                each_tile(place, from, std::min(from + STRETCH, last), [&](const auto &tile) {
                    Values<A> made;
                    make(tile, made);
                    tile.each([&](Index p, int group) {
                        const Vec<A> deviation = made[p][group] - centre[group];
                        sum[group] += deviation;
                        square[group] += deviation * deviation;
                    });
                });
                all_groups([&](int group) { sums[group] += sum[group], squares[group] += square[group]; });
            }
            for (int group = 0; group < place.groups; ++group)
                moments.add(group, sums[group], squares[group], last - first, first);
        }
        images.put(place, moments);
    });
    images.together(mean, variance);
}
