// Convolution forward and the gradient of its input on tensor cores, in bf16 and tf32, with f32 sums; any kernel, stride, padding
// and channels. The gradient of the weight is in conv2d_weight_mma.cu. The gradients of a BConv-Cell are these too, with its gate
// gradients as dy and 4·channels as out_c.
//
// Contract. All buffers are distinct. Forward overwrites y. `accumulate`: 0 overwrites dx, any other value adds to it. The weights
// come packed, and must be packed again after each change: for every block of 128 columns and every tap, one or more steps of depth
// of 32 (bf16) or 16 (tf32) channels, the last of them filled up with zeros.

#include "implicit_gemm_mma.cuh"

template <class T> DEVICE void pack_weights(const float* weight, T* packed, ConvSizes conv) {
    const int depth = Mma<T>::DEPTH, per_tap = steps_of_tap<T>(conv.in_c), taps = conv.kernel_h * conv.kernel_w;
    long long count = (long long)ceil_div(conv.out_c, MMA_COLUMNS) * taps * per_tap * MMA_COLUMNS * depth;
    for (long long i = global_index(); i < count; i += global_size()) {
        int k = (int)(i % depth), column = (int)(i / depth % MMA_COLUMNS);
        int step = (int)(i / depth / MMA_COLUMNS), block = step / (taps * per_tap), tap = step / per_tap % taps;
        int c = step % per_tap * depth + k, o = block * MMA_COLUMNS + column;
        bool inside = c < conv.in_c && o < conv.out_c;
        packed[i] = Mma<T>::rounded(inside ? weight[((long long)tap * conv.in_c + c) * conv.out_c + o] : 0.0f);
    }
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    pack_weights_bf16(const float* __restrict__ weight,  // [taps, in_c, out_c]
                      bf16* __restrict__ packed,         // [ceil(out_c / 128), taps, ceil(in_c / 32), 128, 32]
                      ConvSizes conv) {
    pack_weights(weight, packed, conv);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_weights_tf32(const float* __restrict__ weight,
                      float* __restrict__ packed,  // [ceil(out_c / 128), taps, ceil(in_c / 16), 128, 16]
                      ConvSizes conv) {
    pack_weights(weight, packed, conv);
}

template <class T>
DEVICE void forward_mma(const T* x, const T* packed, const float* bias, T* y, ConvSizes conv) {
    DYNAMIC_SHARED(shared);
    long long count = (long long)conv.n * conv.out_h * conv.out_w, first = (long long)blockIdx.x * MMA_ROWS;
    MmaPlaces places(first, count, [=](int pixel) { return forward_place(pixel, conv); });

    int steps = conv.kernel_h * conv.kernel_w * steps_of_tap<T>(conv.in_c), first_column = blockIdx.y * MMA_COLUMNS;
    MmaPixels<T> a = MmaPixels<T>::forward(x, conv, places);
    float acc[4][8][4] = {};
    multiply_mma(acc, shared, a, packed + (long long)blockIdx.y * steps * MMA_COLUMNS * Mma<T>::DEPTH, steps);

    if (bias) {
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = first_column + mma_column(j, e);
                float b = column < conv.out_c ? bias[column] : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) acc[i][j][e] += b, acc[i][j][e + 2] += b;
            }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            long long pixel = first + mma_row(i, half * 2);
            if (pixel < count) put_row(y + pixel * conv.out_c, first_column, conv.out_c, acc[i], half, 0);
        }
}

// y = conv(x, weight) + bias. launch: grid (ceil(n·out_h·out_w / 128), ceil(out_c / 128)), dynamic shared memory 49152
extern "C" __global__ void __launch_bounds__(128, 2)
    conv2d_forward_bf16(const bf16* __restrict__ x,       // [n, in_h, in_w, in_c]
                        const bf16* __restrict__ packed,  // by pack_weights_bf16
                        const float* __restrict__ bias,   // [out_c] or null
                        bf16* __restrict__ y,             // [n, out_h, out_w, out_c]
                        ConvSizes conv) {
    forward_mma(x, packed, bias, y, conv);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    conv2d_forward_tf32(const float* __restrict__ x, const float* __restrict__ packed, const float* __restrict__ bias,
                        float* __restrict__ y, ConvSizes conv) {
    forward_mma(x, packed, bias, y, conv);
}

// Packs weights for the gradient of the input: the columns are input channels, the depth is output channels. The taps are sorted by
// stride phase, within a phase by (tap y, tap x), so that each phase reads one range of the same packed weights.
template <class T> DEVICE void pack_transposed(const float* weight, T* packed, ConvSizes conv) {
    const int depth = Mma<T>::DEPTH, per_tap = steps_of_tap<T>(conv.out_c), taps = conv.kernel_h * conv.kernel_w;
    long long count = (long long)ceil_div(conv.in_c, MMA_COLUMNS) * taps * per_tap * MMA_COLUMNS * depth;
    for (long long i = global_index(); i < count; i += global_size()) {
        int k = (int)(i % depth), column = (int)(i / depth % MMA_COLUMNS);
        int step = (int)(i / depth / MMA_COLUMNS), block = step / (taps * per_tap), place = step / per_tap % taps;
        // Finds the phase that `place` belongs to, and its tap there.
        int tap = 0;
        for (int phase = 0; phase < conv.stride_y * conv.stride_x; phase++) {
            int y = phase / conv.stride_x, x = phase % conv.stride_x;
            int taps_y = StridePhase::count_from(y, conv.kernel_h, conv.stride_y);
            int taps_x = StridePhase::count_from(x, conv.kernel_w, conv.stride_x);
            if (place < taps_y * taps_x) {
                tap = (y + place / taps_x * conv.stride_y) * conv.kernel_w + x + place % taps_x * conv.stride_x;
                break;
            }
            place -= taps_y * taps_x;
        }
        int o = step % per_tap * depth + k, c = block * MMA_COLUMNS + column;
        bool inside = o < conv.out_c && c < conv.in_c;
        packed[i] = Mma<T>::rounded(inside ? weight[((long long)tap * conv.in_c + c) * conv.out_c + o] : 0.0f);
    }
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    pack_transposed_bf16(const float* __restrict__ weight,  // [kernel_h, kernel_w, in_c, out_c]
                         bf16* __restrict__ packed,         // [ceil(in_c / 128), taps, ceil(out_c / 32), 128, 32]
                         ConvSizes conv) {
    pack_transposed(weight, packed, conv);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_transposed_tf32(const float* __restrict__ weight,
                         float* __restrict__ packed,  // [ceil(in_c / 128), taps, ceil(out_c / 16), 128, 16]
                         ConvSizes conv) {
    pack_transposed(weight, packed, conv);
}

template <class T>
DEVICE void backward_data_mma(const T* dy, const T* packed, T* dx, ConvSizes conv, int accumulate) {
    DYNAMIC_SHARED(shared);
    StridePhase phase(blockIdx.z, conv);
    long long count = (long long)conv.n * phase.height * phase.width, first = (long long)blockIdx.x * MMA_ROWS;
    if (first >= count) return;
    MmaPlaces places(first, count, [=](int pixel) { return phase.place(pixel, conv.out_h); });

    float acc[4][8][4] = {};
    int per_tap = steps_of_tap<T>(conv.out_c), steps = phase.taps_y * phase.taps_x * per_tap;
    if (steps > 0) {
        // The number of taps that are packed before those of this phase.
        int before = 0;
        for (int other = 0; other < phase.tap_y * conv.stride_x + phase.tap_x; other++)
            before += StridePhase::count_from(other / conv.stride_x, conv.kernel_h, conv.stride_y) *
                      StridePhase::count_from(other % conv.stride_x, conv.kernel_w, conv.stride_x);
        MmaPixels<T> a{dy, conv.out_h, conv.out_w, conv.out_c, phase.taps_x, -1, places};
        long long start = ((long long)blockIdx.y * conv.kernel_h * conv.kernel_w + before) * per_tap;
        multiply_mma(acc, shared, a, packed + start * MMA_COLUMNS * Mma<T>::DEPTH, steps);
    }

#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            long long row = first + mma_row(i, half * 2);
            if (row >= count) continue;
            long long pixel = phase.input_pixel((int)row, conv);
            put_row(dx + pixel * conv.in_c, blockIdx.y * MMA_COLUMNS, conv.in_c, acc[i], half, accumulate);
        }
}

// dx = transposed convolution of dy: one product for each stride phase, as in conv2d_f32.cu. blockIdx.z = tap_y·stride_x +
// tap_x.
// launch: grid (ceil(n·ceil(in_h / stride_y)·ceil(in_w / stride_x) / 128), ceil(in_c / 128), stride_y·stride_x), dynamic shared
// memory 49152
extern "C" __global__ void __launch_bounds__(128, 2)
    conv2d_backward_data_bf16(const bf16* __restrict__ dy,      // [n, out_h, out_w, out_c]
                              const bf16* __restrict__ packed,  // by pack_transposed_bf16 with these strides
                              bf16* __restrict__ dx,            // [n, in_h, in_w, in_c]
                              ConvSizes conv, int accumulate) {
    backward_data_mma(dy, packed, dx, conv, accumulate);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    conv2d_backward_data_tf32(const float* __restrict__ dy, const float* __restrict__ packed, float* __restrict__ dx,
                              ConvSizes conv, int accumulate) {
    backward_data_mma(dy, packed, dx, conv, accumulate);
}
