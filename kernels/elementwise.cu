// Elementwise work, copies between matrices with rows of different lengths, casts.
//
// Contract. Every kernel but copy_columns writes its whole output, and reads only its operands. An output may be the same buffer as
// an input of the same type, but must not overlap an input in another way. `accumulate`: 0 overwrites the output, any other value
// adds to it.
// launch: any grid of one dimension.

#include "common.cuh"

template <int N, class Y, class F, class... V> DEVICE void map_at(Y* y, int accumulate, F f, V... x) {
    Vec<N> out;
#pragma unroll
    for (int e = 0; e < N; e++) out[e] = f(x[e]...);
    put_vec(y, out, accumulate);
}

// y[n] = f(x[n]...), or y[n] += f(x[n]...): 16 bytes at a time where all buffers begin at a multiple of 16, the rest one by one.
template <class Y, class F, class... X> DEVICE void map(Y* y, long long n, int accumulate, F f, const X*... x) {
    const int N = VEC<Y, X...>;
    long long wide = aligned_16(y, x...) ? n / N : 0;
    for (long long i = global_index(); i < wide; i += global_size()) map_at<N>(y + i * N, accumulate, f, load_vec<N>(x + i * N)...);
    for (long long i = wide * N + global_index(); i < n; i += global_size()) map_at<1>(y + i, accumulate, f, load_vec<1>(x + i)...);
}

struct Same {
    METHOD float operator()(float x) const { return x; }
};

// y[n] = value
extern "C" __global__ void __launch_bounds__(256) fill_f32(float* y, float value, long long n) {
    map(y, n, 0, [=]() { return value; });
}

extern "C" __global__ void __launch_bounds__(256) fill_bf16(bf16* y, float value, long long n) {
    map(y, n, 0, [=]() { return value; });
}

// y[n] = factor · x[n]
extern "C" __global__ void __launch_bounds__(256) scale_f32(const float* x, float* y, float factor, long long n) {
    map(y, n, 0, [=](float v) { return factor * v; }, x);
}

// y[n] += (1 - keep) · (x[n] - y[n]): a moving average, which changes nothing where both are equal
extern "C" __global__ void __launch_bounds__(256) average_f32(const float* x, float* y, float keep, long long n) {
    map(y, n, 0, [=](float old, float v) { return old + (1.0f - keep) * (v - old); }, (const float*)y, x);
}

// y[n] = a[n] + b[n]
extern "C" __global__ void __launch_bounds__(256) add_f32(const float* a, const float* b, float* y, long long n) {
    map(y, n, 0, [](float u, float v) { return u + v; }, a, b);
}

extern "C" __global__ void __launch_bounds__(256) add_bf16(const bf16* a, const bf16* b, bf16* y, long long n) {
    map(y, n, 0, [](float u, float v) { return u + v; }, a, b);
}

// y[n] = x[n], or y[n] += x[n]
extern "C" __global__ void __launch_bounds__(256) put_f32(const float* x, float* y, long long n, int accumulate) {
    map(y, n, accumulate, Same{}, x);
}

extern "C" __global__ void __launch_bounds__(256) put_bf16(const bf16* x, bf16* y, long long n, int accumulate) {
    map(y, n, accumulate, Same{}, x);
}

// The same from f32, for gradients that are computed in f32 and go to activations in bf16: the sum is rounded once.
extern "C" __global__ void __launch_bounds__(256)
    put_bf16_from_f32(const float* x, bf16* y, long long n, int accumulate) {
    map(y, n, accumulate, Same{}, x);
}

// y[n] = max(x[n], 0). A comparison instead of fmaxf, so that NaN stays NaN.
struct Relu {
    METHOD float operator()(float x) const { return x < 0.0f ? 0.0f : x; }
};

extern "C" __global__ void __launch_bounds__(256) relu_f32(const float* x, float* y, long long n) {
    map(y, n, 0, Relu{}, x);
}

extern "C" __global__ void __launch_bounds__(256) relu_bf16(const bf16* x, bf16* y, long long n) {
    map(y, n, 0, Relu{}, x);
}

// dx[n] = dy[n] where y[n] > 0, else 0
struct ReluBackward {
    METHOD float operator()(float y, float dy) const { return y > 0.0f ? dy : 0.0f; }
};

extern "C" __global__ void __launch_bounds__(256)
    relu_backward_f32(const float* y, const float* dy, float* dx, long long n, int accumulate) {
    map(dx, n, accumulate, ReluBackward{}, y, dy);
}

extern "C" __global__ void __launch_bounds__(256)
    relu_backward_bf16(const bf16* y, const bf16* dy, bf16* dx, long long n, int accumulate) {
    map(dx, n, accumulate, ReluBackward{}, y, dy);
}

// y[n] = x[n] in the other type; to bf16 rounded to nearest even
extern "C" __global__ void __launch_bounds__(256) cast_f32_bf16(const float* x, bf16* y, long long n) {
    map(y, n, 0, Same{}, x);
}

extern "C" __global__ void __launch_bounds__(256) cast_bf16_f32(const bf16* x, float* y, long long n) {
    map(y, n, 0, Same{}, x);
}

// y[rows, columns] += bias[columns]
template <class T> DEVICE void add_bias(T* y, const float* bias, long long rows, int columns) {
    by_width<VEC<T>>(columns % VEC<T> == 0 && aligned_16(y), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_columns(rows, columns / N, [=](int part, long long first, unsigned step) {
            const Vec<N> b = gather_vec<N>(bias + part * N);
            for (long long row = first; row < rows; row += step) put_vec(y + row * columns + part * N, b, 1);
        });
    });
}

extern "C" __global__ void __launch_bounds__(256) add_bias_f32(float* y, const float* bias, long long rows, int columns) {
    add_bias(y, bias, rows, columns);
}

extern "C" __global__ void __launch_bounds__(256) add_bias_bf16(bf16* y, const float* bias, long long rows, int columns) {
    add_bias(y, bias, rows, columns);
}

// Copies the first `width` elements of each row of x [rows, x_pitch] to the same row of y [rows, y_pitch], and leaves the rest of
// y. With pointers to a first column, this serves concatenation along channels (y_pitch is their sum), its backward (x_pitch is
// their sum), and narrowing to some rows of each image (here a row is an image) with its backward, before which dx is filled with
// 0.
template <class T>
DEVICE void copy_columns(const T* x, T* y, long long rows, int width, long long x_pitch, long long y_pitch, int accumulate) {
    const bool wide = width % VEC<T> == 0 && x_pitch % VEC<T> == 0 && y_pitch % VEC<T> == 0 && aligned_16(x, y);
    by_width<VEC<T>>(wide, [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_rows(rows, width / N, [=](long long row, int part) {
            put_vec(y + row * y_pitch + part * N, load_vec<N>(x + row * x_pitch + part * N), accumulate);
        });
    });
}

// Two copies at once. launch: grid (any, 1 for the first copy only or 2)
extern "C" __global__ void __launch_bounds__(256)
    copy_columns_f32(long long rows, const float* x, float* y, int width, long long x_pitch, long long y_pitch, int accumulate,
                     const float* x2, float* y2, int width2, long long x_pitch2, long long y_pitch2, int accumulate2) {
    if (blockIdx.y == 0) copy_columns(x, y, rows, width, x_pitch, y_pitch, accumulate);
    else copy_columns(x2, y2, rows, width2, x_pitch2, y_pitch2, accumulate2);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_columns_bf16(long long rows, const bf16* x, bf16* y, int width, long long x_pitch, long long y_pitch, int accumulate,
                      const bf16* x2, bf16* y2, int width2, long long x_pitch2, long long y_pitch2, int accumulate2) {
    if (blockIdx.y == 0) copy_columns(x, y, rows, width, x_pitch, y_pitch, accumulate);
    else copy_columns(x2, y2, rows, width2, x_pitch2, y_pitch2, accumulate2);
}
