#include "harness.h"
using namespace test;

struct DepthwiseCase {
    int images, height, width, channels, split_pixels;
    size_t pixels() const { return (size_t)images * height * width; }
};
// Odd channels; a multiple of 16 bytes, which is read 16 bytes at a time; more channels than a block has; one pixel, one row, one column.
static const DepthwiseCase cases[] = {{2, 5, 4, 3, 7}, {2, 4, 6, 16, 48}, {1, 3, 5, 40, 4}, {3, 1, 1, 8, 2}, {2, 1, 6, 5, 100}, {1, 7, 1, 8, 3}};

// Calls visit(tap, pixel of y, pixel of x) for all taps inside the image.
template <class F> static void for_each_tap_of(const DepthwiseCase& k, F visit) {
    for (int n = 0; n < k.images; n++)
        for (int y = 0; y < k.height; y++)
            for (int x = 0; x < k.width; x++)
                for (int ky = 0; ky < 3; ky++)
                    for (int kx = 0; kx < 3; kx++) {
                        int iy = y + ky - 1, ix = x + kx - 1;
                        if (iy < 0 || ix < 0 || iy >= k.height || ix >= k.width) continue;
                        visit(3 * ky + kx, ((size_t)n * k.height + y) * k.width + x, ((size_t)n * k.height + iy) * k.width + ix);
                    }
}

template <class T> static Buffer<T> numbers(size_t n) {
    Buffer<T> b(n);
    for (T& v : b.data) store(&v, (float)uniform());
    return b;
}

template <class T, class Conv, class Weight> static void check_depthwise(double rounding, Conv conv, Weight weight_gradient) {
    for (const DepthwiseCase& k : cases) {
        size_t c = (size_t)k.channels, len = k.pixels() * c;
        Buffer<T> x = numbers<T>(len), dy = numbers<T>(len), y(len), dx = numbers<T>(len);
        Floats weight = random_floats(9 * c);
        Doubles want(len), want_dx = values(dx), want_dw(9 * c);
        for_each_tap_of(k, [&](int tap, size_t out, size_t in) {
            for (size_t i = 0; i < c; i++) {
                want[out * c + i] += value(x[in * c + i]) * weight[(size_t)tap * c + i];
                want_dx[in * c + i] += value(dy[out * c + i]) * weight[(size_t)tap * c + i];
                want_dw[(size_t)tap * c + i] += value(x[in * c + i]) * value(dy[out * c + i]);
            }
        });
        conv(k, x, weight, y, 0, 0);
        expect("y", y, want, 1e-6, rounding);
        conv(k, dy, weight, dx, 1, 1);
        expect("dx, added", dx, want_dx, 1e-6, rounding);
        unsigned splits = blocks((long long)k.pixels(), k.split_pixels);
        Floats partials(splits * 9 * c), dw(9 * c);
        weight_gradient(k, splits, x, dy, partials);
        RUN(sum_partials_f32, (Grid{1}), partials, dw, (int)splits, (long long)(9 * c), 0);
        expect("dw", dw, want_dw, 1e-5, 1e-5);
    }
}

CASE(depthwise_3x3_f32) {
    check_depthwise<float>(
        1e-6,
        [](const DepthwiseCase& k, Floats& x, Floats& w, Floats& y, int turned, int add) {
            RUN(depthwise_f32, (Grid{2}), x, w, y, (int)k.pixels(), k.height, k.width, k.channels, turned, add);
        },
        [](const DepthwiseCase& k, unsigned splits, Floats& x, Floats& dy, Floats& partials) {
            RUN(depthwise_weight_f32, (Grid{blocks(k.channels, 32), splits}), x, dy, partials, (int)k.pixels(), k.height, k.width,
                k.channels, k.split_pixels);
        });
}
CASE(depthwise_3x3_bf16) {
    check_depthwise<bf16>(
        BF16,
        [](const DepthwiseCase& k, Halves& x, Floats& w, Halves& y, int turned, int add) {
            RUN(depthwise_bf16, (Grid{2}), x, w, y, (int)k.pixels(), k.height, k.width, k.channels, turned, add);
        },
        [](const DepthwiseCase& k, unsigned splits, Halves& x, Halves& dy, Floats& partials) {
            RUN(depthwise_weight_bf16, (Grid{blocks(k.channels, 32), splits}), x, dy, partials, (int)k.pixels(), k.height, k.width,
                k.channels, k.split_pixels);
        });
}
