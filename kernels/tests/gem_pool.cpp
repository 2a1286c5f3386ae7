#include "harness.h"
using namespace test;

struct GemCase {
    int images, pixels, channels;
    float p;
};
// One pixel; several blocks, the last of which is not full; powers that overflow without the division by the largest value; p below 1.
static const GemCase gems[] = {{2, 1, 3, 3.0f}, {3, 8, 200, 3.0f}, {2, 6, 33, 60.0f}, {2, 15, 40, 0.5f}};

// Powers that are too small for f32 keep fewer digits, or become 0.
const double TINY = 1e-30;

template <class T> static Buffer<T> random_numbers(size_t n, double low, double high);
template <> Buffer<float> random_numbers(size_t n, double low, double high) { return random_floats(n, low, high); }
template <> Buffer<bf16> random_numbers(size_t n, double low, double high) { return random_halves(n, low, high); }

template <class T, class Forward, class Backward> static void check_gem(double rounding, Forward forward, Backward backward) {
    for (const GemCase& gem : gems) {
        const int images = gem.images, pixels = gem.pixels, channels = gem.channels;
        const size_t vectors = (size_t)images * channels, len = vectors * pixels;
        const double p = gem.p, least = (double)1e-6f;
        // A quarter of the values is below zero.
        Buffer<T> x = random_numbers<T>(len, -4, 12), dy = random_numbers<T>(vectors, -1, 1), y(vectors);
        Floats power{gem.p}, y_f32(vectors);
        Doubles want(vectors), want_dx(len);
        auto vector = [&](size_t i) { return i / channels / pixels * channels + i % channels; };
        auto clamped = [&](size_t i) { return std::max(value(x[i]), least); };
        for (size_t i = 0; i < len; i++) want[vector(i)] += std::pow(clamped(i), p) / pixels;
        for (double& v : want) v = std::pow(v, 1 / p);
        forward(gem, x, power, y, y_f32);
        expect("y", y, want, 0, rounding);
        expect("y in f32", y_f32, want, 0, 2e-5);
        Buffer<T> again(vectors);
        forward(gem, x, power, again, nullptr);
        expect_exact("y alone", again, values(y));

        double want_dp = 0, size = 0;
        for (size_t i = 0; i < len; i++) {
            size_t v = vector(i);
            double u = clamped(i) / want[v], d = value(dy[v]);
            want_dx[i] = value(x[i]) < least ? 0 : d * std::pow(u, p - 1) / pixels;
            double share = d * want[v] / p * std::pow(u, p) * std::log(u) / pixels;
            want_dp += share, size += std::fabs(share);
        }
        const unsigned grid = blocks((long long)vectors, 256);
        Floats partials(grid), dp{0.5f};
        Buffer<unsigned> counters{0};
        Buffer<T> dx(len);
        backward(gem, grid, x, power, y_f32, dy, dx, partials, counters, dp, 0, 1);
        expect("dx", dx, want_dx, TINY, rounding + 2e-4);
        expect("dp, added", dp, {0.5 + want_dp}, 1e-5 * (size + 1), 0);
        for (double& v : want_dx) v *= 2;
        backward(gem, grid, x, power, y_f32, dy, dx, partials, counters, dp, 1, 0);
        expect("dx, added", dx, want_dx, TINY, 2 * rounding + 2e-4);
        expect("dp", dp, {want_dp}, 1e-5 * (size + 1), 0);
        expect_exact("counters", counters, {0});
        backward(gem, grid, x, power, y_f32, dy, nullptr, partials, counters, dp, 0, 0);
        expect("dp alone", dp, {want_dp}, 1e-5 * (size + 1), 0);
        Buffer<T> alone(len);
        backward(gem, grid, x, power, y_f32, dy, alone, partials, counters, nullptr, 0, 0);
        for (double& v : want_dx) v /= 2;
        expect("dx alone", alone, want_dx, TINY, rounding + 2e-4);
    }
}

CASE(gem_f32) {
    check_gem<float>(
        2e-5,
        [](const GemCase& g, Floats& x, Floats& p, Floats& y, float* y_f32) {
            RUN(gem_pool_f32, (Grid{2}), x, p, y, y_f32, g.images, g.pixels, g.channels);
        },
        [](const GemCase& g, unsigned grid, Floats& x, Floats& p, Floats& y, Floats& dy, float* dx, Floats& partials, Buffer<unsigned>& counters,
           float* dp, int add_dx, int add_dp) {
            RUN(gem_pool_backward_f32, (Grid{grid}), x, p, y, dy, dx, partials, counters, dp, g.images, g.pixels, g.channels, add_dx, add_dp);
        });
}
CASE(gem_bf16) {
    check_gem<bf16>(
        BF16,
        [](const GemCase& g, Halves& x, Floats& p, Halves& y, float* y_f32) {
            RUN(gem_pool_bf16, (Grid{2}), x, p, y, y_f32, g.images, g.pixels, g.channels);
        },
        [](const GemCase& g, unsigned grid, Halves& x, Floats& p, Floats& y, Halves& dy, bf16* dx, Floats& partials, Buffer<unsigned>& counters,
           float* dp, int add_dx, int add_dp) {
            RUN(gem_pool_backward_bf16, (Grid{grid}), x, p, y, dy, dx, partials, counters, dp, g.images, g.pixels, g.channels, add_dx, add_dp);
        });
}
CASE(gem_keeps_nan) {
    Floats x{1.0f, NOT_A_NUMBER, 3.0f, 2.0f, 5.0f, 2.0f}, p{3.0f}, y(2), y_f32(2);
    RUN(gem_pool_f32, (Grid{1}), x, p, y, y_f32, 2, 3, 1);
    expect("y", y, {NAN, std::cbrt((8.0 + 125.0 + 8.0) / 3)}, 0, 1e-6);
    Floats dy{1.0f, 1.0f}, dx(6), partials(1), dp(1);
    Buffer<unsigned> counters{0};
    RUN(gem_pool_backward_f32, (Grid{1}), x, p, y_f32, dy, dx, partials, counters, dp, 2, 3, 1, 0, 0);
    expect_exact("dp", dp, {NAN});
}
