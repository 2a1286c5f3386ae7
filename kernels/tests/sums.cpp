#include "harness.h"
using namespace test;

struct Matrix {
    int rows, columns, split_rows;
};

template <class T, class Sums> static void check_sums(Sums column_sums) {
    for (const Matrix& m : {Matrix{1, 1, 1}, Matrix{37, 5, 10}, Matrix{70, 70, 33}, Matrix{8, 32, 100}, Matrix{129, 33, 7}}) {
        Buffer<T> x((size_t)m.rows * m.columns);
        for (T& v : x.data) store(&v, (float)uniform());
        unsigned splits = blocks(m.rows, m.split_rows);
        Floats partials((size_t)splits * m.columns), sums(m.columns), added = random_floats(m.columns);
        Doubles want(m.columns), want_partials(partials.size()), want_added = values(added);
        for (int r = 0; r < m.rows; r++)
            for (int c = 0; c < m.columns; c++) {
                double v = value(x[(size_t)r * m.columns + c]);
                want[c] += v, want_added[c] += v, want_partials[(size_t)(r / m.split_rows) * m.columns + c] += v;
            }
        column_sums(m, splits, x, partials);
        expect("partial sums", partials, want_partials, 1e-5, 1e-5);
        RUN(sum_partials_f32, (Grid{1}), partials, sums, (int)splits, m.columns, 0);
        expect("sums", sums, want, 1e-5, 1e-5);
        RUN(sum_partials_f32, (Grid{2}), partials, added, (int)splits, m.columns, 1);
        expect("sums, added", added, want_added, 1e-5, 1e-5);
    }
}

CASE(column_sums) {
    check_sums<float>([](const Matrix& m, unsigned splits, Floats& x, Floats& partials) {
        RUN(column_sums_f32, (Grid{blocks(m.columns, 32), splits}), x, partials, m.rows, m.columns, m.split_rows);
    });
    check_sums<bf16>([](const Matrix& m, unsigned splits, Halves& x, Floats& partials) {
        RUN(column_sums_bf16, (Grid{blocks(m.columns, 32), splits}), x, partials, m.rows, m.columns, m.split_rows);
    });
}

CASE(numbers_gathered) {
    Floats x = random_floats(300), numbers(300);
    Buffer<long long> addresses(300);
    Doubles want;
    for (int i = 0; i < 300; i++) addresses[i] = (long long)&x[(i * 7) % 300], want.push_back(x[(i * 7) % 300]);
    for (unsigned blocks : {1u, 2u}) {
        RUN(gather_numbers, (Grid{blocks}), addresses, numbers, 300);
        expect_exact("numbers", numbers, want);
    }
}
