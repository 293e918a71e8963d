// Sums over each image's map: global average pooling.

#pragma once

#include "tiles.h"

template <class T, class A> void map_sums(const T *x, Size size, A *sums, int threads) {
    each_program<A>(size, threads, [&](const Place<A> &place) {
        Vec<A> sum[GROUPS] = {};
        each_tile(place, [&](const auto &tile) {
            tile.each([&](Index p, int group) { sum[group] += tile.load(x, p, group); });
        });
        for (int group = 0; group < place.groups; ++group) place.put(sum[group], sums, place.image, group);
    });
}
