#include "conv_reference.h"
using namespace test;

// Sums of up to some hundred products of numbers below 1, in f32.
static const double ABS = 2e-5, REL = 2e-5;

CASE(bconv_f32) {
    for (const Conv& c : conv_cases) {
        int channels = c.out_c / 4, cells = c.pixels() * channels;
        Floats x = random_floats(c.in_len()), weight = random_floats(c.weight_len()), c_prev = random_floats(cells, -2, 2);
        Floats dy = random_floats(cells), c_next(cells), y(cells), gates(4 * cells);
        Cell want = cell_reference(c.forward(values(x), values(weight)), values(c_prev), values(dy), channels);
        Grid grid{blocks(c.pixels(), 128), blocks(channels, 16)};
        RUN(bconv_forward_f32, grid, x, weight, c_prev, c_next, y, gates, c.sizes());
        expect(c.name() + "c_next", c_next, want.c_next, ABS, REL);
        expect(c.name() + "y", y, want.y, ABS, REL);
        expect(c.name() + "gates", gates, want.gates, ABS, REL);
        // Without gates, and with the state updated in place.
        Floats state = c_prev, again(cells);
        RUN(bconv_forward_f32, grid, x, weight, state, state, again, nullptr, c.sizes());
        expect_exact(c.name() + "state in place", state, values(c_next));
        expect_exact(c.name() + "y without gates", again, values(y));

        Floats again_gates = gates, dc = random_floats(cells);
        RUN(bconv_gate_gradients_f32, (Grid{3}), gates, c_prev, dy, nullptr, nullptr, c.pixels(), channels);
        expect(c.name() + "gate gradients", gates, want.grad_gates, ABS, REL);
        // With the gradient of the state by a step that follows, in place.
        Cell first = cell_reference(c.forward(values(x), values(weight)), values(c_prev), values(dy), channels, values(dc));
        RUN(bconv_gate_gradients_f32, (Grid{3}), again_gates, c_prev, dy, dc, dc, c.pixels(), channels);
        expect(c.name() + "gate gradients of an earlier step", again_gates, first.grad_gates, ABS, REL);
        expect(c.name() + "gradient of the earlier state", dc, first.dc_prev, ABS, REL);
    }
}

CASE(bconv_f32_saturates_and_shows_nan) {
    Conv c{1, 1, 4, 1, 4, 1, 1, 1, 1, 0, 0};
    Floats x{200.0f, -200.0f, 0.0f, NOT_A_NUMBER}, weight{1, 1, 1, 1}, c_prev{0.5f, 0.5f, 0.5f, 0.5f};
    Floats c_next(4), y(4);
    RUN(bconv_forward_f32, (Grid{1}), x, weight, c_prev, c_next, y, nullptr, c.sizes());
    expect("c_next", c_next, {1.5, 0.0, 0.25, NAN}, 1e-6, 1e-6);
    expect("y", y, {std::tanh(1.5), 0.0, 0.5 * std::tanh(0.25), NAN}, 1e-6, 1e-6);
}

CASE(conv2d_f32) {
    for (const Conv& c : conv_cases) {
        Floats x = random_floats(c.in_len()), weight = random_floats(c.weight_len()), bias = random_floats(c.out_c);
        Floats y(c.out_len()), plain(c.out_len());
        Doubles want = c.forward(values(x), values(weight));
        Grid grid{blocks(c.pixels(), 128), blocks(c.out_c, 64)};
        RUN(conv2d_forward_f32, grid, x, weight, nullptr, plain, c.sizes());
        expect(c.name() + "y", plain, want, ABS, REL);
        for (size_t i = 0; i < want.size(); i++) want[i] += bias[i % c.out_c];
        RUN(conv2d_forward_f32, grid, x, weight, bias, y, c.sizes());
        expect(c.name() + "y with bias", y, want, ABS, REL);
    }
}

CASE(conv2d_backward_f32) {
    for (const Conv& c : conv_cases) {
        Floats x = random_floats(c.in_len()), weight = random_floats(c.weight_len()), dy = random_floats(c.out_len());
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            Floats dx = accumulate ? random_floats(c.in_len()) : Floats(c.in_len());
            Doubles want = c.backward_data(values(dy), values(weight));
            for (size_t i = 0; i < want.size() && accumulate; i++) want[i] += dx[i];
            long long phase = (long long)c.n * blocks(c.in_h, c.stride_y) * blocks(c.in_w, c.stride_x);
            Grid grid{blocks(phase, 128), blocks(c.in_c, 64), (unsigned)(c.stride_y * c.stride_x)};
            RUN(conv2d_backward_data_f32, grid, dy, weight, dx, c.sizes(), accumulate);
            expect(c.name() + "dx", dx, want, ABS, REL);
        }
        Doubles want = c.backward_weight(values(x), values(dy));
        for (int split_pixels : {7, 1000}) {
            unsigned splits = blocks(c.pixels(), split_pixels);
            Floats partials(splits * c.weight_len());
            Floats dw = split_pixels == 7 ? random_floats(c.weight_len()) : Floats(c.weight_len());
            Doubles total = want;
            for (size_t i = 0; i < total.size() && split_pixels == 7; i++) total[i] += dw[i];
            Grid grid{blocks(c.depth(), 128), blocks(c.out_c, 64), splits};
            RUN(conv2d_backward_weight_f32, grid, x, dy, partials, c.sizes(), split_pixels);
            RUN(sum_partials_f32, (Grid{2}), partials, dw, (int)splits, (long long)c.weight_len(), split_pixels == 7);
            expect(c.name() + "dweight", dw, total, ABS, REL);
        }
    }
}
