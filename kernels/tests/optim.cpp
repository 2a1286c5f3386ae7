#include "harness.h"
using namespace test;

// A flat buffer with three segments; the second begins and ends within a block's chunk of 1024.
static const long long LEN = 3000;
static const Buffer<long long> begin{3, 500, 1500}, first{0, 401, 411};
static const long long lengths[] = {401, 10, 1400}, count = 1811;
static const Floats lr{1e-2f, 1e-1f, 3e-3f}, decay{5e-4f, 0.0f, 1e-1f};

// Returns the segment of a flat element, or -1 if it is in none.
static int segment_of(long long at) {
    for (int s = 0; s < 3; s++)
        if (at >= begin[s] && at < begin[s] + lengths[s]) return s;
    return -1;
}

static void check_adam(bool decoupled, bool amsgrad, float scaled) {
    Floats p = random_floats(LEN), m = random_floats(LEN), v = random_floats(LEN, 0, 1), max = random_floats(LEN, 0, 1);
    Floats scale{scaled};
    Doubles dp = values(p), dm = values(m), dv = values(v), dmax = values(max);
    for (int step = 1; step <= 3; step++) {
        Floats g = random_floats(LEN);
        double c1 = 1 / (1 - std::pow(0.9, step)), c2 = 1 / std::sqrt(1 - std::pow(0.999, step));
        Floats corrections{(float)c1, (float)c2};
        RUN(adam_step, (Grid{blocks(count, 1024)}), p, g, m, v, amsgrad ? (float*)max : nullptr, begin, first, lr,
            decay, 3, count, scale, 0.9f, 0.999f, 0.1f, 0.001f, 1e-8f, corrections, decoupled);
        for (long long i = 0; i < LEN; i++) {
            int s = segment_of(i);
            if (s < 0) continue;
            double grad = g[i] * scaled;
            if (decoupled) dp[i] *= 1 - (double)lr[s] * decay[s];
            else grad += decay[s] * dp[i];
            dm[i] = 0.9 * dm[i] + 0.1 * grad;
            dv[i] = 0.999 * dv[i] + 0.001 * grad * grad;
            dmax[i] = std::fmax(dmax[i], dv[i]);
            dp[i] -= lr[s] * c1 * dm[i] / (std::sqrt(amsgrad ? dmax[i] : dv[i]) * c2 + 1e-8);
        }
    }
    Doubles want_max = amsgrad ? dmax : values(max);
    expect("parameters", p, dp, 1e-4, 1e-5);
    expect("exp_avg", m, dm, 1e-6, 1e-5);
    expect("exp_avg_sq", v, dv, 1e-6, 1e-5);
    expect("max_exp_avg_sq", max, want_max, 1e-6, 1e-5);
}

CASE(adam) {
    check_adam(false, true, 1.0f);
    check_adam(false, false, 0.25f);
    check_adam(true, true, 1.0f);
}

CASE(sgd) {
    for (int kind = 0; kind < 3; kind++) {
        bool momentum = kind > 0, nesterov = kind > 1;
        Floats p = random_floats(LEN), b(LEN), scale{0.5f};
        for (float& v : b.data) v = 0;
        Doubles dp = values(p), db(LEN);
        for (int step = 0; step < 3; step++) {
            Floats g = random_floats(LEN);
            RUN(sgd_step, (Grid{blocks(count, 1024)}), p, g, momentum ? (float*)b : nullptr, begin, first, lr, decay, 3, count, scale, 0.9f,
                nesterov);
            for (long long i = 0; i < LEN; i++) {
                int s = segment_of(i);
                if (s < 0) continue;
                double grad = g[i] * 0.5 + decay[s] * dp[i];
                if (momentum) {
                    db[i] = 0.9 * db[i] + grad;
                    grad = nesterov ? grad + 0.9 * db[i] : db[i];
                }
                dp[i] -= lr[s] * grad;
            }
        }
        expect("parameters", p, dp, 1e-6, 1e-5);
        expect("momentum", b, db, 1e-6, 1e-5);
    }
}

CASE(steps_with_a_nan_scale_change_nothing) {
    Floats scale{NOT_A_NUMBER}, corrections{10.0f, 31.6f}, g = random_floats(LEN);
    Floats p = random_floats(LEN), m = random_floats(LEN), v = random_floats(LEN, 0, 1), max = random_floats(LEN, 0, 1);
    Doubles before[] = {values(p), values(m), values(v), values(max)};
    RUN(adam_step, (Grid{blocks(count, 1024)}), p, g, m, v, max, begin, first, lr, decay, 3, count, scale, 0.9f, 0.999f, 0.1f, 0.001f,
        1e-8f, corrections, 0);
    RUN(sgd_step, (Grid{blocks(count, 1024)}), p, g, m, begin, first, lr, decay, 3, count, scale, 0.9f, 1);
    expect_exact("parameters", p, before[0]);
    expect_exact("exp_avg and momentum", m, before[1]);
    expect_exact("exp_avg_sq", v, before[2]);
    expect_exact("max_exp_avg_sq", max, before[3]);
}

CASE(gradient_norm) {
    const long long len = 20000, total = 18000;
    Buffer<long long> from{100, 9000}, before{0, 8000};
    for (float poison : {0.0f, (float)INFINITY, NOT_A_NUMBER}) {
        Floats g = random_floats(len), norm(1), scale(1);
        g[0] = 1e30f;  // outside all segments
        if (poison != 0.0f) g[9001] = poison;
        double sum = 0;
        for (long long i = 0; i < len; i++)
            if ((i >= 100 && i < 8100) || (i >= 9000 && i < 19000)) sum += value(g[i]) * value(g[i]);
        Buffer<double> partials(blocks(total, 8192));
        RUN(grad_norm_partials, (Grid{blocks(total, 8192)}), g, from, before, 2, total, partials);
        RUN(grad_norm_finish, (Grid{1}), partials, (int)partials.size(), 5.0f, norm, scale);
        expect("norm", norm, {std::sqrt(sum)}, 0, 1e-6);
        expect("scale", scale, {poison == 0.0f ? 5 / std::sqrt(sum) : NAN}, 0, 1e-6);
        RUN(grad_norm_finish, (Grid{1}), partials, (int)partials.size(), 1000.0f, norm, scale);
        expect_exact("scale of a small norm", scale, {poison == 0.0f ? 1.0 : NAN});
        for (float none : {0.0f, -1.0f}) {
            RUN(grad_norm_finish, (Grid{1}), partials, (int)partials.size(), none, norm, scale);
            expect_exact("scale without clipping", scale, {poison == 0.0f ? 1.0 : NAN});
        }
    }
}
