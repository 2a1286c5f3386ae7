#include "harness.h"
using namespace test;

using Counters = Buffer<unsigned>;

struct Norm {
    int rows, channels;
    double offset;  // of the data's mean
    int split_rows = 16;
};
// The second has a mean a thousand times its deviation; the fourth has fewer rows than a split. There are channels that are a multiple of
// 16 bytes in both types, in f32 only, and in neither. In the fifth, a thread sums several rows at any width; the last has more channels
// than threads.
static const Norm norms[] = {{37, 40, 0.0},        {50, 33, 1000.0}, {1000, 5, 3.0}, {2, 70, 0.0},
                             {450, 72, 0.5, 300}, {60, 36, 0.0},    {4, 1030, 0.0}};

template <class T> struct NormKernels;
template <> struct NormKernels<float> {
    static constexpr double rounding = 1e-6;
    static Floats random(size_t n, double offset) { return random_floats(n, offset - 1, offset + 1); }
#define NORM(step, ...) RUN(batch_norm_##step##_f32, __VA_ARGS__)
    static void statistics(Grid g, const Floats& x, Floats& p, Counters& n, Floats& m, Floats& i, float* rm, float* rv, int r, int c, int s) {
        NORM(statistics, g, x, p, n, m, i, rm, rv, r, c, s, 1e-5f, 0.1f);
    }
    static void apply(const float* x, const float* res, Floats& m, Floats& i, Floats& w, Floats& b, float* y, int r, int c, int relu) {
        NORM(apply, (Grid{3}), x, res, m, i, w, b, y, r, c, relu);
    }
    static void backward_sums(Grid g, const Floats& x, const float* y, const Floats& dy, Floats& m, Floats& i, Floats& w, Floats& b, Floats& p,
                              Counters& n, Floats& sums, Floats& dw, Floats& db, int r, int c, int s, int relu) {
        NORM(backward_sums, g, x, y, dy, m, i, w, b, p, n, sums, dw, db, r, c, s, relu, 1, 0);
    }
    static void backward_apply(const float* x, const float* y, const Floats& dy, Floats& m, Floats& i, Floats& w, Floats& b, Floats& s, float* dx,
                               float* dr, int r, int c, int batch, int relu, int adx, int adr) {
        NORM(backward_apply, (Grid{2}), x, y, dy, m, i, w, b, s, dx, dr, r, c, batch, relu, adx, adr);
    }
#undef NORM
};
template <> struct NormKernels<bf16> {
    static constexpr double rounding = BF16;
    static Halves random(size_t n, double offset) { return random_halves(n, offset - 1, offset + 1); }
#define NORM(step, ...) RUN(batch_norm_##step##_bf16, __VA_ARGS__)
    static void statistics(Grid g, const Halves& x, Floats& p, Counters& n, Floats& m, Floats& i, float* rm, float* rv, int r, int c, int s) {
        NORM(statistics, g, x, p, n, m, i, rm, rv, r, c, s, 1e-5f, 0.1f);
    }
    static void apply(const bf16* x, const bf16* res, Floats& m, Floats& i, Floats& w, Floats& b, bf16* y, int r, int c, int relu) {
        NORM(apply, (Grid{3}), x, res, m, i, w, b, y, r, c, relu);
    }
    static void backward_sums(Grid g, const Halves& x, const bf16* y, const Halves& dy, Floats& m, Floats& i, Floats& w, Floats& b, Floats& p,
                              Counters& n, Floats& sums, Floats& dw, Floats& db, int r, int c, int s, int relu) {
        NORM(backward_sums, g, x, y, dy, m, i, w, b, p, n, sums, dw, db, r, c, s, relu, 1, 0);
    }
    static void backward_apply(const bf16* x, const bf16* y, const Halves& dy, Floats& m, Floats& i, Floats& w, Floats& b, Floats& s, bf16* dx,
                               bf16* dr, int r, int c, int batch, int relu, int adx, int adr) {
        NORM(backward_apply, (Grid{2}), x, y, dy, m, i, w, b, s, dx, dr, r, c, batch, relu, adx, adr);
    }
#undef NORM
};

template <class T> static void check_norm(const Norm& norm, bool with_residual, bool relu) {
    using K = NormKernels<T>;
    const int rows = norm.rows, channels = norm.channels, split_rows = norm.split_rows;
    const size_t len = (size_t)rows * channels;
    unsigned splits = blocks(rows, split_rows);
    Buffer<T> x = K::random(len, norm.offset), residual = K::random(len, 0), dy = K::random(len, 0), y(len);
    Floats weight = random_floats(channels, 0.5, 1.5), bias = random_floats(channels);
    Floats running_mean = random_floats(channels), running_var = random_floats(channels, 1, 2);
    Floats partials(splits * 2 * channels), mean(channels), inv_std(channels);

    Doubles m(channels), var(channels), want_mean(channels), want_var(channels);
    for (size_t i = 0; i < len; i++) m[i % channels] += value(x[i]) / rows;
    for (size_t i = 0; i < len; i++) var[i % channels] += std::pow(value(x[i]) - m[i % channels], 2) / rows;
    Doubles inv(channels);
    for (int c = 0; c < channels; c++) {
        inv[c] = 1 / std::sqrt(var[c] + 1e-5);
        want_mean[c] = running_mean[c] + 0.1 * (m[c] - running_mean[c]);
        want_var[c] = running_var[c] + 0.1 * (var[c] * rows / (rows - 1) - running_var[c]);
    }
    const Grid grid{blocks(channels, 32), splits};
    Counters counters(grid.x);
    for (size_t i = 0; i < counters.size(); i++) counters[i] = 0;
    K::statistics(grid, x, partials, counters, mean, inv_std, running_mean, running_var, rows, channels, split_rows);
    expect("mean", mean, m, 1e-6, 1e-7);
    expect("inv_std", inv_std, inv, 0, 5e-6);
    expect("running mean", running_mean, want_mean, 1e-6, 1e-6);
    expect("running variance", running_var, want_var, 1e-6, 1e-6);

    // From here on the reference uses the rounded statistics: with a large mean, their rounding would dominate the comparison.
    K::apply(x, with_residual ? (const T*)residual : nullptr, mean, inv_std, weight, bias, y, rows, channels, relu);
    Doubles want(len), normal(len);
    for (size_t i = 0; i < len; i++) {
        int c = (int)(i % channels);
        normal[i] = (value(x[i]) - mean[c]) * inv_std[c];
        want[i] = normal[i] * weight[c] + bias[c] + (with_residual ? value(residual[i]) : 0);
        if (relu && want[i] < 0) want[i] = 0;
    }
    expect("y", y, want, 1e-6, 2 * K::rounding);

    Doubles g(len), sum(channels), dot(channels), want_dx(len), want_dresidual(len);
    for (size_t i = 0; i < len; i++) {
        g[i] = relu && value(y[i]) <= 0 ? 0 : value(dy[i]);
        sum[i % channels] += g[i];
        dot[i % channels] += g[i] * normal[i];
    }
    // The mask of the ReLU from y, and from x where that is possible; then y is not read.
    for (int relu_of = relu; relu_of <= (relu && !with_residual ? 2 : relu); relu_of++) {
        const T* out = relu_of == 1 ? (const T*)y : nullptr;
        Floats sums(2 * channels), dweight = random_floats(channels), dbias(channels);
        Doubles want_dweight(channels);
        for (int c = 0; c < channels; c++) want_dweight[c] = dweight[c] + dot[c];
        K::backward_sums(grid, x, out, dy, mean, inv_std, weight, bias, partials, counters, sums, dweight, dbias, rows, channels, split_rows, relu_of);
        expect("dbias", dbias, sum, 2e-5, 1e-5);
        expect("dweight", dweight, want_dweight, 5e-5, 1e-5);

        for (int batch_statistics = 0; batch_statistics < 2; batch_statistics++) {
            Buffer<T> dx = K::random(len, 0), dresidual(len);
            for (size_t i = 0; i < len; i++) {
                int c = (int)(i % channels);
                double centred = g[i] - (batch_statistics ? (sum[c] + normal[i] * dot[c]) / rows : 0);
                want_dx[i] = value(dx[i]) + weight[c] * inv_std[c] * centred;
                want_dresidual[i] = g[i];
            }
            K::backward_apply(x, out, dy, mean, inv_std, weight, bias, sums, dx, dresidual, rows, channels, batch_statistics, relu_of, 1, 0);
            expect("dx", dx, want_dx, 2e-5, 2 * K::rounding);
            expect("dresidual", dresidual, want_dresidual, 0, 0);
        }
    }
    expect_exact("counters", counters, Doubles(counters.size()));
}

CASE(batch_norm_f32) {
    for (const Norm& norm : norms) check_norm<float>(norm, false, false), check_norm<float>(norm, true, true), check_norm<float>(norm, false, true);
}
CASE(batch_norm_bf16) {
    check_norm<bf16>(norms[0], true, true), check_norm<bf16>(norms[2], false, false);
    check_norm<bf16>(norms[4], true, true), check_norm<bf16>(norms[5], true, false), check_norm<bf16>(norms[0], false, true);
    check_norm<bf16>(norms[6], true, true);
}

// Where rows are a multiple of 16 bytes long but do not begin at one, elements are read one by one, with the same bits.
template <class T> static void check_unaligned_norm() {
    using K = NormKernels<T>;
    const int rows = 29, channels = 24, len = rows * channels;
    Floats mean = random_floats(channels), inv_std = random_floats(channels, 0.5, 2), weight = random_floats(channels), sums = random_floats(2 * channels);
    Buffer<T> x = K::random(len, 0), residual = K::random(len, 0), dy = K::random(len, 0), y(len), dx = K::random(len, 0), dresidual(len);
    auto moved = [](const Buffer<T>& from) {
        Buffer<T> to(from.size() + 1);
        memcpy((void*)&to.data[1], from.data.data(), from.size() * sizeof(T));
        return to;
    };
    Buffer<T> x1 = moved(x), dx1 = moved(dx), y1 = moved(y), dresidual1 = moved(dresidual);
    K::apply(x, residual, mean, inv_std, weight, weight, y, rows, channels, 1);
    K::apply(x1 + 1, residual, mean, inv_std, weight, weight, y1 + 1, rows, channels, 1);
    K::backward_apply(x, y, dy, mean, inv_std, weight, weight, sums, dx, dresidual, rows, channels, 1, 1, 1, 0);
    K::backward_apply(x1 + 1, y, dy, mean, inv_std, weight, weight, sums, dx1 + 1, dresidual1 + 1, rows, channels, 1, 1, 1, 0);
    auto from_one = [](const Buffer<T>& b) {
        Doubles all = values(b);
        return Doubles(all.begin() + 1, all.end());
    };
    expect_exact("y", y, from_one(y1));
    expect_exact("dx", dx, from_one(dx1));
    expect_exact("dresidual", dresidual, from_one(dresidual1));
}
CASE(batch_norm_at_any_address) { check_unaligned_norm<float>(), check_unaligned_norm<bf16>(); }

// Two ranks have ten rows each.
CASE(batch_norm_over_ranks) {
    const int channels = 3;
    const double means[2][channels] = {{1, -2, 5}, {3, -2, 4.5}}, vars[2][channels] = {{2, 0.5, 0}, {4, 1.5, 1e-6}}, eps = 1e-3;
    Floats of_each(2 * 2 * channels), mean(channels), inv_std(channels), running_mean{1, 1, 1}, running_var{2, 2, 2};
    Doubles want_mean, want_inv_std, want_running_mean, want_running_var;
    for (int c = 0; c < channels; c++) {
        for (int rank = 0; rank < 2; rank++) {
            of_each[rank * 2 * channels + c] = (float)means[rank][c];
            of_each[(rank * 2 + 1) * channels + c] = (float)(1 / sqrt(vars[rank][c] + eps));
        }
        double m = (means[0][c] + means[1][c]) / 2, d = (means[0][c] - means[1][c]) / 2, v = (vars[0][c] + vars[1][c]) / 2 + d * d;
        want_mean.push_back(m), want_inv_std.push_back(1 / sqrt(v + eps));
        want_running_mean.push_back(1 + 0.1 * (m - 1)), want_running_var.push_back(2 + 0.1 * (v * 20 / 19 - 2));
    }
    RUN(batch_norm_of_ranks, (Grid{1}), of_each, mean, inv_std, running_mean, running_var, 2, 10, channels, (float)eps, 0.1f);
    expect("mean", mean, want_mean, 0, 1e-6);
    expect("inv_std", inv_std, want_inv_std, 0, 1e-5);
    expect("running mean", running_mean, want_running_mean, 0, 1e-6);
    expect("running variance", running_var, want_running_var, 0, 1e-6);
}

CASE(batch_norm_in_evaluation_and_nan) {
    Floats running_mean{1.0f, -2.0f, 0.5f}, running_var{4.0f, 0.25f, 1.0f}, mean(3), inv_std(3);
    RUN(batch_norm_from_running, (Grid{1}), running_mean, running_var, mean, inv_std, 3, 0.0f);
    expect_exact("mean", mean, {1.0, -2.0, 0.5});
    expect_exact("inv_std", inv_std, {0.5, 2.0, 1.0});
    // In place, with a NaN that the ReLU must not hide, forward or backward.
    Floats x{3.0f, -4.0f, NOT_A_NUMBER, -1.0f, -2.0f, 2.5f}, weight{1, 1, 2}, bias{0, 0, 0.5f};
    RUN(batch_norm_apply_f32, (Grid{1}), x, nullptr, mean, inv_std, weight, bias, x, 2, 3, 1);
    expect_exact("y", x, {1.0, 0.0, NAN, 0.0, 0.0, 4.5});
    Floats dy{1, 2, 3, 4, 5, 6};
    RUN(batch_norm_backward_apply_f32, (Grid{1}), x, x, dy, mean, inv_std, weight, bias, nullptr, nullptr, dy, 2, 3, 0, 1, 0, 0);
    expect_exact("dresidual in place of dy", dy, {1, 0, 3, 0, 0, 6});
}
