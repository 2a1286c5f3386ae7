// Sums down the columns of a matrix (the gradient of a bias), the sum of partial sums, and numbers brought together for the host.
//
// Contract. All buffers are distinct; x is [rows, columns]. The rows are cut into fixed splits. Each split overwrites its partial
// sums in f32, and these are added in the order of the splits, so the bits are the same every time. `accumulate`: 0 overwrites the
// output, any other value adds to it.

#include "common.cuh"

// A block of 256 threads: 32 columns by 8 rows.
template <class T>
DEVICE void column_sums(const T* x, float* partials, long long rows, int columns, int split_rows) {
    SHARED(float, sums, [8][32]);
    int column = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32;
    long long first = (long long)blockIdx.y * split_rows, end = min(first + split_rows, rows);
    float sum = 0.0f;
    if (column < columns)
        for (long long row = first + lane; row < end; row += 8) sum += load(x + row * columns + column);
    sums[lane][threadIdx.x % 32] = sum;
    __syncthreads();
    if (lane == 0 && column < columns) {
        for (int l = 1; l < 8; l++) sum += sums[l][threadIdx.x];
        partials[(long long)blockIdx.y * columns + column] = sum;
    }
}

// Block y sums the rows from y·split_rows to (y+1)·split_rows.
// launch: grid (ceil(columns / 32), splits), splits = ceil(rows / split_rows)
extern "C" __global__ void __launch_bounds__(256)
    column_sums_f32(const float* __restrict__ x,   // [rows, columns]
                    float* __restrict__ partials,  // [splits, columns]
                    long long rows, int columns, int split_rows) {
    column_sums(x, partials, rows, columns, split_rows);
}

extern "C" __global__ void __launch_bounds__(256)
    column_sums_bf16(const bf16* __restrict__ x, float* __restrict__ partials, long long rows, int columns,
                     int split_rows) {
    column_sums(x, partials, rows, columns, split_rows);
}

// out = (out +) sum over splits of partials, in their order. launch: any grid of one dimension.
extern "C" __global__ void __launch_bounds__(256)
    sum_partials_f32(const float* __restrict__ partials,  // [splits, count]
                     float* __restrict__ out,             // [count]
                     int splits, long long count, int accumulate) {
    for (long long i = global_index(); i < count; i += global_size()) {
        float sum = 0.0f;
        for (int split = 0; split < splits; split++) sum += partials[split * count + i];
        put(out + i, sum, accumulate);
    }
}

// numbers[i] = the number at address i: the losses of a step and what else the host reads. launch: any grid of one dimension.
extern "C" __global__ void __launch_bounds__(256)
    gather_numbers(const long long* __restrict__ addresses,  // [count]: of a float each
                   float* __restrict__ numbers,              // [count]
                   int count) {
    for (long long i = global_index(); i < count; i += global_size()) numbers[i] = *(const float*)addresses[i];
}
