#include "harness.h"
using namespace test;

namespace {

struct Want {
    Doubles c_next, y, gates;
};

Want cell(const Doubles& pre, const Doubles& c_prev, int pixels, int channels) {
    auto logistic = [](double x) { return 1 / (1 + std::exp(-x)); };
    Want want{Doubles(c_prev.size()), Doubles(c_prev.size()), Doubles(pre.size())};
    for (int pixel = 0; pixel < pixels; pixel++) {
        for (int channel = 0; channel < channels; channel++) {
            size_t at = pixel * channels + channel, gate = pixel * 4 * channels + channel;
            double i = logistic(pre[gate]), f = logistic(pre[gate + channels]);
            double o = logistic(pre[gate + 2 * channels]), g = std::tanh(pre[gate + 3 * channels]);
            want.c_next[at] = f * c_prev[at] + i * g;
            want.y[at] = o * std::tanh(want.c_next[at]);
            want.gates[gate] = i, want.gates[gate + channels] = f;
            want.gates[gate + 2 * channels] = o, want.gates[gate + 3 * channels] = g;
        }
    }
    return want;
}

}  // namespace

CASE(gates_of_a_cell) {
    for (int channels : {1, 5, 32}) {
        int pixels = 37, count = pixels * channels;
        Floats pre = random_floats(4 * count, -3, 3), c_prev = random_floats(count), c_next(count), y(count), gates(4 * count);
        Want want = cell(values(pre), values(c_prev), pixels, channels);
        RUN(bconv_apply_gates_f32, (Grid{2}), pre, c_prev, c_next, y, gates, pixels, channels);
        expect("c_next", c_next, want.c_next, 1e-6, 1e-6);
        expect("y", y, want.y, 1e-6, 1e-6);
        expect("gates", gates, want.gates, 1e-6, 1e-6);

        // In place and without gates, with the same bits.
        Floats over = pre, state = c_prev, again(count);
        RUN(bconv_apply_gates_f32, (Grid{3}), over, state, state, again, over, pixels, channels);
        expect_exact("gates over the pre-activations", over, values(gates));
        expect_exact("state in place", state, values(c_next));
        RUN(bconv_apply_gates_f32, (Grid{1}), pre, c_prev, c_next, again, nullptr, pixels, channels);
        expect_exact("y without gates", again, values(y));

        Halves half_pre = random_halves(4 * count, -3, 3), half_y(count), half_gates(4 * count);
        want = cell(values(half_pre), values(c_prev), pixels, channels);
        RUN(bconv_apply_gates_bf16, (Grid{2}), half_pre, c_prev, c_next, half_y, half_gates, pixels, channels);
        // tanh.approx: an absolute error up to 2^-11.
        expect("c_next bf16", c_next, want.c_next, 2e-3, 1e-6);
        expect("y bf16", half_y, want.y, 2e-3, BF16);
        expect("gates bf16", half_gates, want.gates, 1e-3, BF16);
    }
}
