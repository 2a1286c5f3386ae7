// Convolution in f32, forward and backward, any kernel, stride, padding and channels. A fully connected layer is a 1x1
// convolution of 1x1 images; a BConv-Cell's gradients are those of a convolution with 4·channels outputs.
//
// Contract. All buffers are distinct. Forward overwrites y. `accumulate`: 0 overwrites a gradient, any other value adds to it. The
// gradient of the weight is written as partial sums [splits, ...], which sum_partials_f32 (sums.cu) then adds up; the gradient of
// the bias is the column sums of dy (sums.cu).

#include "implicit_gemm_f32.cuh"

// y = conv(x, weight) + bias. launch: grid (ceil(n·out_h·out_w / 128), ceil(out_c / 64))
extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_f32(const float* __restrict__ x,       // [n, in_h, in_w, in_c]
                       const float* __restrict__ weight,  // [kernel_h, kernel_w, in_c, out_c]
                       const float* __restrict__ bias,    // [out_c] or null
                       float* __restrict__ y,             // [n, out_h, out_w, out_c]
                       ConvSizes conv) {
    SHARED(int4, places, [TILE_ROWS]);
    long long count = (long long)conv.n * conv.out_h * conv.out_w;
    fill_places(places, TILE_ROWS, (long long)blockIdx.x * TILE_ROWS, count, [=](int pixel) { return forward_place(pixel, conv); });

    int depth = conv.kernel_h * conv.kernel_w * conv.in_c, first_column = blockIdx.y * TILE_COLUMNS;
    PixelRows a{x, conv.in_h, conv.in_w, conv.in_c, conv.kernel_h, conv.kernel_w, 1, places};
    int loaded = first_column + threadIdx.x % TILE_COLUMNS;
    MatrixColumn b{loaded < conv.out_c ? weight + loaded : nullptr, conv.out_c, 0, depth};
    float acc[8][8] = {};
    multiply_tile(acc, depth, a, b);

#pragma unroll
    for (int i = 0; i < 8; i++) {
        long long pixel = (long long)blockIdx.x * TILE_ROWS + tile_row(i);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int column = first_column + tile_column(j);
            if (pixel < count && column < conv.out_c) y[pixel * conv.out_c + column] = acc[i][j] + (bias ? bias[column] : 0.0f);
        }
    }
}

// dx = transposed convolution of dy. Input pixels with the same y mod stride_y and x mod stride_x form a stride phase, and the same
// taps reach all of them; there is one product for each phase, over these taps only. blockIdx.z = tap_y·stride_x + tap_x of the first tap.
// launch: grid (ceil(n·ceil(in_h / stride_y)·ceil(in_w / stride_x) / 128), ceil(in_c / 64), stride_y·stride_x)
extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_data_f32(const float* __restrict__ dy,      // [n, out_h, out_w, out_c]
                             const float* __restrict__ weight,  // [kernel_h, kernel_w, in_c, out_c]
                             float* __restrict__ dx,            // [n, in_h, in_w, in_c]
                             ConvSizes conv, int accumulate) {
    SHARED(int4, places, [TILE_ROWS]);
    StridePhase phase(blockIdx.z, conv);
    long long count = (long long)conv.n * phase.height * phase.width, first = (long long)blockIdx.x * TILE_ROWS;
    if (first >= count) return;
    fill_places(places, TILE_ROWS, first, count, [=](int pixel) { return phase.place(pixel, conv.out_h); });

    int depth = phase.taps_y * phase.taps_x * conv.out_c, first_column = blockIdx.y * TILE_COLUMNS;
    float acc[8][8] = {};
    if (depth > 0) {
        PixelRows a{dy, conv.out_h, conv.out_w, conv.out_c, phase.taps_y, phase.taps_x, -1, places};
        TransposedWeight b{weight, conv, phase, first_column};
        multiply_tile(acc, depth, a, b);
    }

#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (first + tile_row(i) >= count) continue;
        long long pixel = phase.input_pixel((int)first + tile_row(i), conv);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int column = first_column + tile_column(j);
            if (column < conv.in_c) put(dx + pixel * conv.in_c + column, acc[i][j], accumulate);
        }
    }
}

// Partial sums of dweight: block z sums the output pixels z·split_pixels .. (z+1)·split_pixels.
// launch: grid (ceil(kernel_h·kernel_w·in_c / 128), ceil(out_c / 64), splits), splits = ceil(n·out_h·out_w / split_pixels)
extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_f32(const float* __restrict__ x,   // [n, in_h, in_w, in_c]
                               const float* __restrict__ dy,  // [n, out_h, out_w, out_c]
                               float* __restrict__ partials,  // [splits, kernel_h, kernel_w, in_c, out_c]
                               ConvSizes conv, int split_pixels) {
    long long first = (long long)blockIdx.z * split_pixels;
    long long end = min(first + split_pixels, (long long)conv.n * conv.out_h * conv.out_w);
    int rows = conv.kernel_h * conv.kernel_w * conv.in_c;
    int first_row = blockIdx.x * TILE_ROWS, first_column = blockIdx.y * TILE_COLUMNS;

    int row = first_row + threadIdx.x, tap = row / conv.in_c, tap_y = tap / conv.kernel_w, tap_x = tap - tap_y * conv.kernel_w;
    TapRows a{x, conv, tap_y - conv.padding_y, tap_x - conv.padding_x, row - tap * conv.in_c, row < rows, first, end};
    int loaded = first_column + threadIdx.x % TILE_COLUMNS;
    MatrixColumn b{loaded < conv.out_c ? dy + loaded : nullptr, conv.out_c, first, end};
    float acc[8][8] = {};
    multiply_tile(acc, (int)(end - first), a, b);

    float* out = partials + (long long)blockIdx.z * rows * conv.out_c;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int r = first_row + tile_row(i);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int column = first_column + tile_column(j);
            if (r < rows && column < conv.out_c) out[(long long)r * conv.out_c + column] = acc[i][j];
        }
    }
}
