// Convolution by its definition, in double precision.
#pragma once
#include "harness.h"

namespace test {

struct Conv {
    int n, in_h, in_w, in_c, out_c, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x;
    int out_h() const { return (in_h + 2 * padding_y - kernel_h) / stride_y + 1; }
    int out_w() const { return (in_w + 2 * padding_x - kernel_w) / stride_x + 1; }
    int pixels() const { return n * out_h() * out_w(); }
    int depth() const { return kernel_h * kernel_w * in_c; }
    size_t in_len() const { return (size_t)n * in_h * in_w * in_c; }
    size_t out_len() const { return (size_t)pixels() * out_c; }
    size_t weight_len() const { return (size_t)depth() * out_c; }
    ConvSizes sizes() const {
        return {n, in_h, in_w, in_c, out_h(), out_w(), out_c, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    }
    std::string name() const {
        char text[160];
        snprintf(text, sizeof text, "[%d %d %d %d]->%d k%dx%d s%dx%d p%dx%d ", n, in_h, in_w, in_c, out_c, kernel_h, kernel_w,
                 stride_y, stride_x, padding_y, padding_x);
        return text;
    }
    // Calls visit(out pixel, in pixel, tap) for every tap of every output pixel that is inside the image.
    template <class F> void for_each(F visit) const {
        for (int b = 0; b < n; b++)
            for (int oy = 0; oy < out_h(); oy++)
                for (int ox = 0; ox < out_w(); ox++)
                    for (int ky = 0; ky < kernel_h; ky++)
                        for (int kx = 0; kx < kernel_w; kx++) {
                            int y = oy * stride_y + ky - padding_y, x = ox * stride_x + kx - padding_x;
                            if (y < 0 || y >= in_h || x < 0 || x >= in_w) continue;
                            visit((size_t)(b * out_h() + oy) * out_w() + ox, (size_t)(b * in_h + y) * in_w + x,
                                  (size_t)ky * kernel_w + kx);
                        }
    }
    Doubles forward(const Doubles& x, const Doubles& w) const {
        Doubles y(out_len());
        for_each([&](size_t out, size_t in, size_t tap) {
            for (int c = 0; c < in_c; c++)
                for (int o = 0; o < out_c; o++) y[out * out_c + o] += x[in * in_c + c] * w[(tap * in_c + c) * out_c + o];
        });
        return y;
    }
    Doubles backward_data(const Doubles& dy, const Doubles& w) const {
        Doubles dx(in_len());
        for_each([&](size_t out, size_t in, size_t tap) {
            for (int c = 0; c < in_c; c++)
                for (int o = 0; o < out_c; o++) dx[in * in_c + c] += dy[out * out_c + o] * w[(tap * in_c + c) * out_c + o];
        });
        return dx;
    }
    Doubles backward_weight(const Doubles& x, const Doubles& dy) const {
        Doubles dw(weight_len());
        for_each([&](size_t out, size_t in, size_t tap) {
            for (int c = 0; c < in_c; c++)
                for (int o = 0; o < out_c; o++) dw[(tap * in_c + c) * out_c + o] += x[in * in_c + c] * dy[out * out_c + o];
        });
        return dw;
    }
};

// What a cell computes from its pre-activations, [pixels, 4, channels].
struct Cell {
    Doubles gates, c_next, y, grad_gates, dc_prev;
};
// dc_next is the gradient of c by a step that follows; empty if there is none.
inline Cell cell_reference(const Doubles& pre, const Doubles& c_prev, const Doubles& dy, int channels, const Doubles& dc_next = {}) {
    auto sigmoid = [](double v) { return 1.0 / (1.0 + std::exp(-v)); };
    Cell r;
    r.gates.resize(pre.size());
    r.grad_gates.resize(pre.size());
    for (size_t at = 0; at < c_prev.size(); at++) {
        size_t pixel = at / channels, base = pixel * 4 * channels + at % channels;
        double i = sigmoid(pre[base]), f = sigmoid(pre[base + channels]);
        double o = sigmoid(pre[base + 2 * channels]), g = std::tanh(pre[base + 3 * channels]);
        double c = f * c_prev[at] + i * g, t = std::tanh(c), dc = dy[at] * o * (1 - t * t);
        if (!dc_next.empty()) dc += dc_next[at];
        double gate[4] = {i, f, o, g};
        double grad[4] = {dc * g * i * (1 - i), dc * c_prev[at] * f * (1 - f), dy[at] * t * o * (1 - o), dc * i * (1 - g * g)};
        for (int k = 0; k < 4; k++) {
            r.gates[base + k * channels] = gate[k];
            r.grad_gates[base + k * channels] = grad[k];
        }
        r.c_next.push_back(c);
        r.y.push_back(o * t);
        r.dc_prev.push_back(dc * f);
    }
    return r;
}

// out_c is that of the convolution; a cell has a quarter as many channels. There are tails in every direction, more than one tile in
// every direction, kernels smaller than the stride, and pixels that no window reaches.
const Conv conv_cases[] = {
    {2, 7, 6, 3, 20, 3, 3, 2, 2, 1, 1},    {3, 3, 4, 18, 72, 1, 1, 1, 1, 0, 0},  {1, 5, 8, 4, 8, 2, 5, 1, 2, 1, 2},
    {1, 9, 5, 2, 12, 5, 2, 3, 1, 2, 0},    {2, 5, 4, 18, 4, 1, 1, 2, 2, 0, 0},   {2, 12, 9, 16, 68, 3, 3, 1, 1, 1, 1},
    {5, 1, 1, 33, 132, 1, 1, 1, 1, 0, 0},  {1, 7, 5, 5, 16, 3, 2, 4, 3, 0, 1},   {2, 9, 10, 24, 32, 3, 3, 2, 2, 1, 1},
    {1, 12, 12, 40, 8, 3, 3, 1, 1, 1, 1},
};

}  // namespace test
