// Transposes. The vendor's convolution library wants weights as [out, kh, kw, in] in the type of activations. The weights [kh, kw, in,
// out] in f32 are a matrix with the rows (kh, kw, in) and the columns out. Its transpose has that order; gradients are transposed back.
// One launch turns the weights of all convolutions of a network, and one their gradients.
//
// Contract. A matrix x is [rows, columns], y is [columns, rows]; the buffers are distinct, and y is overwritten. A table has five
// numbers for each matrix: the index of its first element in x and in y, its rows and columns, and how many tiles of 32 x 32 it and
// all matrices before it have.
// launch: any grid of one dimension

#include "common.cuh"

const int TRANSPOSE_TILE = 32;

DEVICE long long tiles_of(int rows, int columns) {
    return (long long)ceil_div(rows, TRANSPOSE_TILE) * ceil_div(columns, TRANSPOSE_TILE);
}

// A block of 256 threads transposes tile number `t` of x, and reads and writes 32 neighbours at a time. Calls put_element(index in y,
// value).
template <class T, class F> DEVICE void transpose_tile(const T* x, int rows, int columns, long long t, F put_element) {
    // Rows are one float longer than the tile, so that the elements of a column are in different banks.
    SHARED(float, tile, [TRANSPOSE_TILE][TRANSPOSE_TILE + 1]);
    int across = ceil_div(columns, TRANSPOSE_TILE), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
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

// y[c][r] = x[r][c]
extern "C" __global__ void __launch_bounds__(256)
    transpose_f32(const float* __restrict__ x,  // [rows, columns]
                  float* __restrict__ y,        // [columns, rows]
                  int rows, int columns) {
    for (long long t = blockIdx.x; t < tiles_of(rows, columns); t += gridDim.x)
        transpose_tile(x, rows, columns, t, [=](long long at, float v) { y[at] = v; });
}

// Transposes all matrices of a table; to bf16 rounded to nearest even.
template <class From, class To>
DEVICE void transpose_all(const From* x, To* y, const long long* table, int matrices) {
    for (long long t = blockIdx.x; t < table[5 * matrices - 1]; t += gridDim.x) {
        int low = 0, high = matrices - 1;
        while (low < high) {
            int middle = (low + high) / 2;
            if (table[5 * middle + 4] > t) high = middle;
            else low = middle + 1;
        }
        const long long* matrix = table + 5 * low;
        const long long to = matrix[1], before = low ? matrix[-1] : 0;
        transpose_tile(x + matrix[0], (int)matrix[2], (int)matrix[3], t - before,
                       [=](long long at, float v) { store(y + to + at, v); });
    }
}

extern "C" __global__ void __launch_bounds__(256)
    turn_weights_f32(const float* __restrict__ x, float* __restrict__ y,
                     const long long* __restrict__ table,  // [matrices, 5]
                     int matrices) {
    transpose_all(x, y, table, matrices);
}

extern "C" __global__ void __launch_bounds__(256)
    turn_weights_bf16(const float* __restrict__ x, bf16* __restrict__ y, const long long* __restrict__ table, int matrices) {
    transpose_all(x, y, table, matrices);
}

extern "C" __global__ void __launch_bounds__(256)
    turn_gradients_f32(const float* __restrict__ x, float* __restrict__ y, const long long* __restrict__ table, int matrices) {
    transpose_all(x, y, table, matrices);
}

extern "C" __global__ void __launch_bounds__(256)
    turn_gradients_bf16(const bf16* __restrict__ x, float* __restrict__ y, const long long* __restrict__ table, int matrices) {
    transpose_all(x, y, table, matrices);
}
