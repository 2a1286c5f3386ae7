#include "harness.h"
using namespace test;

struct Instances {
    int images, pixels, channels;
    double offset;  // of the data's mean
};
// The second has a mean a thousand times its deviation. There are channels that are a multiple of 16 bytes in both types, in f32 only, and in
// neither; several rows for each thread; more channels than threads.
static const Instances instances[] = {{3, 37, 40, 0.0}, {2, 50, 33, 1000.0}, {1, 450, 72, 0.5}, {2, 60, 36, 0.0}, {4, 2, 1030, 0.0}};

template <class T> struct InstanceKernels;
#define KERNELS(T, type, random_numbers, epsilon)                                                                                                \
    template <> struct InstanceKernels<T> {                                                                                                     \
        static constexpr double rounding = epsilon;                                                                                             \
        static Buffer<T> random(size_t n, double offset) { return random_numbers(n, offset - 1, offset + 1); }                                  \
        static void statistics(Grid g, const Buffer<T>& x, Floats& s, int p, int c) {                                                           \
            RUN(instance_norm_statistics_##type, g, x, s, p, c, 1e-5f);                                                                         \
        }                                                                                                                                       \
        static void apply(Grid g, const Buffer<T>& x, Floats& s, Floats& w, Floats& b, Buffer<T>& y, int p, int c, int relu) {                   \
            RUN(instance_norm_apply_##type, g, x, s, w, b, y, p, c, relu);                                                                      \
        }                                                                                                                                       \
        static void backward_sums(Grid g, const Buffer<T>& x, const Buffer<T>& dy, Floats& s, Floats& w, Floats& b, Floats& sums,               \
                                  Buffer<unsigned>& n, Floats& totals, float* dw, float* db, int images, int p, int c, int relu) {              \
            RUN(instance_norm_backward_sums_##type, g, x, dy, s, w, b, sums, n, totals, dw, db, images, p, c, relu, 1, 0);                      \
        }                                                                                                                                       \
        static void backward_apply(Grid g, const Buffer<T>& x, const Buffer<T>& dy, Floats& s, Floats& w, Floats& b, Floats& sums,              \
                                   Buffer<T>& dx, int p, int c, int relu, int add) {                                                            \
            RUN(instance_norm_backward_apply_##type, g, x, dy, s, w, b, sums, dx, p, c, relu, add);                                             \
        }                                                                                                                                       \
    };
KERNELS(float, f32, random_floats, 1e-6)
KERNELS(bf16, bf16, random_halves, BF16)
#undef KERNELS

template <class T> static void check_instances(const Instances& of, bool relu) {
    using K = InstanceKernels<T>;
    const int images = of.images, pixels = of.pixels, channels = of.channels;
    const size_t len = (size_t)images * pixels * channels, vectors = (size_t)images * channels;
    Buffer<T> x = K::random(len, of.offset), dy = K::random(len, 0), y(len);
    Floats weight = random_floats(channels, 0.5, 1.5), bias = random_floats(channels), statistics(2 * vectors);
    // The places of an element's mean and 1/deviation in the statistics.
    auto mean_at = [&](size_t i) { return i / channels / pixels * 2 * channels + i % channels; };
    auto deviation_at = [&](size_t i) { return mean_at(i) + channels; };
    Doubles want_statistics(2 * vectors), want(len), normal(len), sum(2 * vectors), totals_want(2 * channels), g(len);
    for (size_t i = 0; i < len; i++) want_statistics[mean_at(i)] += value(x[i]) / pixels;
    for (size_t i = 0; i < len; i++) want_statistics[deviation_at(i)] += std::pow(value(x[i]) - want_statistics[mean_at(i)], 2) / pixels;
    for (int image = 0; image < images; image++)
        for (int c = 0; c < channels; c++) {
            double& variance = want_statistics[(2 * image + 1) * channels + c];
            variance = 1 / std::sqrt(variance + 1e-5);
        }
    const Grid grid{blocks(channels, 32), (unsigned)images}, any{2, (unsigned)images};
    K::statistics(grid, x, statistics, pixels, channels);
    // Two pixels may be nearly equal, which enlarges the rounding of 1/deviation.
    expect("statistics", statistics, want_statistics, 1e-6, pixels > 2 ? 5e-6 : 1e-3);

    // From here on the reference uses the rounded statistics: with a large mean, their rounding would dominate the comparison.
    K::apply(any, x, statistics, weight, bias, y, pixels, channels, relu);
    for (size_t i = 0; i < len; i++) {
        normal[i] = (value(x[i]) - statistics[mean_at(i)]) * statistics[deviation_at(i)];
        want[i] = normal[i] * weight[i % channels] + bias[i % channels];
        if (relu && want[i] < 0) want[i] = 0;
    }
    expect("y", y, want, 1e-6, 2 * K::rounding);

    for (size_t i = 0; i < len; i++) {
        g[i] = relu && want[i] <= 0 ? 0 : value(dy[i]);
        sum[mean_at(i)] += g[i], sum[deviation_at(i)] += g[i] * normal[i];
        totals_want[i % channels] += g[i], totals_want[channels + i % channels] += g[i] * normal[i];
    }
    Floats sums(2 * vectors), totals(2 * channels), dweight = random_floats(channels), dbias(channels);
    Doubles want_dweight(channels), want_dbias(totals_want.begin(), totals_want.begin() + channels);
    for (int c = 0; c < channels; c++) want_dweight[c] = dweight[c] + totals_want[channels + c];
    Buffer<unsigned> counters(grid.x);
    for (size_t i = 0; i < counters.size(); i++) counters[i] = 0;
    K::backward_sums(grid, x, dy, statistics, weight, bias, sums, counters, totals, dweight, dbias, images, pixels, channels, relu);
    expect("sums", sums, sum, 5e-5, 1e-5);
    expect("totals", totals, totals_want, 5e-5, 1e-5);
    expect("dbias", dbias, want_dbias, 5e-5, 1e-5);
    expect("dweight", dweight, want_dweight, 5e-5, 1e-5);
    expect_exact("counters", counters, Doubles(counters.size()));
    Floats alone(2 * vectors);
    K::backward_sums(grid, x, dy, statistics, weight, bias, alone, counters, totals, nullptr, nullptr, images, pixels, channels, relu);
    expect_exact("sums alone", alone, values(sums));

    for (int add = 0; add < 2; add++) {
        Buffer<T> dx = K::random(len, 0);
        Doubles want_dx(len);
        for (size_t i = 0; i < len; i++) {
            double centred = g[i] - (sum[mean_at(i)] + normal[i] * sum[deviation_at(i)]) / pixels;
            want_dx[i] = (add ? value(dx[i]) : 0) + weight[i % channels] * statistics[deviation_at(i)] * centred;
        }
        K::backward_apply(any, x, dy, statistics, weight, bias, sums, dx, pixels, channels, relu, add);
        // 1/deviation of two nearly equal pixels enlarges the rounding of the difference.
        expect("dx", dx, want_dx, pixels > 2 ? 2e-5 : 1e-3, 2 * K::rounding);
    }
}

CASE(instances_f32) {
    for (const Instances& of : instances) check_instances<float>(of, false), check_instances<float>(of, true);
}
CASE(instances_bf16) {
    for (const Instances& of : {instances[0], instances[2], instances[3], instances[4]}) check_instances<bf16>(of, true);
    check_instances<bf16>(instances[0], false);
}
CASE(instances_keep_nan) {
    // The second image only.
    Floats x{1, 2, 3, 1, NOT_A_NUMBER, 3}, statistics(4), weight{1}, bias{0}, y(6);
    RUN(instance_norm_statistics_f32, (Grid{1, 2}), x, statistics, 3, 1, 0.0f);
    RUN(instance_norm_apply_f32, (Grid{1, 2}), x, statistics, weight, bias, y, 3, 1, 1);
    expect("y", y, {0, 0, std::sqrt(1.5), NAN, NAN, NAN}, 1e-6, 0);
}
