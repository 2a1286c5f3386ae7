// What several kernel files share: loads and stores by element type, gradients that overwrite or add, loops, sums in a fixed order.
#pragma once

#include "cuda_compat.h"

DEVICE float load(const float* p) { return *p; }
DEVICE float load(const bf16* p) { return bits_to_float((uint32_t)p->bits << 16); }
DEVICE void store(float* p, float v) { *p = v; }
DEVICE void store(bf16* p, float v) { p->bits = (uint16_t)pack_bf16(v, 0.0f); }

// Stores v, or adds it: the first writer of a gradient overwrites, the others add.
template <class T> DEVICE void put(T* p, float v, int accumulate) { store(p, accumulate ? load(p) + v : v); }

// N neighbouring numbers, as floats. In memory they are one number at any address (N = 1), or a multiple of 16 bytes at a multiple
// of 16, which is loaded and stored 16 bytes at a time.
template <int N> struct Vec {
    float of[N];
    METHOD float& operator[](int i) { return of[i]; }
    METHOD float operator[](int i) const { return of[i]; }
};
// The smallest number of elements that is a multiple of 16 bytes in each of the types T.
template <class... T> constexpr int VEC = (... || (sizeof(T) == 2)) ? 8 : 4;
// Whether all of these addresses are multiples of 16, as wide loads and stores need; null counts as aligned.
template <class... T> DEVICE bool aligned_16(const T*... p) { return (... | (uintptr_t)p) % 16 == 0; }

template <int N> DEVICE Vec<N> load_vec(const float* p) {
    Vec<N> v;
    if constexpr (N == 1) {
        v[0] = *p;
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            float4 q = *(const float4*)(p + i);
            v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
        }
    }
    return v;
}
template <int N> DEVICE Vec<N> load_vec(const bf16* p) {
    Vec<N> v;
    if constexpr (N == 1) {
        v[0] = load(p);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 8) {
            uint4 q = *(const uint4*)(p + i);
            const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (int w = 0; w < 4; w++) {
                v[i + 2 * w] = bits_to_float(words[w] << 16);
                v[i + 2 * w + 1] = bits_to_float(words[w] & 0xffff0000u);
            }
        }
    }
    return v;
}
template <int N> DEVICE void store_vec(float* p, const Vec<N>& v) {
    if constexpr (N == 1) {
        *p = v[0];
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) *(float4*)(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
}
template <int N> DEVICE void store_vec(bf16* p, const Vec<N>& v) {
    if constexpr (N == 1) {
        store(p, v[0]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 8)
            *(uint4*)(p + i) = make_uint4(pack_bf16(v[i], v[i + 1]), pack_bf16(v[i + 2], v[i + 3]), pack_bf16(v[i + 4], v[i + 5]),
                                          pack_bf16(v[i + 6], v[i + 7]));
    }
}
template <int N, class T> DEVICE void put_vec(T* p, Vec<N> v, int accumulate) {
    if (accumulate) {
        Vec<N> before = load_vec<N>(p);
#pragma unroll
        for (int e = 0; e < N; e++) v[e] = before[e] + v[e];
    }
    store_vec(p, v);
}
// Loads N numbers of f32 from any address: parameters and statistics, which are read once for many rows.
template <int N> DEVICE Vec<N> gather_vec(const float* p) {
    Vec<N> v;
#pragma unroll
    for (int e = 0; e < N; e++) v[e] = p[e];
    return v;
}

// Calls f(Width<N>{}) where `wide`, else f(Width<1>{}): one body for N numbers at a time and for one.
template <int N> struct Width {
    static constexpr int VALUE = N;
};
template <int N, class F> DEVICE void by_width(bool wide, F f) {
    if (wide) f(Width<N>{});
    else f(Width<1>{});
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// sigmoid(x) = tanh(x/2)/2 + 1/2, with an absolute error of up to 2^-12.
DEVICE float sigmoid_fast(float x) { return fmaf(tanh_fast(0.5f * x), 0.5f, 0.5f); }

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Index of this thread in a one-dimensional grid, and the number of threads in it.
DEVICE long long global_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE long long global_size() { return (long long)gridDim.x * blockDim.x; }

// Calls visit(row, column) for this thread's elements of a [rows, columns] matrix, in the order of memory, for any grid of one
// dimension with fewer than 2^32 threads. Row and column are stepped separately, because a 64-bit division costs more than an
// element's work.
template <class F> DEVICE void for_each_in_rows(long long rows, int columns, F visit) {
    unsigned start = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x, width = (unsigned)columns;
    unsigned step_rows = step / width, step_columns = step % width, column = start % width;
    for (long long row = start / width; row < rows; row += step_rows) {
        visit(row, (int)column);
        column += step_columns;
        if (column >= width) column -= width, row++;
    }
}

// Calls visit(column, first row, row step) for this thread's share of a [rows, columns] matrix, for any grid of one dimension.
// Neighbouring threads take neighbouring columns, and a thread stays in its columns, so that it reads what belongs to a column only
// once.
template <class F> DEVICE void for_each_in_columns(long long rows, int columns, F visit) {
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    unsigned beside = min((unsigned)columns, threads), step = threads / beside, first = thread / beside;
    if (first >= step || first >= rows) return;
    for (unsigned column = thread % beside; column < (unsigned)columns; column += beside) visit((int)column, first, step);
}

// Returns the sum over a warp to every lane, added in a fixed order.
template <class T> DEVICE T warp_sum(T v) {
    for (int lanes = 16; lanes; lanes /= 2) v += shuffle_xor(v, lanes);
    return v;
}

// Returns the sum over a block of up to 1024 threads to every thread, added in a fixed order. May be called again at once.
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

// Whether this block is the last one of `blocks` that call this with the same counter, which is 0 before the first and after the last of
// them. The threads of the last block then see what all the others have written before. All threads of a block call this.
DEVICE bool is_last_block(unsigned* counter, unsigned blocks) {
    SHARED(int, last, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = arrive(counter) + 1 == blocks;
        if (last[0]) *counter = 0;
    }
    __syncthreads();
    return last[0];
}
