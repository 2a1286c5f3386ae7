#include "harness.h"
using namespace test;

struct Shape {
    int rows, columns;
    unsigned blocks;
};
static const Shape shapes[] = {{1, 1, 1}, {27, 64, 1}, {33, 70, 2}, {100, 3, 9}, {64, 32, 2}, {5, 131, 4}};

template <class T> static Doubles transposed(const Buffer<T>& x, size_t first, const Shape& s) {
    Doubles y((size_t)s.rows * s.columns);
    for (int r = 0; r < s.rows; r++)
        for (int c = 0; c < s.columns; c++) y[(size_t)c * s.rows + r] = value(x[first + (size_t)r * s.columns + c]);
    return y;
}

CASE(transpose) {
    for (const Shape& s : shapes) {
        size_t n = (size_t)s.rows * s.columns;
        Floats x = random_floats(n), y(n);
        RUN(transpose_f32, (Grid{s.blocks}), x, y, s.rows, s.columns);
        expect_exact("y", y, transposed(x, 0, s));
    }
}

// The matrices of all shapes in x, one after the other; in y in the reverse order, each with a gap of 3 behind it.
struct Table {
    std::vector<Shape> matrices;
    std::vector<size_t> from, to;
    size_t x_len = 0, y_len = 0;
    Buffer<long long> numbers{std::initializer_list<long long>{}};

    explicit Table(std::vector<Shape> all) : matrices(all), from(all.size()), to(all.size()) {
        auto len = [](const Shape& s) { return (size_t)s.rows * s.columns; };
        for (size_t i = 0; i < all.size(); i++) from[i] = x_len, x_len += len(all[i]);
        for (size_t i = all.size(); i-- > 0;) to[i] = y_len, y_len += len(all[i]) + 3;
        long long tiles = 0;
        for (size_t i = 0; i < all.size(); i++) {
            tiles += blocks(all[i].rows, 32) * (long long)blocks(all[i].columns, 32);
            for (long long v : {(long long)from[i], (long long)to[i], (long long)all[i].rows, (long long)all[i].columns, tiles}) numbers.data.push_back(v);
        }
    }

    // `y` held NaN before: the gaps are as they were.
    template <class X, class Y> void check(const X& x, const Y& y) const {
        Doubles want(y_len, NAN);
        for (size_t i = 0; i < matrices.size(); i++) {
            Doubles part = transposed(x, from[i], matrices[i]);
            std::copy(part.begin(), part.end(), want.begin() + to[i]);
        }
        expect_exact("y", y, want);
    }
};

CASE(turned_weights_and_gradients) {
    for (const Table& table : {Table({shapes, shapes + 6}), Table({{40, 70, 1}})}) {
        for (unsigned grid : {1u, 3u, 40u}) {
            const int matrices = (int)table.matrices.size();
            Floats x = random_floats(table.x_len), y(table.y_len), z(table.y_len);
            RUN(turn_weights_f32, (Grid{grid}), x, y, table.numbers, matrices);
            table.check(x, y);
            RUN(turn_gradients_f32, (Grid{grid}), x, z, table.numbers, matrices);
            table.check(x, z);

            Halves rounded(table.x_len), half(table.y_len);
            RUN(cast_f32_bf16, (Grid{1}), x, rounded, (long long)table.x_len);
            RUN(turn_weights_bf16, (Grid{grid}), x, half, table.numbers, matrices);
            table.check(rounded, half);
            Floats back(table.y_len);
            RUN(turn_gradients_bf16, (Grid{grid}), rounded, back, table.numbers, matrices);
            table.check(rounded, back);
        }
    }
}
