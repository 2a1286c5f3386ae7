#include "harness.h"
using namespace test;

// Numbers of a matrix whose first row or column is 0: its length is raised to 1e-12.
template <class T> static Buffer<T> with_zeros(int rows, int columns, bool zero_row) {
    Buffer<T> x((size_t)rows * columns);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) store(&x[(size_t)r * columns + c], (zero_row ? r : c) == 0 ? 0.0f : (float)uniform());
    return x;
}

template <class T, class Forward, class Backward> static void check_normalize(double rounding, Forward forward, Backward backward) {
    for (auto [n, dim] : {std::pair{5, 7}, std::pair{3, 700}, std::pair{2, 1}}) {
        Buffer<T> x = with_zeros<T>(n, dim, true), y(x.size()), dy(x.size()), dx(x.size());
        for (T& v : dy.data) store(&v, (float)uniform());
        Floats lengths(n);
        Doubles want_lengths, want_y;
        for (int i = 0; i < n; i++) {
            double squares = 0;
            for (int k = 0; k < dim; k++) squares += std::pow(value(x[i * dim + k]), 2);
            want_lengths.push_back(std::fmax(std::sqrt(squares), 1e-12));
            for (int k = 0; k < dim; k++) want_y.push_back(value(x[i * dim + k]) / want_lengths[i]);
        }
        forward(n, x, y, lengths, dim);
        expect("lengths", lengths, want_lengths, 0, 1e-6);
        expect("y", y, want_y, 0, rounding);
        Buffer<T> again(x.size());
        forward(n, x, again, nullptr, dim);
        expect_exact("y, without lengths", again, values(y));
        Doubles want_dx;
        for (int i = 0; i < n; i++) {
            double along = 0;
            for (int k = 0; k < dim; k++) along += value(y[i * dim + k]) * value(dy[i * dim + k]);
            for (int k = 0; k < dim; k++)
                want_dx.push_back((value(dy[i * dim + k]) - (i ? value(y[i * dim + k]) * along : 0)) / want_lengths[i]);
        }
        backward(n, y, dy, lengths, dx, dim, 0);
        expect("dx", dx, want_dx, 1e-6, rounding);
        for (double& d : want_dx) d *= 2;
        backward(n, y, dy, lengths, dx, dim, 1);
        expect("dx, added", dx, want_dx, 1e-6, 2 * rounding);
    }
}

CASE(vectors_of_length_1) {
    check_normalize<float>(
        1e-5, [](int n, Floats& x, Floats& y, float* lengths, int dim) { RUN(normalize_f32, (Grid{(unsigned)n}), x, y, lengths, dim); },
        [](int n, Floats& y, Floats& dy, Floats& lengths, Floats& dx, int dim, int add) {
            RUN(normalize_backward_f32, (Grid{(unsigned)n}), y, dy, lengths, dx, dim, add);
        });
    check_normalize<bf16>(
        BF16, [](int n, Halves& x, Halves& y, float* lengths, int dim) { RUN(normalize_bf16, (Grid{(unsigned)n}), x, y, lengths, dim); },
        [](int n, Halves& y, Halves& dy, Floats& lengths, Halves& dx, int dim, int add) {
            RUN(normalize_backward_bf16, (Grid{(unsigned)n}), y, dy, lengths, dx, dim, add);
        });
}
CASE(vectors_of_length_1_show_nan) {
    Floats x{1, NOT_A_NUMBER, 2, 3}, y(4), lengths(2);
    RUN(normalize_f32, (Grid{2}), x, y, lengths, 2);
    expect("y", y, {NAN, NAN, 2 / std::sqrt(13.0), 3 / std::sqrt(13.0)}, 0, 1e-6);
}

// Factors of the columns of a weight, whose first column is 0, and their use on products and on the weight.
template <class T, class Scale, class Slopes> static void check_columns(double rounding, Scale scale_columns, Slopes column_slopes) {
    struct Size {
        int rows, classes, dim;
    };
    for (const Size& s : {Size{5, 7, 6}, Size{3, 40, 70}, Size{9, 64, 33}, Size{1, 1, 1}}) {
        const float scale = 16;
        Floats weight = with_zeros<float>(s.dim, s.classes, false), factors(s.classes), slopes(s.classes);
        Doubles want_factors, want_slopes, want_y, want_dx;
        for (int c = 0; c < s.classes; c++) {
            double squares = 0;
            for (int k = 0; k < s.dim; k++) squares += std::pow(weight[k * s.classes + c], 2);
            want_factors.push_back(scale / std::fmax(std::sqrt(squares), 1e-12));
        }
        unsigned columns = blocks(s.classes, 32);
        RUN(column_factors, (Grid{columns}), weight, factors, s.dim, s.classes, scale);
        expect("factors", factors, want_factors, 0, 1e-6);
        Buffer<T> x((size_t)s.rows * s.classes), y(x.size()), dy(x.size());
        for (T& v : x.data) store(&v, (float)uniform());
        for (T& v : dy.data) store(&v, (float)uniform());
        for (size_t i = 0; i < x.size(); i++) want_y.push_back(value(x[i]) * factors[i % s.classes]);
        scale_columns(x, factors, y, s.rows, s.classes, 0);
        expect("scaled", y, want_y, 0, rounding);
        for (size_t i = 0; i < x.size(); i++) want_dx.push_back(value(y[i]) + value(dy[i]) * factors[i % s.classes]);
        Buffer<T> dx = y;
        scale_columns(dy, factors, dx, s.rows, s.classes, 1);
        // A sum near 0 of large terms.
        expect("scaled, added", dx, want_dx, 1e-5, rounding);
        for (int c = 0; c < s.classes; c++) {
            double sum = 0;
            for (int r = 0; r < s.rows; r++) sum += value(y[r * s.classes + c]) * value(dy[r * s.classes + c]);
            want_slopes.push_back(c ? -sum * std::pow((double)factors[c] / scale, 2) : 0);
        }
        column_slopes(columns, y, dy, factors, slopes, s.rows, s.classes, scale);
        expect("slopes", slopes, want_slopes, 1e-6, 1e-5);
    }
}

CASE(products_over_lengths) {
    check_columns<float>(
        1e-6, [](Floats& x, Floats& f, Floats& y, int rows, int classes, int add) { RUN(scale_columns_f32, (Grid{2}), x, f, y, rows, classes, add); },
        [](unsigned grid, Floats& y, Floats& dy, Floats& f, Floats& slopes, int rows, int classes, float scale) {
            RUN(column_slopes_f32, (Grid{grid}), y, dy, f, slopes, rows, classes, scale);
        });
    check_columns<bf16>(
        BF16, [](Halves& x, Floats& f, Halves& y, int rows, int classes, int add) { RUN(scale_columns_bf16, (Grid{2}), x, f, y, rows, classes, add); },
        [](unsigned grid, Halves& y, Halves& dy, Floats& f, Floats& slopes, int rows, int classes, float scale) {
            RUN(column_slopes_bf16, (Grid{grid}), y, dy, f, slopes, rows, classes, scale);
        });
}
