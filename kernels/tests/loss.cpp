#include "harness.h"
using namespace test;

struct Entropy {
    int n, classes;
    float smoothing, gamma = 0;
    bool weighted = false;
};

template <class T, class Forward, class Backward> static void check_entropy(double rounding, Forward forward, Backward backward) {
    for (const Entropy& e : {Entropy{5, 7, 0.0f}, Entropy{3, 751, 0.1f}, Entropy{1, 1, 0.0f}, Entropy{4, 300, 0.3f},
                             Entropy{5, 7, 0.0f, 0, true}, Entropy{300, 5, 0.2f, 0, true}, Entropy{3, 751, 0.1f, 0, true},
                             Entropy{5, 7, 0.0f, 2}, Entropy{4, 300, 0.0f, 0.5f}, Entropy{1, 1, 0.0f, 2}, Entropy{6, 9, 0.0f, 1.5f, true}}) {
        Buffer<T> z((size_t)e.n * e.classes), dz(z.size());
        for (T& v : z.data) store(&v, (float)uniform(-30, 30));
        Buffer<unsigned> labels(e.n);
        for (unsigned& l : labels.data) l = below(e.classes);
        Floats weights((size_t)e.classes);
        for (float& w : weights.data) w = (float)uniform(0.1, 3);
        auto weight = [&](unsigned c) { return e.weighted ? (double)weights[c] : 1.0; };
        const float* of_classes = e.weighted ? (const float*)weights : nullptr;
        Buffer<double> terms(e.n), lse(e.n);
        Floats loss(1), dloss{-0.75f};
        double want = 0, divisor = 0, whole = 0;
        for (int i = 0; i < e.n; i++) divisor += weight(labels[i]);
        for (int c = 0; c < e.classes; c++) whole += weight(c);
        Doubles want_lse, want_dz;
        for (int i = 0; i < e.n; i++) {
            double max = -INFINITY, sum = 0, spread = 0, own = weight(labels[i]);
            for (int c = 0; c < e.classes; c++) max = std::fmax(max, value(z[i * e.classes + c]));
            for (int c = 0; c < e.classes; c++) sum += std::exp(value(z[i * e.classes + c]) - max);
            double l = max + std::log(sum), of_label = l - value(z[i * e.classes + labels[i]]), p = std::exp(-of_label);
            want_lse.push_back(l);
            for (int c = 0; c < e.classes; c++) spread += weight(c) * (l - value(z[i * e.classes + c])) / e.classes;
            // d(loss)/d(log p) of the focal loss, and of the plain one.
            double rest = -std::expm1(-of_label), slope = e.gamma == 0 ? 1 : 0;
            if (e.gamma > 0 && rest > 0) slope = std::pow(rest, e.gamma) + e.gamma * p * std::pow(rest, e.gamma - 1) * of_label;
            want += ((1 - e.smoothing) * own * std::pow(rest, e.gamma) * of_label + e.smoothing * spread) / divisor;
            for (int c = 0; c < e.classes; c++) {
                double q = std::exp(value(z[i * e.classes + c]) - l), hit = c == (int)labels[i];
                double d = (1 - e.smoothing) * own * slope * (q - hit) + e.smoothing / e.classes * (whole * q - weight(c));
                want_dz.push_back(d * -0.75 / divisor);
            }
        }
        forward(e, z, labels, of_classes, terms, lse);
        if (e.weighted) RUN(weighted_mean, (Grid{1}), terms, labels, weights, loss, e.n);
        else RUN(sum_terms, (Grid{1}), terms, loss, e.n, e.n);
        expect("log sum exp", lse, want_lse, 1e-12, 1e-12);
        expect("loss", loss, {want}, 1e-7, 1e-6);
        backward(e, z, labels, of_classes, lse, dloss, dz, 0);
        expect("dlogits", dz, want_dz, 1e-7, rounding);
        for (double& d : want_dz) d *= 2;
        backward(e, z, labels, of_classes, lse, dloss, dz, 1);
        expect("dlogits, added", dz, want_dz, 1e-7, 2 * rounding);
        for (double& d : want_dz) d /= 2;
        backward(e, z, labels, of_classes, lse, dloss, z, 0);
        expect("dlogits, over the logits", z, want_dz, 1e-7, rounding);
    }
}

CASE(cross_entropy_f32_loss) {
    check_entropy<float>(
        1e-5,
        [](const Entropy& e, Floats& z, Buffer<unsigned>& l, const float* w, Buffer<double>& t, Buffer<double>& s) {
            RUN(cross_entropy_f32, (Grid{(unsigned)e.n}), z, l, w, t, s, e.classes, e.smoothing, e.gamma);
        },
        [](const Entropy& e, Floats& z, Buffer<unsigned>& l, const float* w, Buffer<double>& s, Floats& d, Floats& dz, int add) {
            RUN(cross_entropy_backward_f32, (Grid{(unsigned)e.n}), z, l, w, s, d, dz, e.n, e.classes, e.smoothing, e.gamma, add);
        });
}
CASE(cross_entropy_bf16_loss) {
    check_entropy<bf16>(
        BF16,
        [](const Entropy& e, Halves& z, Buffer<unsigned>& l, const float* w, Buffer<double>& t, Buffer<double>& s) {
            RUN(cross_entropy_bf16, (Grid{(unsigned)e.n}), z, l, w, t, s, e.classes, e.smoothing, e.gamma);
        },
        [](const Entropy& e, Halves& z, Buffer<unsigned>& l, const float* w, Buffer<double>& s, Floats& d, Halves& dz, int add) {
            RUN(cross_entropy_backward_bf16, (Grid{(unsigned)e.n}), z, l, w, s, d, dz, e.n, e.classes, e.smoothing, e.gamma, add);
        });
}
CASE(loss_gradient_is_nan_where_the_loss_is_not_finite) {
    for (float loss : {0.0f, -3.5f, 3.4e38f, INFINITY, -INFINITY, NOT_A_NUMBER}) {
        Floats from{loss}, grad(1);
        RUN(loss_gradient, (Grid{1}), from, grad, 0.25f);
        expect("gradient", grad, {std::isfinite(loss) ? 0.25 : NAN}, 0, 0);
    }
}
CASE(cross_entropy_shows_nan) {
    Floats z{1, NOT_A_NUMBER, 2, 0, 1, 2}, loss(1);
    Buffer<unsigned> labels{0, 1};
    Buffer<double> terms(2), lse(2);
    RUN(cross_entropy_f32, (Grid{2}), z, labels, nullptr, terms, lse, 3, 0.0f, 0.0f);
    RUN(sum_terms, (Grid{1}), terms, loss, 2, 2);
    expect_exact("loss", loss, {NAN});
}

template <class T, class Forward, class Backward> static void check_soft_entropy(double rounding, Forward forward, Backward backward) {
    for (auto [n, classes] : {std::pair{5, 7}, std::pair{3, 751}, std::pair{1, 1}}) {
        Buffer<T> z((size_t)n * classes), dz(z.size());
        Floats t(z.size()), loss(1), dloss{-0.75f};
        for (T& v : z.data) store(&v, (float)uniform(-30, 30));
        for (float& v : t.data) v = (float)uniform(0, 1);
        Buffer<double> terms(n), lse(n);
        double want = 0;
        Doubles want_dz;
        for (int i = 0; i < n; i++) {
            double max = -INFINITY, sum = 0, whole = 0;
            for (int c = 0; c < classes; c++) max = std::fmax(max, value(z[i * classes + c])), whole += t[i * classes + c];
            for (int c = 0; c < classes; c++) sum += std::exp(value(z[i * classes + c]) - max);
            double l = max + std::log(sum);
            for (int c = 0; c < classes; c++) {
                want += t[i * classes + c] * (l - value(z[i * classes + c])) / n;
                double p = std::exp(value(z[i * classes + c]) - l);
                want_dz.push_back((p * whole - t[i * classes + c]) * -0.75 / n);
            }
        }
        forward(n, classes, z, t, terms, lse);
        RUN(sum_terms, (Grid{1}), terms, loss, n, n);
        expect("loss", loss, {want}, 1e-7, 1e-6);
        backward(n, classes, z, t, lse, dloss, dz, 0);
        expect("dlogits", dz, want_dz, 1e-5, rounding);
        for (double& d : want_dz) d *= 2;
        backward(n, classes, z, t, lse, dloss, dz, 1);
        expect("dlogits, added", dz, want_dz, 1e-5, 2 * rounding);
    }
}

CASE(soft_cross_entropy_f32_loss) {
    check_soft_entropy<float>(
        1e-5, [](int n, int classes, Floats& z, Floats& t, Buffer<double>& terms,
                 Buffer<double>& s) { RUN(soft_cross_entropy_f32, (Grid{(unsigned)n}), z, t, terms, s, classes); },
        [](int n, int classes, Floats& z, Floats& t, Buffer<double>& s, Floats& d, Floats& dz, int add) {
            RUN(soft_cross_entropy_backward_f32, (Grid{(unsigned)n}), z, t, s, d, dz, n, classes, add);
        });
}
CASE(soft_cross_entropy_bf16_loss) {
    check_soft_entropy<bf16>(
        BF16, [](int n, int classes, Halves& z, Floats& t, Buffer<double>& terms,
                 Buffer<double>& s) { RUN(soft_cross_entropy_bf16, (Grid{(unsigned)n}), z, t, terms, s, classes); },
        [](int n, int classes, Halves& z, Floats& t, Buffer<double>& s, Floats& d, Halves& dz, int add) {
            RUN(soft_cross_entropy_backward_bf16, (Grid{(unsigned)n}), z, t, s, d, dz, n, classes, add);
        });
}

// Finds what Rust's `max_by(total_cmp)` finds: the last of the largest numbers, in the total order of floats.
template <class T> static int last_largest(const Buffer<T>& z, int row, int classes) {
    int best = 0;
    for (int c = 1; c < classes; c++) {
        double a = value(z[row * classes + best]), b = value(z[row * classes + c]);
        auto rank = [](double v) { return std::isnan(v) ? (std::signbit(v) ? -2 : 2) : 0; };
        bool below = rank(a) != rank(b) ? rank(a) > rank(b) : a > b || (a == b && !std::signbit(a) && std::signbit(b));
        if (!below) best = c;
    }
    return best;
}

template <class T, class Hits> static void check_hits(Hits top1_hits) {
    for (int n : {1, 5, 19, 64})
        for (int classes : {1, 3, 31, 70, 751}) {
            Buffer<T> z((size_t)n * classes);
            // Few different values, signed zeros among them, so that many are equal.
            for (T& v : z.data) store(&v, (float)((int)below(5) - 2) * (below(2) ? 1.0f : -1.0f));
            if (n > 3 && classes > 2) {
                store(&z[classes + 1], NOT_A_NUMBER);
                store(&z[2 * classes], -INFINITY);
                for (int c = 0; c < classes; c++) store(&z[3 * classes + c], -INFINITY);
            }
            Buffer<unsigned> labels(n);
            int want = 0;
            for (int row = 0; row < n; row++) {
                int best = last_largest(z, row, classes);
                labels[row] = row % 3 == 0 ? below(classes) : (unsigned)best;
                want += (int)labels[row] == best;
            }
            Floats hits(1);
            top1_hits(z, labels, hits, n, classes);
            expect_exact("hits", hits, {(double)want});
        }
}

CASE(top1_hits_take_the_last_of_equals) {
    check_hits<float>([](Floats& z, Buffer<unsigned>& l, Floats& hits, int n, int classes) {
        RUN(top1_hits_f32, (Grid{1}), z, l, hits, n, classes);
    });
    check_hits<bf16>([](Halves& z, Buffer<unsigned>& l, Floats& hits, int n, int classes) {
        RUN(top1_hits_bf16, (Grid{1}), z, l, hits, n, classes);
    });
    // Ties in one lane, across lanes, with a NaN of either sign.
    Floats z(4 * 40), hits(1);
    for (float& v : z.data) v = -1.0f;
    z[3] = z[35] = z[7] = 2.0f;
    z[40 + 0] = 0.0f, z[40 + 1] = -0.0f;
    z[80 + 9] = NOT_A_NUMBER, z[80 + 10] = INFINITY;
    z[120 + 4] = bits_to_float(0xffffffffu), z[120 + 30] = 5.0f;
    Buffer<unsigned> right{35, 0, 9, 30}, wrong{7, 1, 10, 4};
    RUN(top1_hits_f32, (Grid{1}), z, right, hits, 4, 40);
    expect_exact("all hit", hits, {4.0});
    RUN(top1_hits_f32, (Grid{1}), z, wrong, hits, 4, 40);
    expect_exact("none hit", hits, {0.0});
}

// Features and labels of a batch, then those of a bank.
struct Triplets {
    Floats features;
    Buffer<unsigned> labels;
    int dim;
    float margin;
    Floats bank = {};
    Buffer<unsigned> bank_labels = {};
};

const unsigned EMPTY = 0xffffffffu;

static void check_triplet(const char* name, const Triplets& t) {
    int n = (int)t.labels.size(), m = (int)t.bank_labels.size(), dim = t.dim, width = n + m;
    auto f = [&](int i, int k) { return value(i < n ? t.features[(size_t)i * dim + k] : t.bank[(size_t)(i - n) * dim + k]); };
    auto label = [&](int j) { return j < n ? t.labels[j] : t.bank_labels[j - n]; };
    auto present = [&](int j) { return j < n || label(j) != EMPTY; };
    std::vector<Doubles> d(n, Doubles(width));
    Doubles squared, want_df((size_t)n * dim);
    double want = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < width; j++) {
            for (int k = 0; k < dim; k++) d[i][j] += std::pow(f(i, k) - f(j, k), 2);
            if (d[i][j] < 1e-12) d[i][j] = 1e-12;
            squared.push_back(d[i][j]);
        }
    for (int i = 0; i < n; i++) {
        double farthest = -1, nearest = INFINITY;
        for (int j = 0; j < width; j++) {
            if (!present(j)) continue;
            if (label(j) == t.labels[i]) farthest = std::fmax(farthest, d[i][j]);
            else nearest = std::fmin(nearest, d[i][j]);
        }
        double hinge = std::sqrt(farthest) - std::sqrt(nearest) + t.margin;
        if (std::isinf(nearest) || hinge <= 0) continue;
        want += hinge / n;
        for (int same = 0; same < 2; same++) {
            double hardest = same ? farthest : nearest;
            std::vector<int> ties;
            for (int j = 0; j < width; j++)
                if (present(j) && (label(j) == t.labels[i]) == (same == 1) && d[i][j] == hardest) ties.push_back(j);
            for (int j : ties) {
                if (hardest <= 1e-12) continue;
                for (int k = 0; k < dim; k++) {
                    double step = (same ? 1 : -1) * 0.5 / n / ties.size() / std::sqrt(hardest) * (f(i, k) - f(j, k));
                    want_df[(size_t)i * dim + k] += step;
                    if (j < n) want_df[(size_t)j * dim + k] -= step;
                }
            }
        }
    }
    Buffer<double> distances((size_t)n * width), terms(n), factors((size_t)n * width);
    Floats loss(1), dloss{0.5f}, df((size_t)n * dim);
    RUN(triplet_distances, (Grid{blocks(n * width, 8)}), t.features, t.bank, distances, n, m, dim);
    expect("squared distances", distances, squared, 0, 1e-12);
    RUN(triplet_mine, (Grid{blocks(n, 8)}), distances, t.labels, t.bank_labels, terms, factors, n, m, t.margin);
    RUN(sum_terms, (Grid{1}), terms, loss, n, n);
    expect(name, loss, {want}, 1e-6, 1e-6);
    Grid grid{blocks(dim, 256), (unsigned)n};
    RUN(triplet_backward, grid, t.features, t.bank, factors, dloss, df, n, m, dim, 0);
    expect(name, df, want_df, 1e-6, 1e-5);
    for (double& v : want_df) v *= 2;
    RUN(triplet_backward, grid, t.features, t.bank, factors, dloss, df, n, m, dim, 1);
    expect(name, df, want_df, 1e-6, 1e-5);
}

CASE(triplet_loss) {
    check_triplet("random", {random_floats(8 * 5), {0, 0, 1, 1, 1, 2, 2, 3}, 5, 0.8f});
    check_triplet("several blocks of anchors", {random_floats(70 * 300), Buffer<unsigned>([] {
                      Buffer<unsigned> labels(70);
                      for (unsigned i = 0; i < 70; i++) labels[i] = i / 4;
                      return labels;
                  }()), 300, 1.2f});
    // Corners of a square: exact ties among positives and among negatives.
    check_triplet("ties", {{0, 0, 1, 0, 0, 1, 1, 1, -1, 0, 0, -1}, {0, 0, 0, 1, 1, 1}, 2, 0.5f});
    // All features are equal: clamped distances have no gradient.
    check_triplet("clamped", {{1, 2, 1, 2, 1, 2, 1, 2}, {0, 0, 1, 1}, 2, 0.3f});
    check_triplet("one identity", {random_floats(3 * 4), {5, 5, 5}, 4, 1.0f});
}
CASE(triplet_loss_with_a_bank) {
    Buffer<unsigned> labels(75);
    for (unsigned p = 0; p < 75; p++) labels[p] = p % 7 == 0 ? EMPTY : p % 5;
    check_triplet("random", {random_floats(8 * 5), {0, 0, 1, 1, 1, 2, 2, 3}, 5, 0.8f, random_floats(75 * 5), labels});
    // An empty place holds NaN, another one what would be the nearest negative.
    check_triplet("empty places", {{0, 0, 1, 0, 3, 0, 4, 1}, {0, 0, 1, 1}, 2, 0.5f,
                                   {NOT_A_NUMBER, NOT_A_NUMBER, 0, 0, 2, 1}, {EMPTY, EMPTY, 0}});
    // The same corners in the batch and in the bank: ties across both.
    check_triplet("ties", {{0, 0, 1, 0, -1, 0}, {0, 0, 1}, 2, 0.5f, {0, 1, 1, 0, 0, -1, -1, 0}, {0, 0, 1, 1}});
    check_triplet("negatives in the bank only", {random_floats(3 * 4), {5, 5, 5}, 4, 1.0f, random_floats(2 * 4), {5, 6}});
}
CASE(triplet_shows_nan) {
    Floats features{0, 0, NOT_A_NUMBER, 1, 2, 2}, numbers{0, 0, 1, 1, 2, 2}, bank{NOT_A_NUMBER, 0}, loss(1);
    Buffer<unsigned> labels{0, 0, 0}, bank_labels{1};
    Buffer<double> distances(12), terms(3), factors(12);
    RUN(triplet_distances, (Grid{2}), features, bank, distances, 3, 0, 2);
    RUN(triplet_mine, (Grid{1}), distances, labels, bank_labels, terms, factors, 3, 0, 0.3f);
    RUN(sum_terms, (Grid{1}), terms, loss, 3, 3);
    expect_exact("loss", loss, {NAN});
    RUN(triplet_distances, (Grid{2}), numbers, bank, distances, 3, 1, 2);
    RUN(triplet_mine, (Grid{1}), distances, labels, bank_labels, terms, factors, 3, 1, 0.3f);
    RUN(sum_terms, (Grid{1}), terms, loss, 3, 3);
    expect_exact("loss, from the bank", loss, {NAN});
}
