// What several kernel files share: element types, activations, gradients that overwrite or add, sums in a fixed order.
#pragma once

#include "cuda_compat.h"

DEVICE float load(const float* p) { return *p; }
DEVICE float load(const bf16* p) { return bits_to_float((uint32_t)p->bits << 16); }
DEVICE void store(float* p, float v) { *p = v; }
DEVICE void store(bf16* p, float v) { p->bits = (uint16_t)pack_bf16(v, 0.0f); }

// The first writer of a gradient overwrites, the others add.
template <class T> DEVICE void put(T* p, float v, int accumulate) { store(p, accumulate ? load(p) + v : v); }

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// sigmoid(x) = tanh(x/2)/2 + 1/2; absolute error up to 2^-12.
DEVICE float sigmoid_fast(float x) { return fmaf(tanh_fast(0.5f * x), 0.5f, 0.5f); }

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Index of this thread in a one-dimensional grid, and the number of threads in it.
DEVICE long long global_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE long long global_size() { return (long long)gridDim.x * blockDim.x; }

// visit(row, column) for this thread's elements of a [rows, columns] matrix, in memory's order over any grid of one dimension
// with fewer than 2^32 threads. Steps in the mixed radix of row and column: 64-bit divisions cost more than the elements.
template <class F> DEVICE void for_each_in_rows(long long rows, int columns, F visit) {
    unsigned start = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x, width = (unsigned)columns;
    unsigned step_rows = step / width, step_columns = step % width, column = start % width;
    for (long long row = start / width; row < rows; row += step_rows) {
        visit(row, (int)column);
        column += step_columns;
        if (column >= width) column -= width, row++;
    }
}

// Sum over a warp, by a tree whose shape never changes; every lane gets it.
template <class T> DEVICE T warp_sum(T v) {
    for (int lanes = 16; lanes; lanes /= 2) v += shuffle_xor(v, lanes);
    return v;
}

// Sum over a block of up to 1024 threads, in a fixed order; every thread gets it. May be called again at once.
template <class T> DEVICE T block_sum(T v) {
    SHARED(T, warps, [32]);
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    T sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) sum += warps[w];
    __syncthreads();
    return sum;
}
