// Cosines between vectors and the columns of a weight: rows are brought to length 1 before their product with the weight, and the products
// are divided by the lengths of the columns. Forward and backward.
//
// Contract. Every kernel overwrites its outputs, except gradients where `accumulate` is not 0: these are added to. Outputs are distinct
// from inputs. Lengths are at least 1e-12, and a length that is raised to this has no gradient. Squares are summed in double precision, in
// a fixed order.

#include "common.cuh"

const float MIN_LENGTH = 1e-12f;

// A comparison instead of fmaxf, so that NaN stays NaN.
DEVICE float length_of(double squares) {
    float length = (float)sqrt(squares);
    return length < MIN_LENGTH ? MIN_LENGTH : length;
}

template <class T> DEVICE void normalize(const T* x, T* y, float* lengths, int dim) {
    x += (long long)blockIdx.x * dim, y += (long long)blockIdx.x * dim;
    double squares = 0.0;
    for (int k = threadIdx.x; k < dim; k += 256) squares += (double)load(x + k) * load(x + k);
    float length = length_of(block_sum(squares));
    for (int k = threadIdx.x; k < dim; k += 256) store(y + k, load(x + k) / length);
    if (lengths && threadIdx.x == 0) lengths[blockIdx.x] = length;
}

// y = x / lengths, lengths = |x| of each row. launch: grid (n)
extern "C" __global__ void __launch_bounds__(256)
    normalize_f32(const float* __restrict__ x,  // [n, dim]
                  float* __restrict__ y,        // [n, dim]
                  float* __restrict__ lengths,  // [n], for backward; or null
                  int dim) {
    normalize(x, y, lengths, dim);
}

extern "C" __global__ void __launch_bounds__(256)
    normalize_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, float* __restrict__ lengths, int dim) {
    normalize(x, y, lengths, dim);
}

template <class T>
DEVICE void normalize_backward(const T* y, const T* dy, const float* lengths, T* dx, int dim, int accumulate) {
    long long row = (long long)blockIdx.x * dim;
    y += row, dy += row, dx += row;
    double sum = 0.0;
    for (int k = threadIdx.x; k < dim; k += 256) sum += (double)load(y + k) * load(dy + k);
    sum = block_sum(sum);
    float length = lengths[blockIdx.x], along = length > MIN_LENGTH ? (float)sum : 0.0f;
    for (int k = threadIdx.x; k < dim; k += 256) put(dx + k, (load(dy + k) - load(y + k) * along) / length, accumulate);
}

// dx = (dy - y·Σ y·dy) / lengths. launch: grid (n)
extern "C" __global__ void __launch_bounds__(256)
    normalize_backward_f32(const float* __restrict__ y,        // [n, dim]
                           const float* __restrict__ dy,       // [n, dim]
                           const float* __restrict__ lengths,  // [n]
                           float* __restrict__ dx,             // [n, dim]
                           int dim, int accumulate) {
    normalize_backward(y, dy, lengths, dx, dim, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    normalize_backward_bf16(const bf16* __restrict__ y, const bf16* __restrict__ dy, const float* __restrict__ lengths,
                            bf16* __restrict__ dx, int dim, int accumulate) {
    normalize_backward(y, dy, lengths, dx, dim, accumulate);
}

// Returns the sum over the rows of term(row, column) to the first 32 of 256 threads, which are 32 columns by 8 rows.
template <class F> DEVICE double sum_column(int rows, int columns, F term) {
    SHARED(double, sums, [8][32]);
    int column = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32;
    double sum = 0.0;
    if (column < columns)
        for (int row = lane; row < rows; row += 8) sum += term((long long)row * columns + column);
    sums[lane][threadIdx.x % 32] = sum;
    __syncthreads();
    if (lane == 0)
        for (int l = 1; l < 8; l++) sum += sums[l][threadIdx.x];
    return sum;
}

// factors[c] = scale / |column c|. launch: grid (ceil(columns / 32))
extern "C" __global__ void __launch_bounds__(256)
    column_factors(const float* __restrict__ weight,  // [rows, columns]
                   float* __restrict__ factors,       // [columns]
                   int rows, int columns, float scale) {
    double squares = sum_column(rows, columns, [=](long long i) { return (double)weight[i] * weight[i]; });
    int column = blockIdx.x * 32 + threadIdx.x;
    if (threadIdx.x < 32 && column < columns) factors[column] = scale / length_of(squares);
}

// What the gradient of scale_columns by the column's length is, as a factor of the column: slopes[c] = -Σ y·dy / |column c|².
template <class T>
DEVICE void column_slopes(const T* y, const T* dy, const float* factors, float* slopes, int rows, int columns, float scale) {
    double sum = sum_column(rows, columns, [=](long long i) { return (double)load(y + i) * load(dy + i); });
    int column = blockIdx.x * 32 + threadIdx.x;
    if (threadIdx.x >= 32 || column >= columns) return;
    double inverse = (double)factors[column] / scale;
    slopes[column] = factors[column] < scale / MIN_LENGTH ? (float)(-sum * inverse * inverse) : 0.0f;
}

// launch: grid (ceil(columns / 32))
extern "C" __global__ void __launch_bounds__(256)
    column_slopes_f32(const float* __restrict__ y,        // [rows, columns], of scale_columns
                      const float* __restrict__ dy,       // [rows, columns]
                      const float* __restrict__ factors,  // [columns], of column_factors with the same scale
                      float* __restrict__ slopes,         // [columns]
                      int rows, int columns, float scale) {
    column_slopes(y, dy, factors, slopes, rows, columns, scale);
}

extern "C" __global__ void __launch_bounds__(256)
    column_slopes_bf16(const bf16* __restrict__ y, const bf16* __restrict__ dy, const float* __restrict__ factors,
                       float* __restrict__ slopes, int rows, int columns, float scale) {
    column_slopes(y, dy, factors, slopes, rows, columns, scale);
}

// y = x·factors, column by column
template <class T> DEVICE void scale_columns(const T* x, const float* factors, T* y, int rows, int columns, int accumulate) {
    by_width<VEC<T>>(columns % VEC<T> == 0 && aligned_16(x, y), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_columns(rows, columns / N, [=](int part, long long first, unsigned step) {
            const Vec<N> factor = gather_vec<N>(factors + part * N);
            for (long long row = first; row < rows; row += step) {
                Vec<N> v = load_vec<N>(x + row * columns + part * N);
#pragma unroll
                for (int e = 0; e < N; e++) v[e] *= factor[e];
                put_vec(y + row * columns + part * N, v, accumulate);
            }
        });
    });
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    scale_columns_f32(const float* __restrict__ x,        // [rows, columns]
                      const float* __restrict__ factors,  // [columns]
                      float* __restrict__ y,              // [rows, columns]
                      int rows, int columns, int accumulate) {
    scale_columns(x, factors, y, rows, columns, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    scale_columns_bf16(const bf16* __restrict__ x, const float* __restrict__ factors, bf16* __restrict__ y, int rows,
                       int columns, int accumulate) {
    scale_columns(x, factors, y, rows, columns, accumulate);
}
