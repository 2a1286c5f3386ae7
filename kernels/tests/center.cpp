#include "harness.h"
#include <tuple>
using namespace test;

template <class T, class Forward, class Backward, class Move>
static void check_centers(double rounding, Forward forward, Backward backward, Move move) {
    for (auto [n, classes, dim] : {std::tuple{6, 4, 5}, std::tuple{9, 3, 300}, std::tuple{1, 1, 1}}) {
        Buffer<T> features((size_t)n * dim), df(features.size());
        for (T& v : features.data) store(&v, (float)uniform());
        Floats centers = random_floats((size_t)classes * dim), loss(1), dloss{-0.75f};
        Buffer<unsigned> labels(n);
        for (unsigned& l : labels.data) l = below(classes);
        Buffer<double> terms(n);
        double want = 0;
        Doubles want_df, want_centers = values(centers), sums(centers.size());
        std::vector<int> images(classes);
        for (int i = 0; i < n; i++) {
            images[labels[i]]++;
            for (int k = 0; k < dim; k++) {
                double d = value(features[i * dim + k]) - value(centers[labels[i] * dim + k]);
                want += d * d / (2 * n);
                want_df.push_back(d * -0.75 / n);
                sums[labels[i] * dim + k] -= d;
            }
        }
        for (size_t i = 0; i < sums.size(); i++) want_centers[i] -= 0.3 * sums[i] / (1 + images[i / dim]);
        forward(n, features, labels, centers, terms, dim);
        RUN(sum_terms, (Grid{1}), terms, loss, n, 2 * n);
        expect("loss", loss, {want}, 1e-7, 1e-6);
        backward(n, features, labels, centers, dloss, df, dim, 0);
        expect("dfeatures", df, want_df, 1e-7, rounding);
        for (double& d : want_df) d *= 2;
        backward(n, features, labels, centers, dloss, df, dim, 1);
        expect("dfeatures, added", df, want_df, 1e-7, 2 * rounding);
        move(Grid{blocks(dim, 256), (unsigned)n}, centers, features, labels, n, dim, 0.3f);
        expect("centres", centers, want_centers, 1e-6, 1e-6);
    }
}

CASE(center_losses_and_centres) {
    check_centers<float>(
        1e-5,
        [](int n, Floats& f, Buffer<unsigned>& l, Floats& c, Buffer<double>& t, int dim) { RUN(center_loss_f32, (Grid{(unsigned)n}), f, l, c, t, dim); },
        [](int n, Floats& f, Buffer<unsigned>& l, Floats& c, Floats& d, Floats& df, int dim, int add) {
            RUN(center_loss_backward_f32, (Grid{2}), f, l, c, d, df, n, dim, add);
        },
        [](Grid grid, Floats& c, Floats& f, Buffer<unsigned>& l, int n, int dim, float rate) { RUN(move_centers_f32, grid, c, f, l, n, dim, rate); });
    check_centers<bf16>(
        BF16,
        [](int n, Halves& f, Buffer<unsigned>& l, Floats& c, Buffer<double>& t, int dim) { RUN(center_loss_bf16, (Grid{(unsigned)n}), f, l, c, t, dim); },
        [](int n, Halves& f, Buffer<unsigned>& l, Floats& c, Floats& d, Halves& df, int dim, int add) {
            RUN(center_loss_backward_bf16, (Grid{2}), f, l, c, d, df, n, dim, add);
        },
        [](Grid grid, Floats& c, Halves& f, Buffer<unsigned>& l, int n, int dim, float rate) { RUN(move_centers_bf16, grid, c, f, l, n, dim, rate); });
}
