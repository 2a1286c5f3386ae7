#include "harness.h"
using namespace test;

struct Shape {
    int rows, columns;
    unsigned blocks;
};
static const Shape shapes[] = {{1, 1, 1}, {27, 64, 1}, {33, 70, 2}, {100, 3, 9}, {64, 32, 2}, {5, 131, 4}};

template <class T> static Doubles transposed(const Buffer<T>& x, const Shape& s) {
    Doubles y(x.size());
    for (int r = 0; r < s.rows; r++)
        for (int c = 0; c < s.columns; c++) y[(size_t)c * s.rows + r] = value(x[(size_t)r * s.columns + c]);
    return y;
}

CASE(transpose_casts) {
    for (const Shape& s : shapes) {
        size_t n = (size_t)s.rows * s.columns;
        Floats x = random_floats(n), y(n);
        RUN(transpose_cast_f32, (Grid{s.blocks}), x, y, s.rows, s.columns);
        expect_exact("f32", y, transposed(x, s));
        Halves rounded(n), half(n);
        RUN(cast_f32_bf16, (Grid{1}), x, rounded, (long long)n);
        RUN(transpose_cast_bf16, (Grid{s.blocks}), x, half, s.rows, s.columns);
        expect_exact("bf16", half, transposed(rounded, s));
    }
}

template <class T, class Put> static void check_put(const Shape& s, const Buffer<T>& x, Put put) {
    Floats y(x.size()), added = random_floats(x.size());
    Doubles want = transposed(x, s), sum;
    for (size_t i = 0; i < want.size(); i++) sum.push_back((float)(added[i] + (float)want[i]));
    put(y, 0);
    expect_exact("overwritten", y, want);
    put(added, 1);
    expect_exact("added", added, sum);
}

CASE(transpose_puts) {
    for (const Shape& s : shapes) {
        size_t n = (size_t)s.rows * s.columns;
        Floats x = random_floats(n);
        check_put(s, x, [&](Floats& y, int accumulate) {
            RUN(transpose_put_f32, (Grid{s.blocks}), x, y, s.rows, s.columns, accumulate);
        });
        Halves half = random_halves(n);
        check_put(s, half, [&](Floats& y, int accumulate) {
            RUN(transpose_put_bf16, (Grid{s.blocks}), half, y, s.rows, s.columns, accumulate);
        });
    }
}
