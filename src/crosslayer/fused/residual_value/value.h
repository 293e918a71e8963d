// The gradient of a depth-wise 3×3 convolution V = DW(x; K), whatever x is made of.

#pragma once

#include "../cpu/depthwise.h"
#include "../cpu/normalisation.h"

// Σ g ⊙ (x shifted by each tap) over each image's map, with g the gradient of V. For every program `begin` makes what
// writes a row in one group, given g, and adds to the products; at the program's end it is told.
template <class T, class A, bool WHOLE, class Begin>
void value_gradients(
    Incoming<T, A> gradient, const A *taps, const Size &size, A *products, int threads, Begin begin
) {
#pragma omp parallel num_threads(threads)
    {
        Window<A> g(size.width);
#pragma omp for
        for (Index program = 0; program < Place<A, WHOLE>::programs(size); ++program) {
            const Place<A, WHOLE> place(program, size);
            Kernel<A, TAPS> transposed[GROUPS];
            Vec<A> everywhere[GROUPS];
            TapProducts<A, TAPS> sums[GROUPS];
            for (int group = 0; group < place.groups; ++group) {
                transposed[group] = kernel_of(place, taps, group).transposed();
                everywhere[group] = place.of(gradient.everywhere, place.image, group);
            }
            const auto whole = [&](const Vec<A> &own, int group) { return own + everywhere[group]; };
            auto rows = begin(place);
            g.here.clear();
            g.below.read(gradient.map, place, 0, whole);
            for (Index h = 0; h < size.height; ++h) {
                g.move();
                g.below.read(gradient.map, place, h + 1, whole);
                for (int group = 0; group < place.groups; ++group)
                    rows.write(transposed[group], g, place, h, group, sums[group]);
            }
            for (int group = 0; group < place.groups; ++group) sums[group].put(place, products, group);
            rows.end(place);
        }
    }
}
