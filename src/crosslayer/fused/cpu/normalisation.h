// Batch normalisation of maps: what it does to a group of channels in one image, and its gradient.

#pragma once

#include "tiles.h"

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

// What the normalisation does in a program's groups: slope ⊙ z + shift.
template <class A> class Affine {
  public:
    template <bool WHOLE> Affine(const Place<A, WHOLE> &place, const Norm<A> &norm) {
        for (int group = 0; group < place.groups; ++group) {
            const Vec<A> bias = norm.bias ? place.of(norm.bias, 0, group) : Vec<A>{};
            slopes[group] = norm.slope(place, group);
            shifts[group] = norm.kept(place, bias, group) - place.of(norm.mean, 0, group) * slopes[group];
        }
    }
    INLINE Vec<A> of(const Vec<A> &z, int group) const { return slopes[group] * z + shifts[group]; }
    INLINE const Vec<A> &slope(int group) const { return slopes[group]; }

  private:
    Vec<A> slopes[GROUPS], shifts[GROUPS];
};

// max(0, z), and a gradient where that is above zero; what is no number stays so.
template <class A> INLINE Vec<A> rectified(const Vec<A> &z) { return z < 0 ? Vec<A>{} : z; }
template <class A> INLINE Vec<A> through_relu(const Vec<A> &gradient, const Vec<A> &z) {
    return z <= 0 ? Vec<A>{} : gradient;
}

// The gradient that comes in: the output's own, and for each image and channel what its pool's adds everywhere.
template <class T, class A> struct Incoming {
    const T *map;
    const A *everywhere;

    template <bool WHOLE> INLINE Vec<A> at(const Tile<A, WHOLE> &tile, Index p, int group) const {
        return tile.load(map, p, group) + tile.of(everywhere, tile.place.image, group);
    }
};

// The normalisation's own gradients: Σ g r (z - μ) and Σ g in every channel, g that of its output; zero, where the statistics
// were known beforehand.
template <class A> struct NormGradient {
    const A *weight, *bias;
};

// dz = α g - β - γ (z - μ) = α g + (γ μ - β) - γ z in a group.
template <class A> struct Coefficients {
    Vec<A> alpha, same, gamma;

    Coefficients() = default;
    template <bool WHOLE>
    Coefficients(const Place<A, WHOLE> &place, const Norm<A> &norm, const NormGradient<A> &of, int group) {
        const A count = place.size.batch * place.size.height * place.size.width;
        const Vec<A> inverse = norm.inverse(place, group), slope = place.of(norm.weight, 0, group) * inverse;
        alpha = norm.kept(place, slope, group);
        gamma = slope / count * inverse * place.of(of.weight, 0, group);
        same = gamma * place.of(norm.mean, 0, group) - slope / count * place.of(of.bias, 0, group);
    }
    INLINE Vec<A> of(const Vec<A> &g, const Vec<A> &z) const { return alpha * g + (same - gamma * z); }
};

// Those of all of a program's groups.
template <class A> class AllCoefficients {
  public:
    AllCoefficients(const Place<A> &place, const Norm<A> &norm, const NormGradient<A> &of) {
        for (int group = 0; group < place.groups; ++group) groups[group] = Coefficients<A>(place, norm, of, group);
    }
    INLINE Vec<A> of(const Vec<A> &g, const Vec<A> &z, int group) const { return groups[group].of(g, z); }

  private:
    Coefficients<A> groups[GROUPS];
};

// Writes what `make` fills tiles with, which is given the normalisation; and its sums over each image's map, if asked for.
template <class T, class A, class Make>
void normalised(const Size &size, const Norm<A> &norm, T *out, A *sums, int threads, Make make) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const Affine<A> affine(place, norm);
        Vec<A> sum[GROUPS] = {};
        each_tile(place, [&](const auto &tile) {
            Values<A> made;
            make(tile, affine, made);
            tile.each([&](Index p, int group) {
                tile.store(made[p][group], out, p, group);
                sum[group] += made[p][group];
            });
        });
        if (sums)
            for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    });
}

// Σ g and Σ g ⊙ (z - μ) over each image's map; `make` fills tiles with z and with g, the gradient of the normalisation's output.
template <class A, class Make>
void norm_sums_of(const Size &size, const Norm<A> &norm, A *plain, A *weighted, int threads, Make make) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        const Affine<A> affine(place, norm);
        Vec<A> centre[GROUPS], sum[GROUPS] = {}, product[GROUPS] = {};
        for (int group = 0; group < place.groups; ++group) centre[group] = place.of(norm.mean, 0, group);
        each_tile(place, [&](const auto &tile) {
            Values<A> z, g;
            make(tile, affine, z, g);
            tile.each([&](Index p, int group) {
                sum[group] += g[p][group];
                product[group] += g[p][group] * (z[p][group] - centre[group]);
            });
        });
        for (int group = 0; group < place.groups; ++group) {
            place.put(sum[group], plain, place.image, group);
            place.put(product[group], weighted, place.image, group);
        }
    });
}
