#include "conv_reference.h"
using namespace test;

static const unsigned MMA_SHARED_BYTES = 49152;

// Numbers as the tensor cores read them.
static Doubles as_tf32(const Floats& v) {
    Doubles out;
    for (float f : v.data) out.push_back(bits_to_float(round_tf32(float_to_bits(f))));
    return out;
}
static Doubles as_bf16(const Floats& v) {
    Doubles out;
    for (float f : v.data) {
        bf16 h;
        store(&h, f);
        out.push_back(value(h));
    }
    return out;
}
static Doubles as_bf16(const Halves& v) { return values(v); }
template <class T> static Buffer<T> random(size_t n) {
    Buffer<T> out(n);
    for (T& v : out.data) store(&v, (float)uniform());
    return out;
}
template <class T> static Doubles seen(const Buffer<T>& v) {
    if constexpr (std::is_same_v<T, float>) return as_tf32(v);
    else return as_bf16(v);
}
// For more than one tile of 128 rows and columns, and for more steps than stages.
static const Conv larger[] = {{2, 9, 9, 64, 256, 3, 3, 1, 1, 1, 1}, {1, 17, 9, 40, 136, 3, 3, 2, 2, 1, 1}};
template <class F> static void for_each_conv(F f) {
    for (const Conv& c : conv_cases) f(c);
    for (const Conv& c : larger) f(c);
}

// One to sixteen channels, and the cases of the other loader. A chunk of 16 bytes may begin within a tap, belong to several lines of
// taps, or be beyond the last tap.
template <class F> static void for_each_dense_conv(F f) {
    for_each_conv(f);
    for (int in_c = 1; in_c <= 16; in_c++) {
        f(Conv{2, 7, 5, in_c, 4 * (1 + in_c * 5 % 7), 3, 3, 2, 2, 1, 1});
        f(Conv{1, 6, 4, in_c, 12, 5, 2, 1, 1, 2, 1});
        f(Conv{1, 3, 5, in_c, 8, 1, 1, 1, 1, 0, 0});
    }
    const Conv more[] = {{1, 23, 17, 3, 64, 3, 3, 2, 2, 1, 1}, {1, 13, 11, 16, 128, 3, 3, 2, 2, 1, 1}, {1, 9, 8, 1, 140, 4, 1, 1, 2, 2, 0}};
    for (const Conv& c : more) f(c);
}

// `steps` is the number of steps of depth that are packed for each block of 32 channels.
template <class T, class Pack, class Forward>
static void check_cell(const Conv& c, int steps, Pack pack, Forward forward) {
    const double rounding = sizeof(T) == 2 ? BF16 : 2e-5;
    int channels = c.out_c / 4, cells = c.pixels() * channels;
    Buffer<T> x = random<T>(c.in_len()), y(cells), again(cells), gates(4 * cells);
    Floats weight = random_floats(c.weight_len()), c_prev = random_floats(cells, -2, 2), c_next(cells);
    Buffer<T> packed((size_t)blocks(channels, 32) * steps * 128 * 64 / sizeof(T));
    pack(weight, packed);
    Doubles rounded = sizeof(T) == 2 ? as_bf16(weight) : as_tf32(weight);
    Cell want = cell_reference(c.forward(seen(x), rounded), values(c_prev), Doubles(cells), channels);
    forward(x, packed, c_prev, c_next, y, gates);
    expect(c.name() + "c_next", c_next, want.c_next, 2e-5, 2e-5);
    expect(c.name() + "y", y, want.y, 2e-5, rounding);
    expect(c.name() + "gates", gates, want.gates, 2e-5, rounding);
    Floats state = c_prev;
    forward(x, packed, state, state, again, nullptr);
    expect_exact(c.name() + "state in place", state, values(c_next));
    expect_exact(c.name() + "y without gates", again, values(y));
}

CASE(bconv_bf16) {
    for_each_conv([](const Conv& c) {
        int taps = c.kernel_h * c.kernel_w, channels = c.out_c / 4;
        Grid grid{blocks(c.pixels(), 128), blocks(channels, 32)};
        check_cell<bf16>(
            c, taps * (int)blocks(c.in_c, 32),
            [&](const Floats& w, Buffer<bf16>& p) { RUN(pack_gates_bf16, (Grid{5}), w, p, c.sizes()); },
            [&](const Buffer<bf16>& x, const Buffer<bf16>& p, const float* prev, float* next, bf16* y, bf16* gates) {
                RUN_SHARED(bconv_forward_bf16, grid, MMA_SHARED_BYTES, x, p, prev, next, y, gates, c.sizes());
            });
    });
}
CASE(bconv_tf32) {
    for_each_conv([](const Conv& c) {
        int taps = c.kernel_h * c.kernel_w, channels = c.out_c / 4;
        Grid grid{blocks(c.pixels(), 128), blocks(channels, 32)};
        check_cell<float>(
            c, taps * (int)blocks(c.in_c, 16),
            [&](const Floats& w, Buffer<float>& p) { RUN(pack_gates_tf32, (Grid{5}), w, p, c.sizes()); },
            [&](const Buffer<float>& x, const Buffer<float>& p, const float* prev, float* next, float* y, float* gates) {
                RUN_SHARED(bconv_forward_tf32, grid, MMA_SHARED_BYTES, x, p, prev, next, y, gates, c.sizes());
            });
    });
}
CASE(bconv_dense_bf16) {
    for_each_dense_conv([](const Conv& c) {
        int taps = c.kernel_h * c.kernel_w, channels = c.out_c / 4;
        Grid grid{blocks(c.pixels(), 128), blocks(channels, 32)};
        check_cell<bf16>(
            c, (int)blocks(taps * c.in_c, 32),
            [&](const Floats& w, Buffer<bf16>& p) { RUN(pack_gates_dense_bf16, (Grid{5}), w, p, c.sizes()); },
            [&](const Buffer<bf16>& x, const Buffer<bf16>& p, const float* prev, float* next, bf16* y, bf16* gates) {
                RUN_SHARED(bconv_forward_dense_bf16, grid, MMA_SHARED_BYTES, x, p, prev, next, y, gates, c.sizes());
            });
    });
}
CASE(bconv_dense_tf32) {
    for_each_dense_conv([](const Conv& c) {
        int taps = c.kernel_h * c.kernel_w, channels = c.out_c / 4;
        Grid grid{blocks(c.pixels(), 128), blocks(channels, 32)};
        check_cell<float>(
            c, (int)blocks(taps * c.in_c, 16),
            [&](const Floats& w, Buffer<float>& p) { RUN(pack_gates_dense_tf32, (Grid{5}), w, p, c.sizes()); },
            [&](const Buffer<float>& x, const Buffer<float>& p, const float* prev, float* next, float* y, float* gates) {
                RUN_SHARED(bconv_forward_dense_tf32, grid, MMA_SHARED_BYTES, x, p, prev, next, y, gates, c.sizes());
            });
    });
}

// Channels that are a multiple of 16 bytes, and others.
CASE(bconv_gradients_of_gates_bf16) {
    for (int channels : {1, 5, 8, 18, 24, 40}) {
        const int pixels = 37, cells = pixels * channels;
        Halves gates = random<bf16>(4 * cells), dy = random<bf16>(cells);
        Floats c_prev = random_floats(cells, -2, 2), dc_next = random_floats(cells), dc_prev(cells);
        Doubles grads(4 * cells), state(cells);
        for (int at = 0; at < cells; at++) {
            size_t base = (size_t)(at / channels) * 4 * channels + at % channels;
            double i = value(gates[base]), f = value(gates[base + channels]), o = value(gates[base + 2 * channels]);
            double g = value(gates[base + 3 * channels]), d = value(dy[at]);
            double t = std::tanh(f * c_prev[at] + i * g), dc = d * o * (1 - t * t) + dc_next[at];
            state[at] = dc * f;
            grads[base] = dc * g * i * (1 - i);
            grads[base + channels] = dc * c_prev[at] * f * (1 - f);
            grads[base + 2 * channels] = d * t * o * (1 - o);
            grads[base + 3 * channels] = dc * i * (1 - g * g);
        }
        RUN(bconv_gate_gradients_bf16, (Grid{2}), gates, c_prev, dy, dc_next, dc_prev, pixels, channels);
        expect("gate gradients", gates, grads, 1e-6, 1.1 * BF16);
        expect("gradient of the earlier state", dc_prev, state, 1e-6, 1e-6);
    }
}

// One body for both types: packs, runs, and runs once more adding to random numbers.
#define CHECK_BACKWARD_DATA(type, T, random, rounded, seen, depth, rounding)                                                      \
    for_each_conv([](const Conv& c) {                                                                                       \
        Buffer<T> dy = random(c.out_len());                                                                                 \
        Floats weight = random_floats(c.weight_len());                                                                      \
        Buffer<T> packed((size_t)blocks(c.in_c, 128) * c.kernel_h * c.kernel_w * blocks(c.out_c, depth) * 128 * depth);      \
        RUN(pack_transposed_##type, (Grid{5}), weight, packed, c.sizes()); \
        Doubles sums = c.backward_data(seen(dy), rounded(weight));                                                          \
        long long phase = (long long)c.n * blocks(c.in_h, c.stride_y) * blocks(c.in_w, c.stride_x);                         \
        Grid grid{blocks(phase, 128), blocks(c.in_c, 128), (unsigned)(c.stride_y * c.stride_x)};                            \
        for (int accumulate = 0; accumulate < 2; accumulate++) {                                                            \
            Buffer<T> dx = accumulate ? random(c.in_len()) : Buffer<T>(c.in_len());                                         \
            Doubles want = sums;                                                                                            \
            for (size_t i = 0; i < want.size() && accumulate; i++) want[i] += value(dx[i]);                                 \
            RUN_SHARED(conv2d_backward_data_##type, grid, MMA_SHARED_BYTES, dy, packed, dx, c.sizes(), accumulate); \
            expect(c.name() + "dx", dx, want, 5e-5, rounding);                                                              \
        }                                                                                                                   \
    })

CASE(conv2d_backward_data_bf16_mma) { CHECK_BACKWARD_DATA(bf16, bf16, random_halves, as_bf16, values, 32, BF16); }
CASE(conv2d_backward_data_tf32_mma) { CHECK_BACKWARD_DATA(tf32, float, random_floats, as_tf32, as_tf32, 16, 2e-5); }

// The cases of cells, and more: rows of odd lengths on both sides, many numbers of channels, one pixel, a stem of 7x7 taps with 3 channels.
template <class F> static void for_each_plain_conv(F f) {
    for_each_conv(f);
    const Conv odd[] = {{2, 5, 7, 1, 1, 3, 3, 1, 1, 1, 1},    {1, 9, 7, 7, 70, 3, 3, 2, 2, 1, 1},   {3, 6, 5, 70, 35, 3, 3, 1, 2, 1, 0},
                        {1, 15, 11, 3, 64, 7, 7, 2, 2, 3, 3}, {2, 11, 3, 13, 129, 1, 1, 2, 2, 0, 0}, {1, 1, 1, 8, 8, 3, 3, 1, 1, 1, 1},
                        {7, 5, 5, 10, 33, 2, 2, 1, 1, 0, 1},  {1, 4, 40, 15, 24, 1, 5, 1, 3, 0, 2}};
    for (const Conv& c : odd) f(c);
    for (int channels = 1; channels <= 70; channels += 1 + channels / 8) f(Conv{1, 3, 5, channels, 71 - channels, 1, 1, 1, 1, 0, 0});
}

template <class T, class Pack, class Forward> static void check_forward(int depth, double rounding, Pack pack, Forward forward) {
    for_each_plain_conv([&](const Conv& c) {
        Buffer<T> x = random<T>(c.in_len()), y(c.out_len()), plain(c.out_len());
        Floats weight = random_floats(c.weight_len()), bias = random_floats(c.out_c);
        Buffer<T> packed((size_t)blocks(c.out_c, 128) * c.kernel_h * c.kernel_w * blocks(c.in_c, depth) * 128 * depth);
        pack(weight, packed, c);
        Doubles want = c.forward(seen(x), depth == 32 ? as_bf16(weight) : as_tf32(weight));
        Grid grid{blocks(c.pixels(), 128), blocks(c.out_c, 128)};
        forward(grid, x, packed, nullptr, plain, c);
        expect(c.name() + "y", plain, want, 5e-5, rounding);
        for (size_t i = 0; i < want.size(); i++) want[i] += bias[i % c.out_c];
        forward(grid, x, packed, bias, y, c);
        expect(c.name() + "y with bias", y, want, 5e-5, rounding);
    });
}

CASE(conv2d_forward_bf16_mma) {
    check_forward<bf16>(
        32, BF16,
        [](Floats& w, Halves& p, const Conv& c) { RUN(pack_weights_bf16, (Grid{3}), w, p, c.sizes()); },
        [](Grid grid, Halves& x, Halves& p, const float* bias, Halves& y, const Conv& c) {
            RUN_SHARED(conv2d_forward_bf16, grid, MMA_SHARED_BYTES, x, p, bias, y, c.sizes());
        });
}
CASE(conv2d_forward_tf32_mma) {
    check_forward<float>(
        16, 2e-5,
        [](Floats& w, Floats& p, const Conv& c) { RUN(pack_weights_tf32, (Grid{3}), w, p, c.sizes()); },
        [](Grid grid, Floats& x, Floats& p, const float* bias, Floats& y, const Conv& c) {
            RUN_SHARED(conv2d_forward_tf32, grid, MMA_SHARED_BYTES, x, p, bias, y, c.sizes());
        });
}

// Splits that end within a step, within a row and within an image; one split with more steps than stages.
template <class T, class Backward> static void check_backward_weight(Backward backward) {
    for_each_plain_conv([&](const Conv& c) {
        Buffer<T> x = random<T>(c.in_len()), dy = random<T>(c.out_len());
        Doubles want = c.backward_weight(seen(x), seen(dy));
        for (int split_pixels : {37, 1000}) {
            unsigned splits = blocks(c.pixels(), split_pixels);
            Floats partials(splits * c.weight_len()), dw(c.weight_len());
            backward(Grid{blocks(c.depth(), 128), blocks(c.out_c, 128), splits}, x, dy, partials, c, split_pixels);
            RUN(sum_partials_f32, (Grid{2}), partials, dw, (int)splits, (long long)c.weight_len(), 0);
            expect(c.name() + "dweight", dw, want, 5e-5, 2e-5);
        }
    });
}

CASE(conv2d_backward_weight_bf16_mma) {
    check_backward_weight<bf16>([](Grid grid, Halves& x, Halves& dy, Floats& partials, const Conv& c, int split_pixels) {
        RUN_SHARED(conv2d_backward_weight_bf16, grid, MMA_SHARED_BYTES, x, dy, partials, c.sizes(), split_pixels);
    });
}
CASE(conv2d_backward_weight_tf32_mma) {
    check_backward_weight<float>([](Grid grid, Floats& x, Floats& dy, Floats& partials, const Conv& c, int split_pixels) {
        RUN_SHARED(conv2d_backward_weight_tf32, grid, MMA_SHARED_BYTES, x, dy, partials, c.sizes(), split_pixels);
    });
}
