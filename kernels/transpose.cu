// Transposes for the vendor's convolution library, which wants weights as [out, kh, kw, in] in its own type. The weights [kh, kw, in,
// out] in f32 are a matrix with the rows (kh, kw, in) and the columns out. Its transpose has that order; gradients are transposed back.
//
// Contract. x is [rows, columns], y is [columns, rows]; the buffers are distinct. `accumulate`: 0 overwrites y, any other value
// adds to it.

#include "common.cuh"

const int TRANSPOSE_TILE = 32;

// A block of 256 threads takes tiles of 32 x 32, and reads and writes 32 neighbours at a time. Calls put_element(index in y,
// value).
template <class T, class F> DEVICE void transpose(const T* x, int rows, int columns, F put_element) {
    // Rows are one float longer than the tile, so that the elements of a column are in different banks.
    SHARED(float, tile, [TRANSPOSE_TILE][TRANSPOSE_TILE + 1]);
    int across = ceil_div(columns, TRANSPOSE_TILE), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long tiles = (long long)ceil_div(rows, TRANSPOSE_TILE) * across;
    for (long long t = blockIdx.x; t < tiles; t += gridDim.x) {
        int down = (int)(t / across), first_row = down * TRANSPOSE_TILE;
        int first_column = (int)(t - (long long)down * across) * TRANSPOSE_TILE;
        for (int i = warp; i < TRANSPOSE_TILE; i += 8)
            if (first_row + i < rows && first_column + lane < columns)
                tile[i][lane] = load(x + (long long)(first_row + i) * columns + first_column + lane);
        __syncthreads();
        for (int i = warp; i < TRANSPOSE_TILE; i += 8)
            if (first_column + i < columns && first_row + lane < rows)
                put_element((long long)(first_column + i) * rows + first_row + lane, tile[lane][i]);
        __syncthreads();
    }
}

// y[c][r] = x[r][c]; to bf16 rounded to nearest even. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    transpose_cast_f32(const float* __restrict__ x,  // [rows, columns]
                       float* __restrict__ y,        // [columns, rows]
                       int rows, int columns) {
    transpose(x, rows, columns, [=](long long at, float v) { y[at] = v; });
}

extern "C" __global__ void __launch_bounds__(256)
    transpose_cast_bf16(const float* __restrict__ x, bf16* __restrict__ y, int rows, int columns) {
    transpose(x, rows, columns, [=](long long at, float v) { store(y + at, v); });
}

// y[c][r] = x[r][c], or y[c][r] += x[r][c]. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    transpose_put_f32(const float* __restrict__ x,  // [rows, columns]
                      float* __restrict__ y,        // [columns, rows]
                      int rows, int columns, int accumulate) {
    transpose(x, rows, columns, [=](long long at, float v) { put(y + at, v, accumulate); });
}

extern "C" __global__ void __launch_bounds__(256)
    transpose_put_bf16(const bf16* __restrict__ x, float* __restrict__ y, int rows, int columns, int accumulate) {
    transpose(x, rows, columns, [=](long long at, float v) { put(y + at, v, accumulate); });
}
