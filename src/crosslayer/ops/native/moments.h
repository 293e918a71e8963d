// What batch normalisation makes of each image's moments.

#pragma once

#include <vector>

#include "maps.h"

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
