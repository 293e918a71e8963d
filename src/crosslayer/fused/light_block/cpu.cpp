// The end of a residual block with light layer attention, to evaluate, a few images at a time:
//
//     x = ReLU(BN(c) + s),   y = GAP(x),   p = GAP(s),   s normalised here if it is not yet
//     G = σ(q·k / √d) per head,   q = C1D(y),   k = C1D'(y)
//     DLA-L:   the cell steps its context on y and refreshes p:   a = λ ⊙ σ(memory refreshed),   K_s = λ ⊙ K_stage
//     MRLA-L:  a = λ
//     out = x + BN'(G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s))
//
// A chunk of images is taken from the convolution's output to the block's own before the next is begun. So x stays in a near
// cache and is never part of a map, and the small vectors are a few calls of functions here.

#include <vector>

#include "dsu.h"
#include "../cpu/light_merge.h"
#include "../cpu/map_sums.h"
#include "../cpu/residual.h"

namespace {

template <class T> struct Maps {
    const T *convolved, *shortcut;
    T *out;
};

template <class A> struct Weights {
    const A *query, *key;           // of 1-D convolutions over the channels
    const A *value, *stage, *scale; // K and K_stage, channels × taps, and λ; K_stage may be missing
};

// Matrices with a row for each image, from the blocks before: the shortcut's pool, if it is known; the context, if there is one.
template <class A> struct Before {
    const A *pool, *recalled, *memory;
};

// Likewise, what is left behind: gates of the heads, a, the context (with a cell only), and the output's pool.
template <class T, class A> struct After {
    A *gates, *carried, *recalled, *memory;
    T *pool;
};

struct Counts {
    Index window, head_channels, squeezed, chunk;  // of query and key; of the cell, 0 without one; images at a time
};

template <class T, class A> struct Block {
    Maps<T> maps;
    Size size;
    Norm<A> norm, shortcut_norm, merged_norm;  // the shortcut's may be missing
    Weights<A> weights;
    Cell<A> cell;
    Before<A> before;
    After<T, A> after;
    Counts counts;
    const std::vector<A> taps, stage_taps;
};

// A depth-wise kernel with the channels side by side, each times its factor, if there are factors.
template <class A> std::vector<A> taps_of(const A *kernel, const A *factors, Index channels) {
    std::vector<A> taps(kernel ? TAPS * channels : 0);
    for (Index c = 0; kernel && c < channels; ++c)
        for (int i = 0; i < TAPS; ++i) taps[i * channels + c] = kernel[c * TAPS + i] * (factors ? factors[c] : 1);
    return taps;
}

// What one thread does with a chunk, in scratch memory of its own.
template <class T, class A> class Chunk {
  public:
    explicit Chunk(const Block<T, A> &block)
        : block(block), counts(block.counts), channels(block.size.channels), x(new T[counts.chunk * image_size()]),
          s(new T[block.shortcut_norm.mean ? counts.chunk * image_size() : 0]), rows(new A[counts.chunk * channels]),
          gate_rows(new A[counts.chunk * channels]), pooled(columns<A>(channels + counts.window)),
          gates(columns<A>(channels)), carried(columns<A>(channels)), old(columns<A>(channels)),
          between(columns<A>(counts.squeezed)), memory(columns<A>(counts.squeezed ? channels : 0)),
          seen(columns<A>(counts.squeezed ? 3 * channels : 0)), recalled(columns<A>(counts.squeezed ? 3 * channels : 0)) {}

    void end(Index first_image, Index image_count) {
        first = first_image, images = image_count;
        const Size &size = block.size;
        const Size part{images, size.height, size.width, channels};
        const Index at = first * image_size();
        const T *const shortcut = take_shortcut(block.maps.shortcut + at, part);
        output<T, A, false>(block.maps.convolved + at, shortcut, part, block.norm, x.get(), rows.get(), {}, 1);
        to_lanes(rows.get(), images, channels, share(), pooled.get() + margin());
        gate_heads();
        carry();
        const Terms<A> terms{
            block.taps.data(), gate_rows.get(), block.weights.stage ? block.stage_taps.data() : nullptr,
            block.after.carried + first * channels, nullptr
        };
        for_each<A>(part, terms, [&](auto whole, auto carried) {
            merge_and_normalise<T, A, carried, whole>(
                x.get(), shortcut, terms, part, block.merged_norm, block.maps.out + at, rows.get(), 1
            );
        });
        narrow(rows.get(), images * channels, share(), block.after.pool + first * channels);
    }

  private:
    // The chunk of the shortcut, normalised if it is not yet; its pool, if that is wanted.
    const T *take_shortcut(const T *from, const Size &part) {
        const T *const taken = block.shortcut_norm.mean ? normalise_shortcut(from, part) : from;
        if (!counts.squeezed) return taken;
        if (block.before.pool) to_lanes(block.before.pool + first * channels, images, channels, A(1), old.get());
        else {
            if (taken == from) map_sums(from, part, rows.get(), 1);
            to_lanes(rows.get(), images, channels, share(), old.get());
        }
        return taken;
    }
    // And its sums, which go into the rows.
    const T *normalise_shortcut(const T *from, const Size &part) {
        normalised(part, block.shortcut_norm, s.get(), rows.get(), 1, [=](const auto &tile, const auto &affine, Values<A> &made) {
            tile.each([&](Index p, int group) { made[p][group] = affine.of(tile.load(from, p, group), group); });
        });
        return s.get();
    }

    // A gate for each head, and a row of gates with one for each channel.
    void gate_heads() {
        const Index heads = channels / counts.head_channels;
        const A scale = 1 / std::sqrt(A(counts.head_channels));
        for (Index head = 0; head < heads; ++head) {
            Vec<A> sum{};
            for (Index c = head * counts.head_channels; c < (head + 1) * counts.head_channels; ++c)
                sum += convolved(block.weights.query, c) * convolved(block.weights.key, c);
            gates[head] = sigmoid<A>(sum * scale);
        }
        to_rows(gates.get(), images, heads, block.after.gates + first * heads);
        for (Index c = channels - 1; c >= 0; --c)  // from the end, where no head is waiting to be read
            gates[c] = gates[c / counts.head_channels];
        to_rows(gates.get(), images, channels, gate_rows.get());
    }
    INLINE Vec<A> convolved(const A *kernel, Index c) const {
        Vec<A> sum{};
        for (Index i = 0; i < counts.window; ++i) sum += kernel[i] * pooled[c + i];
        return sum;
    }

    void carry() {
        if (counts.squeezed) refresh();
        else
            for (Index c = 0; c < channels; ++c) carried[c] = Vec<A>{} + block.weights.scale[c];
        to_rows(carried.get(), images, channels, block.after.carried + first * channels);
    }
    void refresh() {
        const auto &[of_input, of_hidden] = block.cell;
        const auto see = [&](const SqueezeNet<A> &net, const Vec<A> *of, Vec<A> *made) {
            net.of(of, channels, counts.squeezed, between.get(), made);
        };
        if (block.before.memory) {
            to_lanes(block.before.recalled + 3 * first * channels, images, 3 * channels, A(1), recalled.get());
            to_lanes(block.before.memory + first * channels, images, channels, A(1), memory.get());
        } else {
            std::fill_n(memory.get(), channels, Vec<A>{});
            see(of_hidden, memory.get(), recalled.get());
        }
        see(of_input, pooled.get() + margin(), seen.get());
        step(memory.get());
        for (Index c = 0; c < channels; ++c) carried[c] = sigmoid<A>(memory[c]);
        see(of_hidden, carried.get(), recalled.get());
        to_rows(recalled.get(), images, 3 * channels, block.after.recalled + 3 * first * channels);
        to_rows(memory.get(), images, channels, block.after.memory + first * channels);
        see(of_input, old.get(), seen.get());
        step(carried.get());
        for (Index c = 0; c < channels; ++c) carried[c] = block.weights.scale[c] * sigmoid<A>(carried[c]);
    }
    void step(Vec<A> *to) const {
        for (Index c = 0; c < channels; ++c) to[c] = next_memory<A>(seen.get(), recalled.get(), memory[c], c, channels);
    }

    Index image_size() const { return block.size.height * block.size.width * channels; }
    A share() const { return A(1) / (block.size.height * block.size.width); }
    Index margin() const { return counts.window / 2; }

    const Block<T, A> &block;
    const Counts counts;
    const Index channels;
    Index first = 0, images = 0;
    const std::unique_ptr<T[]> x, s;
    const std::unique_ptr<A[]> rows, gate_rows;
    const Columns<A> pooled;  // between margins of zeros, as the 1-D convolutions want it
    const Columns<A> gates, carried, old, between, memory, seen, recalled;
};

template <class T, class A> void light_block(const Block<T, A> &block, int threads) {
    const Index images = block.counts.chunk, chunks = (block.size.batch + images - 1) / images;
#pragma omp parallel num_threads(int(std::min<Index>(threads, std::max<Index>(1, chunks))))
    {
        Chunk<T, A> chunk(block);
#pragma omp for schedule(dynamic)
        for (Index i = 0; i < chunks; ++i) chunk.end(i * images, std::min(images, block.size.batch - i * images));
    }
}

}  // namespace

#define FUNCTIONS(NAME, T, A)                                                                                          \
    extern "C" void light_block_##NAME(                                                                                \
        Maps<T> maps, Size size, Norm<A> norm, Norm<A> shortcut_norm, Norm<A> merged_norm, Weights<A> weights,         \
        Cell<A> cell, Before<A> before, After<T, A> after, Counts counts, int threads                                  \
    ) {                                                                                                                \
        const Index channels = size.channels;                                                                          \
        light_block<T, A>(                                                                                             \
            {maps, size, norm, shortcut_norm, merged_norm, weights, cell, before, after, counts,                       \
             taps_of<A>(weights.value, nullptr, channels), taps_of(weights.stage, weights.scale, channels)},           \
            threads                                                                                                    \
        );                                                                                                             \
    }

FUNCTIONS(float32, float, float)
FUNCTIONS(float64, double, double)
FUNCTIONS(bfloat16, BFloat16, float)
