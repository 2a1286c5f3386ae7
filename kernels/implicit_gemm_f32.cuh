// Convolution as a matrix product in f32 whose operands are gathered while they are read, without an im2col copy.
//
// A block of 128 threads computes a tile of 128 rows x 64 columns, 16 steps of depth at a time. Thread (ty, tx) of 16 x 8
// computes rows 4·ty + {0..3} and 64 + 4·ty + {0..3}, columns 4·tx + {0..3} and 32 + 4·tx + {0..3}. There are two buffers in shared
// memory: while one is multiplied, the next tile is loaded from global memory into registers.
#pragma once

#include "pixels.cuh"

const int TILE_ROWS = 128, TILE_COLUMNS = 64, TILE_DEPTH = 16, GEMM_THREADS = 128;
// How many elements of each operand's tile a thread fetches.
const int A_ELEMENTS = TILE_ROWS * TILE_DEPTH / GEMM_THREADS, B_ELEMENTS = TILE_COLUMNS * TILE_DEPTH / GEMM_THREADS;

DEVICE int tile_row(int i) { return (i < 4 ? 0 : 60) + 4 * (int)(threadIdx.x / 8) + i; }
DEVICE int tile_column(int j) { return (j < 4 ? 0 : 28) + 4 * (int)(threadIdx.x % 8) + j; }

// acc[i][j] += sum over depth of a(tile_row(i), ·)·b(·, tile_column(j)), in the order of depth. The operands a and b have
//   fetch(depth, values)           reads this thread's elements of the tile that starts at `depth`; zeros outside
//   row(i) or column(i), step(i)   the position of this thread's element i in the tile
template <class A, class B> DEVICE void multiply_tile(float (&acc)[8][8], int depth, A a, B b) {
    // Rows are 4 floats longer than the tile, so that writes down a column meet fewer bank conflicts.
    SHARED(float, a_tile, [2][TILE_DEPTH][TILE_ROWS + 4]);
    SHARED(float, b_tile, [2][TILE_DEPTH][TILE_COLUMNS + 4]);
    float a_next[A_ELEMENTS], b_next[B_ELEMENTS];
    a.fetch(0, a_next);
    b.fetch(0, b_next);
    int buffer = 0;
    for (int k0 = 0; k0 < depth; k0 += TILE_DEPTH, buffer ^= 1) {
#pragma unroll
        for (int i = 0; i < A_ELEMENTS; i++) a_tile[buffer][a.step(i)][a.row(i)] = a_next[i];
#pragma unroll
        for (int i = 0; i < B_ELEMENTS; i++) b_tile[buffer][b.step(i)][b.column(i)] = b_next[i];
        // One barrier is enough: a thread fills this buffer again only after the next barrier, when all threads have read it.
        __syncthreads();
        if (k0 + TILE_DEPTH < depth) {
            a.fetch(k0 + TILE_DEPTH, a_next);
            b.fetch(k0 + TILE_DEPTH, b_next);
        }
#pragma unroll 4
        for (int k = 0; k < TILE_DEPTH; k++) {
            float4 a_low = *(const float4*)&a_tile[buffer][k][tile_row(0)];
            float4 a_high = *(const float4*)&a_tile[buffer][k][tile_row(4)];
            float4 b_low = *(const float4*)&b_tile[buffer][k][tile_column(0)];
            float4 b_high = *(const float4*)&b_tile[buffer][k][tile_column(4)];
            float rows[8] = {a_low.x, a_low.y, a_low.z, a_low.w, a_high.x, a_high.y, a_high.z, a_high.w};
            float columns[8] = {b_low.x, b_low.y, b_low.z, b_low.w, b_high.x, b_high.y, b_high.z, b_high.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) acc[i][j] = fmaf(rows[i], columns[j], acc[i][j]);
        }
    }
}

// A left side whose rows are pixels and whose depth is (tap y, tap x, channel): image[y ± tap y][x ± tap x][channel], or 0 outside.
// Neighbouring threads read neighbouring channels.
struct PixelRows {
    const float* image;  // [n, height, width, channels]
    int height, width, channels;
    int taps_y, taps_x;
    int direction;       // 1 or -1: the sign of the tap
    const int4* places;  // [TILE_ROWS] in shared memory

    METHOD int step(int) const { return (int)threadIdx.x % TILE_DEPTH; }
    METHOD int row(int i) const { return (int)threadIdx.x / TILE_DEPTH + i * (GEMM_THREADS / TILE_DEPTH); }
    METHOD void fetch(int depth, float (&values)[A_ELEMENTS]) const {
        int k = depth + step(0), tap = k / channels, channel = k - tap * channels;
        int tap_y = tap / taps_x, tap_x = tap - tap_y * taps_x;
        bool inside = tap_y < taps_y;
#pragma unroll
        for (int i = 0; i < A_ELEMENTS; i++) {
            int4 place = places[row(i)];
            int y = place.y + direction * tap_y, x = place.z + direction * tap_x;
            bool valid = inside && (unsigned)y < (unsigned)height && (unsigned)x < (unsigned)width;
            values[i] = valid ? image[((long long)(place.x + y) * width + x) * channels + channel] : 0.0f;
        }
    }
};

// The left side of the weight's gradient: rows are (tap y, tap x, channel), depth is the output pixels from `first` to `end`.
// A thread owns a row and moves along the pixels.
struct TapRows {
    const float* x;  // [n, in_h, in_w, in_c]
    ConvSizes conv;
    int offset_y, offset_x, channel;  // of this thread's row: tap - padding
    bool valid;
    long long first, end;

    METHOD int step(int i) const { return i; }
    METHOD int row(int) const { return (int)threadIdx.x; }
    METHOD void fetch(int depth, float (&values)[A_ELEMENTS]) const {
        long long pixel = first + depth;
        int out_row = (int)pixel / conv.out_w, out_x = (int)pixel - out_row * conv.out_w;
        int n = out_row / conv.out_h, out_y = out_row - n * conv.out_h;
#pragma unroll
        for (int i = 0; i < A_ELEMENTS; i++) {
            int in_y = out_y * conv.stride_y + offset_y, in_x = out_x * conv.stride_x + offset_x;
            bool inside = valid && pixel + i < end && (unsigned)in_y < (unsigned)conv.in_h && (unsigned)in_x < (unsigned)conv.in_w;
            values[i] = inside ? x[((long long)(n * conv.in_h + in_y) * conv.in_w + in_x) * conv.in_c + channel] : 0.0f;
            if (++out_x == conv.out_w) {
                out_x = 0;
                if (++out_y == conv.out_h) {
                    out_y = 0;
                    n++;
                }
            }
        }
    }
};

// A right side whose depth is the rows of a matrix; a thread owns one column.
struct MatrixColumn {
    const float* matrix;  // this thread's column, null for none
    long long pitch, first, end;

    METHOD int step(int i) const { return (int)threadIdx.x / TILE_COLUMNS + i * (GEMM_THREADS / TILE_COLUMNS); }
    METHOD int column(int) const { return (int)threadIdx.x % TILE_COLUMNS; }
    METHOD void fetch(int depth, float (&values)[B_ELEMENTS]) const {
#pragma unroll
        for (int i = 0; i < B_ELEMENTS; i++) {
            long long k = first + depth + step(i);
            values[i] = matrix && k < end ? matrix[k * pitch] : 0.0f;
        }
    }
};

// The right side of the input's gradient: depth is (tap y, tap x, output channel) over the taps of one stride phase, columns are
// input channels; the element is weight[phase.tap_y + stride_y·tap y][phase.tap_x + stride_x·tap x][input channel][output channel].
struct TransposedWeight {
    const float* weight;  // [kernel_h, kernel_w, in_c, out_c]
    ConvSizes conv;
    StridePhase phase;
    int first_column;

    METHOD int step(int) const { return (int)threadIdx.x % TILE_DEPTH; }
    METHOD int column(int i) const { return (int)threadIdx.x / TILE_DEPTH + i * (GEMM_THREADS / TILE_DEPTH); }
    METHOD void fetch(int depth, float (&values)[B_ELEMENTS]) const {
        int k = depth + step(0), tap = k / conv.out_c, channel = k - tap * conv.out_c;
        int tap_y = tap / phase.taps_x, tap_x = tap - tap_y * phase.taps_x;
        long long tap_in_kernel =
            (long long)(phase.tap_y + conv.stride_y * tap_y) * conv.kernel_w + phase.tap_x + conv.stride_x * tap_x;
#pragma unroll
        for (int i = 0; i < B_ELEMENTS; i++) {
            int c = first_column + column(i);
            bool inside = tap_y < phase.taps_y && c < conv.in_c;
            values[i] = inside ? weight[(tap_in_kernel * conv.in_c + c) * conv.out_c + channel] : 0.0f;
        }
    }
};
