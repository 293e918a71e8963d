// Mean and variance of maps in every channel.

#pragma once

#include <vector>

#include "tiles.h"

// Mean and biased variance over all images' maps, from each image's mean and sum of squared deviations from that.
template <class A> void over_images(const A *means, const A *deviations, const Size &size, A *mean, A *variance) {
    const A per_map = size.height * size.width, images = std::max<Index>(size.batch, 1);  // an empty batch has zeros
    for (Index c = 0; c < size.channels; ++c) {
        A sum = 0, squares = 0;
        for (Index b = 0; b < size.batch; ++b) sum += means[b * size.channels + c];
        mean[c] = sum / images;
        for (Index b = 0; b < size.batch; ++b) {
            const A change = means[b * size.channels + c] - mean[c];
            squares += deviations[b * size.channels + c] + per_map * change * change;
        }
        variance[c] = squares / (images * per_map);
    }
}

// Mean and biased variance in every channel of what `make` fills a tile with. Over each image's map first the mean and the
// sum of squared deviations from it, both by way of the deviations from the first position, so that a mean far from zero
// costs no digits.
template <class A, class Make>
void moments_of(const Size &size, A *mean, A *variance, int threads, Make make) {
    std::vector<A> means(size.batch * size.channels), deviations(means.size());
    const A share = A(1) / (size.height * size.width);
    each_program<A>(size, threads, [&](const Place<A> &place) {
        Vec<A> start[GROUPS], sum[GROUPS] = {}, squares[GROUPS] = {};
        bool begun = false;
        each_tile(place, [&](const auto &tile) {
            Values<A> made;
            make(tile, made);
            if (!begun) tile.groups([&](int group) { start[group] = made[0][group]; });
            begun = true;
            tile.each([&](Index p, int group) {
                const Vec<A> deviation = made[p][group] - start[group];
                sum[group] += deviation;
                squares[group] += deviation * deviation;
            });
        });
        for (int group = 0; group < place.groups; ++group) {
            place.put(start[group] + sum[group] * share, means.data(), place.image, group);
            place.put(squares[group] - sum[group] * sum[group] * share, deviations.data(), place.image, group);
        }
    });
    over_images(means.data(), deviations.data(), size, mean, variance);
}
