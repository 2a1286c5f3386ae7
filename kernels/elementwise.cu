// Elementwise work, copies between pitches, casts.
//
// Contract. Every kernel covers its whole output and reads nothing else than its inputs. An output may be the very buffer
// of an input of the same type (element by element in place), but must not overlap one in another way.
// `accumulate`: 0 overwrites the output, else adds to it.
// launch: any grid of one dimension.

#include "common.cuh"

template <class F> DEVICE void for_each(long long n, F f) {
    for (long long i = global_index(); i < n; i += global_size()) f(i);
}

// y[n] = value
extern "C" __global__ void __launch_bounds__(256) fill_f32(float* y, float value, long long n) {
    for_each(n, [=](long long i) { y[i] = value; });
}

extern "C" __global__ void __launch_bounds__(256) fill_bf16(bf16* y, float value, long long n) {
    for_each(n, [=](long long i) { store(y + i, value); });
}

// y[n] = factor · x[n]
extern "C" __global__ void __launch_bounds__(256) scale_f32(const float* x, float* y, float factor, long long n) {
    for_each(n, [=](long long i) { y[i] = factor * x[i]; });
}

// y[n] = a[n] + b[n]
extern "C" __global__ void __launch_bounds__(256) add_f32(const float* a, const float* b, float* y, long long n) {
    for_each(n, [=](long long i) { y[i] = a[i] + b[i]; });
}

extern "C" __global__ void __launch_bounds__(256) add_bf16(const bf16* a, const bf16* b, bf16* y, long long n) {
    for_each(n, [=](long long i) { store(y + i, load(a + i) + load(b + i)); });
}

// y[n] = x[n], or y[n] += x[n]
extern "C" __global__ void __launch_bounds__(256) put_f32(const float* x, float* y, long long n, int accumulate) {
    for_each(n, [=](long long i) { put(y + i, x[i], accumulate); });
}

extern "C" __global__ void __launch_bounds__(256) put_bf16(const bf16* x, bf16* y, long long n, int accumulate) {
    for_each(n, [=](long long i) { put(y + i, load(x + i), accumulate); });
}

// The same from f32, for gradients that are computed in f32 and flow into bf16 activations: the sum is rounded once.
extern "C" __global__ void __launch_bounds__(256)
    put_bf16_from_f32(const float* x, bf16* y, long long n, int accumulate) {
    for_each(n, [=](long long i) { put(y + i, x[i], accumulate); });
}

// y[n] = max(x[n], 0). A comparison, not fmaxf: NaN passes.
extern "C" __global__ void __launch_bounds__(256) relu_f32(const float* x, float* y, long long n) {
    for_each(n, [=](long long i) { y[i] = x[i] < 0.0f ? 0.0f : x[i]; });
}

extern "C" __global__ void __launch_bounds__(256) relu_bf16(const bf16* x, bf16* y, long long n) {
    for_each(n, [=](long long i) { store(y + i, load(x + i) < 0.0f ? 0.0f : load(x + i)); });
}

// dx[n] = dy[n] where y[n] > 0, else 0
extern "C" __global__ void __launch_bounds__(256)
    relu_backward_f32(const float* y, const float* dy, float* dx, long long n, int accumulate) {
    for_each(n, [=](long long i) { put(dx + i, y[i] > 0.0f ? dy[i] : 0.0f, accumulate); });
}

extern "C" __global__ void __launch_bounds__(256)
    relu_backward_bf16(const bf16* y, const bf16* dy, bf16* dx, long long n, int accumulate) {
    for_each(n, [=](long long i) { put(dx + i, load(y + i) > 0.0f ? load(dy + i) : 0.0f, accumulate); });
}

// y[n] = x[n] in the other type; to bf16 by rounding to nearest even
extern "C" __global__ void __launch_bounds__(256) cast_f32_bf16(const float* x, bf16* y, long long n) {
    for_each(n, [=](long long i) { store(y + i, x[i]); });
}

extern "C" __global__ void __launch_bounds__(256) cast_bf16_f32(const bf16* x, float* y, long long n) {
    for_each(n, [=](long long i) { y[i] = load(x + i); });
}

// Row r of y [rows, y_pitch], first `width` elements, from row r of x [rows, x_pitch]; the rest of y stays. With pointers
// moved to a first column this is concatenation along channels (y_pitch = their sum), its backward (x_pitch = their sum),
// and narrowing to some rows of each image (a row is an image) with its backward, before which dx is filled with 0.
template <class T>
DEVICE void copy_columns(const T* x, T* y, long long rows, int width, long long x_pitch, long long y_pitch, int accumulate) {
    for_each_in_rows(rows, width, [=](long long row, int column) {
        put(y + row * y_pitch + column, load(x + row * x_pitch + column), accumulate);
    });
}

extern "C" __global__ void __launch_bounds__(256)
    copy_columns_f32(const float* x, float* y, long long rows, int width, long long x_pitch, long long y_pitch,
                     int accumulate) {
    copy_columns(x, y, rows, width, x_pitch, y_pitch, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_columns_bf16(const bf16* x, bf16* y, long long rows, int width, long long x_pitch, long long y_pitch,
                      int accumulate) {
    copy_columns(x, y, rows, width, x_pitch, y_pitch, accumulate);
}
