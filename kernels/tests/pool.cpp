#include "harness.h"
using namespace test;

struct PoolCase {
    int n, in_h, in_w, channels, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x;
    int out_h() const { return (in_h + 2 * padding_y - kernel_h) / stride_y + 1; }
    int out_w() const { return (in_w + 2 * padding_x - kernel_w) / stride_x + 1; }
    ConvSizes sizes() const {
        return {n, in_h, in_w, channels, out_h(), out_w(), channels, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    }
};
// The window of a ResNet's stem, one that does not fit evenly, the whole image, stripes, windows with gaps between them, another padding; the
// last has so many channels, a multiple of 16 bytes, that they are read 16 bytes at a time.
static const PoolCase pools[] = {{2, 7, 6, 5, 3, 3, 2, 2, 1, 1}, {1, 7, 5, 3, 4, 3, 2, 2, 0, 0}, {3, 4, 2, 5, 4, 2, 4, 2, 0, 0},
                                 {2, 6, 2, 7, 2, 2, 2, 2, 0, 0}, {1, 8, 9, 2, 2, 1, 3, 4, 1, 0}, {2, 6, 5, 4, 3, 2, 2, 1, 1, 1},
                                 {1, 3, 3, 262144, 3, 3, 2, 2, 1, 1}};
// Calls visit(output element, input element, input pixel within the image) in row-major order of the window.
template <class F> static void for_each(const PoolCase& p, F visit) {
    for (int n = 0; n < p.n; n++)
        for (int oy = 0; oy < p.out_h(); oy++)
            for (int ox = 0; ox < p.out_w(); ox++)
                for (int c = 0; c < p.channels; c++)
                    for (int ky = 0; ky < p.kernel_h; ky++)
                        for (int kx = 0; kx < p.kernel_w; kx++) {
                            int y = oy * p.stride_y + ky - p.padding_y, x = ox * p.stride_x + kx - p.padding_x;
                            if (y < 0 || x < 0 || y >= p.in_h || x >= p.in_w) continue;
                            size_t out = (((size_t)n * p.out_h() + oy) * p.out_w() + ox) * p.channels + c;
                            visit(out, (((size_t)n * p.in_h + y) * p.in_w + x) * p.channels + c, y * p.in_w + x);
                        }
}

template <class T> static Buffer<T> steps(size_t n) {
    // Few different values, so that there are ties; all exact in bf16.
    Buffer<T> b(n);
    for (T& v : b.data) store(&v, (float)below(5) - 2.0f);
    return b;
}

template <class T, class Max, class MaxBack, class Avg, class AvgBack>
static void check_pools(double rounding, Max max, MaxBack max_backward, Avg avg, AvgBack avg_backward) {
    for (const PoolCase& p : pools) {
        size_t in = (size_t)p.n * p.in_h * p.in_w * p.channels, out = (size_t)p.n * p.out_h() * p.out_w() * p.channels;
        Buffer<T> x = steps<T>(in), dy = steps<T>(out), y(out);
        Ints winners(out);
        Doubles best(out, -INFINITY), winner(out, -1), from(out), mean(out);
        double area = p.kernel_h * p.kernel_w;
        for_each(p, [&](size_t o, size_t i, int pixel) {
            mean[o] += value(x[i]) / area;
            if (value(x[i]) > best[o]) best[o] = value(x[i]), winner[o] = pixel, from[o] = (double)i;
        });
        max(p, x, y, (int*)winners);
        expect_exact("maximum", y, best);
        expect_exact("winners", winners, winner);
        Buffer<T> again(out);
        max(p, x, again, nullptr);
        expect_exact("maximum alone", again, best);

        Doubles want_max(in), want_avg(in);
        for (size_t o = 0; o < out; o++) want_max[(size_t)from[o]] += value(dy[o]);
        for_each(p, [&](size_t o, size_t i, int) { want_avg[i] += value(dy[o]) / area; });
        Buffer<T> dx(in);
        max_backward(p, dy, winners, dx, 0);
        expect("max backward", dx, want_max, 0, rounding);
        for (double& v : want_max) v *= 2;
        max_backward(p, dy, winners, dx, 1);
        expect("max backward, added", dx, want_max, 0, rounding);

        Buffer<T> averaged(out);
        avg(p, x, averaged);
        expect("average", averaged, mean, 1e-6, rounding);
        Buffer<T> davg(in);
        avg_backward(p, dy, davg, 0);
        expect("average backward", davg, want_avg, 1e-6, rounding);
        for (double& v : want_avg) v *= 2;
        avg_backward(p, dy, davg, 1);
        expect("average backward, added", davg, want_avg, 1e-6, 2 * rounding);
    }
}

CASE(pool_f32) {
    check_pools<float>(
        1e-6, [](const PoolCase& p, Floats& x, Floats& y, int* w) { RUN(max_pool_f32, (Grid{2}), x, y, w, p.sizes()); },
        [](const PoolCase& p, Floats& dy, Ints& w, Floats& dx, int add) { RUN(max_pool_backward_f32, (Grid{1}), dy, w, dx, p.sizes(), add); },
        [](const PoolCase& p, Floats& x, Floats& y) { RUN(avg_pool_f32, (Grid{2}), x, y, p.sizes()); },
        [](const PoolCase& p, Floats& dy, Floats& dx, int add) { RUN(avg_pool_backward_f32, (Grid{2}), dy, dx, p.sizes(), add); });
}
CASE(pool_bf16) {
    check_pools<bf16>(
        BF16, [](const PoolCase& p, Halves& x, Halves& y, int* w) { RUN(max_pool_bf16, (Grid{2}), x, y, w, p.sizes()); },
        [](const PoolCase& p, Halves& dy, Ints& w, Halves& dx, int add) { RUN(max_pool_backward_bf16, (Grid{1}), dy, w, dx, p.sizes(), add); },
        [](const PoolCase& p, Halves& x, Halves& y) { RUN(avg_pool_bf16, (Grid{2}), x, y, p.sizes()); },
        [](const PoolCase& p, Halves& dy, Halves& dx, int add) { RUN(avg_pool_backward_bf16, (Grid{2}), dy, dx, p.sizes(), add); });
}
CASE(max_pool_keeps_nan_and_minus_infinity) {
    Floats x{1.0f, NOT_A_NUMBER, 3.0f, -INFINITY, -INFINITY, -INFINITY}, y(2);
    Ints winners(2);
    const PoolCase rows{1, 2, 3, 1, 1, 3, 1, 3, 0, 0};
    RUN(max_pool_f32, (Grid{1}), x, y, winners, rows.sizes());
    expect_exact("y", y, {NAN, -INFINITY});
    expect_exact("winners", winners, {1, 3});
}
