#include "harness.h"
using namespace test;

struct Logits {
    int n, classes;
    float scale, margin;
};

// What becomes of a cosine, and the factor of its gradient.
using Apply = std::pair<double, double> (*)(double cosine, bool is_label, double margin);

static std::pair<double, double> arc(double cosine, bool is_label, double margin) {
    if (!is_label) return {cosine, 1};
    if (cosine <= -std::cos(margin)) return {cosine - margin * std::sin(margin), 1};
    if (cosine >= 1) return {cosine * std::cos(margin), std::cos(margin)};
    double angle = std::acos(cosine) + margin;
    return {std::cos(angle), std::sin(angle) / std::sqrt(1 - cosine * cosine)};
}
static std::pair<double, double> circle(double cosine, bool is_label, double margin) {
    double factor = std::fmax(0, is_label ? 1 + margin - cosine : cosine + margin);
    return {factor * (cosine - (is_label ? 1 - margin : margin)), factor};
}

template <class T, class Forward, class Backward>
static void check_margin(Apply apply, double rounding, Forward forward, Backward backward) {
    for (const Logits& l : {Logits{5, 7, 64, 0.5f}, Logits{6, 130, 16, 0.25f}, Logits{3, 33, 4, 1.2f}, Logits{1, 1, 8, 0.35f}}) {
        Buffer<T> z((size_t)l.n * l.classes), y(z.size()), dy(z.size()), dz(z.size());
        Buffer<unsigned> labels(l.n);
        for (unsigned& label : labels.data) label = below(l.classes);
        for (T& v : z.data) store(&v, (float)uniform(-l.scale, l.scale));
        for (T& v : dy.data) store(&v, (float)uniform());
        // A label in its own direction, and one that rounding has brought beyond.
        store(&z[labels[0]], l.scale);
        if (l.n > 1) store(&z[l.classes + labels[1]], l.scale * 1.01f);
        Doubles want_y, want_dz;
        for (size_t i = 0; i < z.size(); i++) {
            auto [cosine, slope] = apply(value(z[i]) / l.scale, i % l.classes == labels[i / l.classes], l.margin);
            want_y.push_back(l.scale * cosine);
            want_dz.push_back(slope * value(dy[i]));
        }
        forward(l, z, labels, y);
        expect("y", y, want_y, 2e-5 * l.scale, rounding);
        backward(l, z, labels, dy, dz, 0);
        expect("dz", dz, want_dz, 1e-5, rounding);
        for (double& d : want_dz) d *= 2;
        backward(l, z, labels, dy, dz, 1);
        expect("dz, added", dz, want_dz, 1e-5, 2 * rounding);
    }
    Buffer<T> z(2), y(2);
    store(&z[0], NOT_A_NUMBER), store(&z[1], NOT_A_NUMBER);
    Buffer<unsigned> label{0};
    forward({1, 2, 4, 0.5f}, z, label, y);
    expect_exact("y", y, {NAN, NAN});
}

CASE(arc_margin_of_labels) {
    check_margin<float>(
        arc, 1e-5,
        [](const Logits& l, Floats& z, Buffer<unsigned>& labels, Floats& y) {
            float cos = std::cos(l.margin), sin = std::sin(l.margin);
            RUN(arc_margin_f32, (Grid{2}), z, labels, y, l.n, l.classes, l.scale, cos, sin, l.margin);
        },
        [](const Logits& l, Floats& z, Buffer<unsigned>& labels, Floats& dy, Floats& dz, int add) {
            float cos = std::cos(l.margin), sin = std::sin(l.margin);
            RUN(arc_margin_backward_f32, (Grid{2}), z, labels, dy, dz, l.n, l.classes, l.scale, cos, sin, l.margin, add);
        });
    check_margin<bf16>(
        arc, BF16,
        [](const Logits& l, Halves& z, Buffer<unsigned>& labels, Halves& y) {
            float cos = std::cos(l.margin), sin = std::sin(l.margin);
            RUN(arc_margin_bf16, (Grid{1}), z, labels, y, l.n, l.classes, l.scale, cos, sin, l.margin);
        },
        [](const Logits& l, Halves& z, Buffer<unsigned>& labels, Halves& dy, Halves& dz, int add) {
            float cos = std::cos(l.margin), sin = std::sin(l.margin);
            RUN(arc_margin_backward_bf16, (Grid{1}), z, labels, dy, dz, l.n, l.classes, l.scale, cos, sin, l.margin, add);
        });
}
CASE(circle_margin_of_all_classes) {
    check_margin<float>(
        circle, 1e-5,
        [](const Logits& l, Floats& z, Buffer<unsigned>& labels, Floats& y) {
            RUN(circle_margin_f32, (Grid{2}), z, labels, y, l.n, l.classes, l.scale, l.margin);
        },
        [](const Logits& l, Floats& z, Buffer<unsigned>& labels, Floats& dy, Floats& dz, int add) {
            RUN(circle_margin_backward_f32, (Grid{2}), z, labels, dy, dz, l.n, l.classes, l.scale, l.margin, add);
        });
    check_margin<bf16>(
        circle, BF16,
        [](const Logits& l, Halves& z, Buffer<unsigned>& labels, Halves& y) {
            RUN(circle_margin_bf16, (Grid{1}), z, labels, y, l.n, l.classes, l.scale, l.margin);
        },
        [](const Logits& l, Halves& z, Buffer<unsigned>& labels, Halves& dy, Halves& dz, int add) {
            RUN(circle_margin_backward_bf16, (Grid{1}), z, labels, dy, dz, l.n, l.classes, l.scale, l.margin, add);
        });
}
