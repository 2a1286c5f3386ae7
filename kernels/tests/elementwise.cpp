#include "harness.h"
using namespace test;

static const long long N = 1003;

CASE(fill_and_scale) {
    Floats y(N), scaled(N);
    Halves h(N);
    RUN(fill_f32, (Grid{3}), y, 1.5f, N);
    RUN(fill_bf16, (Grid{1}), h, 0.1f, N);
    RUN(scale_f32, (Grid{4}), y, scaled, -2.0f, N);
    expect_exact("fill", y, Doubles(N, 1.5));
    expect("fill bf16", h, Doubles(N, 0.1), 0, BF16);
    expect_exact("scale", scaled, Doubles(N, -3.0));
}

CASE(moving_average) {
    Floats x = random_floats(N), y = random_floats(N);
    Doubles want;
    for (int i = 0; i < N; i++) want.push_back(0.75 * y[i] + 0.25 * x[i]);
    RUN(average_f32, (Grid{2}), x, y, 0.75f, N);
    expect("average", y, want, 1e-7, 1e-6);
}

CASE(add_and_put) {
    Floats a = random_floats(N), b = random_floats(N), y(N);
    Halves ha = random_halves(N), hb = random_halves(N), hy(N);
    RUN(add_f32, (Grid{2}), a, b, y, N);
    RUN(add_bf16, (Grid{2}), ha, hb, hy, N);
    Doubles sum, half_sum;
    for (int i = 0; i < N; i++) {
        sum.push_back((float)(a[i] + b[i]));
        half_sum.push_back(value(ha[i]) + value(hb[i]));
    }
    expect_exact("add", y, sum);
    expect("add bf16", hy, half_sum, 0, BF16);

    Floats copy(N);
    RUN(put_f32, (Grid{2}), a, copy, N, 0);
    expect_exact("put", copy, values(a));
    RUN(put_f32, (Grid{2}), b, copy, N, 1);
    expect_exact("put, adding", copy, sum);
    Halves half_copy(N);
    RUN(put_bf16, (Grid{2}), ha, half_copy, N, 0);
    expect_exact("put bf16", half_copy, values(ha));
    RUN(put_bf16, (Grid{2}), hb, half_copy, N, 1);
    expect("put bf16, adding", half_copy, half_sum, 0, BF16);

    Halves from_floats(N), gradient = random_halves(N);
    RUN(put_bf16_from_f32, (Grid{2}), a, from_floats, N, 0);
    Halves cast(N);
    RUN(cast_f32_bf16, (Grid{2}), a, cast, N);
    expect_exact("put bf16 from f32", from_floats, values(cast));
    // The exact sum, rounded once: if x were rounded first, small sums of large numbers would be far off.
    Doubles mixed;
    for (int i = 0; i < N; i++) mixed.push_back(value(gradient[i]) + a[i]);
    RUN(put_bf16_from_f32, (Grid{3}), a, gradient, N, 1);
    expect("put bf16 from f32, adding", gradient, mixed, 0, BF16);
}

// From addresses one element further, where no address or only one is aligned; and in place.
CASE(elements_at_any_address) {
    const int n = 70;
    Halves a = random_halves(n), b = random_halves(n), y(n), moved(n), back = random_halves(n);
    Floats f = random_floats(n), from_half(n), x = f;
    RUN(add_bf16, (Grid{1}), a + 1, b + 1, y + 1, n - 1);
    RUN(add_bf16, (Grid{1}), a, b + 1, moved, n - 1);
    RUN(cast_bf16_f32, (Grid{1}), a + 1, from_half, n - 1);
    RUN(put_bf16_from_f32, (Grid{1}), f + 4, back, n - 4, 0);
    RUN(add_f32, (Grid{1}), f, f, f, n);
    for (int i = 1; i < n; i++) {
        compare("aligned alike", i, value(y[i]), value(a[i]) + value(b[i]), 0, BF16);
        compare("aligned otherwise", i, value(moved[i - 1]), value(a[i - 1]) + value(b[i]), 0, BF16);
        compare("cast", i, from_half[i - 1], value(a[i]), 0, 0);
        compare("in place", i, f[i], 2 * x[i], 0, 0);
        if (i >= 4) compare("wide in both types", i, value(back[i - 4]), x[i], 0, BF16);
    }
    compare("what lies before", 0, value(y[0]), NAN, 0, 0);
    compare("what lies behind", 0, value(moved[n - 1]), NAN, 0, 0);
    compare("what lies behind", 0, from_half[n - 1], NAN, 0, 0);
}

CASE(relu_passes_nan) {
    Floats x = random_floats(N), dy = random_floats(N), y(N), dx = random_floats(N);
    x[0] = NOT_A_NUMBER;
    x[1] = 0.0f;
    Doubles want, want_dx, added;
    for (int i = 0; i < N; i++) {
        want.push_back(x[i] < 0 ? 0.0 : x[i]);
        want_dx.push_back(x[i] > 0 ? dy[i] : 0.0);
        added.push_back((float)(dx[i] + (float)want_dx[i]));
    }
    RUN(relu_f32, (Grid{4}), x, y, N);
    expect_exact("y", y, want);
    RUN(relu_backward_f32, (Grid{4}), y, dy, dx, N, 1);
    expect_exact("dx, added", dx, added);
    RUN(relu_backward_f32, (Grid{4}), y, dy, dx, N, 0);
    expect_exact("dx", dx, want_dx);

    Halves hx = random_halves(N), hdy = random_halves(N), hy(N), hdx(N);
    store(&hx[5], NOT_A_NUMBER);
    Doubles half_want, half_dx;
    for (int i = 0; i < N; i++) {
        half_want.push_back(value(hx[i]) < 0 ? 0.0 : value(hx[i]));
        half_dx.push_back(value(hx[i]) > 0 ? value(hdy[i]) : 0.0);
    }
    RUN(relu_bf16, (Grid{4}), hx, hy, N);
    expect_exact("y bf16", hy, half_want);
    RUN(relu_backward_bf16, (Grid{4}), hy, hdy, hdx, N, 0);
    expect_exact("dx bf16", hdx, half_dx);
}

CASE(casts_round_to_nearest_even) {
    // 1 + 2^-8 is halfway between 1 and 1 + 2^-7 and rounds to the even one; a little more rounds up.
    Floats x{1.00390625f, 1.0039064f, 1.01171875f, -1.00390625f, NOT_A_NUMBER, INFINITY, 3e38f, 3.4e38f, 1e-40f, 0.0f};
    Doubles want{1.0, 1.0078125, 1.015625, -1.0, NAN, INFINITY, 3.0042e38, INFINITY, 1e-40, 0.0};
    long long n = (long long)x.size();
    Halves h(x.size());
    Floats back(x.size());
    RUN(cast_f32_bf16, (Grid{1}), x, h, n);
    RUN(cast_bf16_f32, (Grid{1}), h, back, n);
    expect("cast", back, want, 1e-41, 1e-3);
    expect_exact("back", back, values(h));
    Doubles exact(want.begin(), want.begin() + 4);
    for (int i = 0; i < 4; i++) compare("tie", i, back[i], exact[i], 0, 0);
}

CASE(concat_and_narrow) {
    // Concatenates two inputs, and takes their gradients apart again.
    const int rows = 37, widths[2] = {5, 8}, total = 13;
    Floats a = random_floats(rows * 5), b = random_floats(rows * 8), y(rows * total);
    RUN(copy_columns_f32, (Grid{2, 2}), rows, a, y, widths[0], 5, total, 0, b, y + 5, widths[1], 8, total, 0);
    Doubles want;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < total; c++) want.push_back(c < 5 ? a[r * 5 + c] : b[r * 8 + c - 5]);
    expect_exact("concat", y, want);
    Floats da = random_floats(rows * 5);
    Doubles added;
    for (int i = 0; i < rows * 5; i++) added.push_back((float)(da[i] + a[i]));
    Floats db(rows * 8);
    RUN(copy_columns_f32, (Grid{1, 2}), rows, y, da, 5, total, 5, 1, y + 5, db, 8, total, 8, 0);
    expect_exact("backward, added", da, added);
    expect_exact("backward, overwritten", db, values(b));

    // The same with rows and columns that are multiples of 16 bytes.
    Floats wide = random_floats(rows * 24), taken = random_floats(rows * 8);
    Halves half_wide = random_halves(rows * 24), half_taken(rows * 8);
    Doubles want_taken, want_half;
    for (int i = 0; i < rows * 8; i++) {
        want_taken.push_back((float)(taken[i] + wide[i / 8 * 24 + 12 + i % 8]));
        want_half.push_back(value(half_wide[i / 8 * 24 + 16 + i % 8]));
    }
    RUN(copy_columns_f32, (Grid{1}), rows, wide + 12, taken, 8, 24, 8, 1, nullptr, nullptr, 0, 0, 0, 0);
    RUN(copy_columns_bf16, (Grid{2}), rows, half_wide + 16, half_taken, 8, 24, 8, 0, nullptr, nullptr, 0, 0, 0, 0);
    expect_exact("wide, added", taken, want_taken);
    expect_exact("wide bf16", half_taken, want_half);

    Halves h = random_halves(rows * total), part(rows * 8);
    RUN(copy_columns_bf16, (Grid{1}), rows, h + 5, part, 8, total, 8, 0, nullptr, nullptr, 0, 0, 0, 0);
    Doubles want_part;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 8; c++) want_part.push_back(value(h[r * total + 5 + c]));
    expect_exact("narrow bf16", part, want_part);
}

template <class T> static void check_bias(const Buffer<T>& start, int rows, int columns, void (*run)(Buffer<T>&, const Floats&, int, int), double error) {
    Buffer<T> y = start;
    Floats bias = random_floats(columns);
    Doubles want(y.size());
    for (size_t i = 0; i < want.size(); i++) want[i] = value(y[i]) + bias[i % columns];
    run(y, bias, rows, columns);
    expect("y", y, want, 1e-7, error);
}
CASE(bias_added) {
    for (int columns : {1, 7, 24, 600}) {
        for (int rows : {1, 5, 70}) {
            const size_t n = (size_t)rows * columns;
            check_bias<float>(random_floats(n), rows, columns,
                              [](Floats& y, const Floats& b, int r, int c) { RUN(add_bias_f32, (Grid{2}), y, b, (long long)r, c); }, 1e-6);
            check_bias<bf16>(random_halves(n), rows, columns,
                             [](Halves& y, const Floats& b, int r, int c) { RUN(add_bias_bf16, (Grid{3}), y, b, (long long)r, c); }, BF16);
        }
    }
}
