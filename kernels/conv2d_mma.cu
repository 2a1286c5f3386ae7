// The gradient of a convolution's input on tensor cores, bf16 and tf32, f32 sums: of a BConv-Cell's too, with its gate
// gradients as dy and 4·channels as out_c. Any kernel, stride, padding and channels; one product for each stride phase of the
// input over just the taps that reach it.
//
// Contract. All buffers are distinct. `accumulate`: 0 overwrites dx, else adds to it. The weights are packed first, once for
// each change of the weights, and serve all phases. A step of depth is a number of output channels of one tap.

#include "implicit_gemm_mma.cuh"

// Taps are laid out phase by phase, so that those of one phase follow each other: for each phase (tap y, tap x) ascending.
template <class T>
DEVICE void pack_transposed(const float* weight, T* packed, int kernel_h, int kernel_w, int in_c, int out_c, int stride_y,
                            int stride_x) {
    const int depth = Mma<T>::DEPTH, per_tap = steps_of_tap<T>(out_c), taps = kernel_h * kernel_w;
    long long count = (long long)ceil_div(in_c, MMA_COLUMNS) * taps * per_tap * MMA_COLUMNS * depth;
    for (long long i = global_index(); i < count; i += global_size()) {
        int k = (int)(i % depth), column = (int)(i / depth % MMA_COLUMNS);
        long long step = i / depth / MMA_COLUMNS;
        int block = (int)(step / (taps * per_tap)), place = (int)(step / per_tap % taps);
        // Down the phases until `place` falls into one.
        int tap = 0;
        for (int phase = 0; phase < stride_y * stride_x; phase++) {
            int y = phase / stride_x, x = phase % stride_x;
            int taps_y = y < kernel_h ? ceil_div(kernel_h - y, stride_y) : 0;
            int taps_x = x < kernel_w ? ceil_div(kernel_w - x, stride_x) : 0;
            if (place < taps_y * taps_x) {
                tap = (y + place / taps_x * stride_y) * kernel_w + x + place % taps_x * stride_x;
                break;
            }
            place -= taps_y * taps_x;
        }
        int o = (int)(step % per_tap) * depth + k, c = block * MMA_COLUMNS + column;
        bool inside = o < out_c && c < in_c;
        packed[i] = Mma<T>::rounded(inside ? weight[((long long)tap * in_c + c) * out_c + o] : 0.0f);
    }
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    pack_transposed_bf16(const float* __restrict__ weight,  // [kernel_h, kernel_w, in_c, out_c]
                         bf16* __restrict__ packed,         // [ceil(in_c / 128), taps, ceil(out_c / 32), 128, 32]
                         int kernel_h, int kernel_w, int in_c, int out_c, int stride_y, int stride_x) {
    pack_transposed(weight, packed, kernel_h, kernel_w, in_c, out_c, stride_y, stride_x);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_transposed_tf32(const float* __restrict__ weight,
                         float* __restrict__ packed,  // [ceil(in_c / 128), taps, ceil(out_c / 16), 128, 16]
                         int kernel_h, int kernel_w, int in_c, int out_c, int stride_y, int stride_x) {
    pack_transposed(weight, packed, kernel_h, kernel_w, in_c, out_c, stride_y, stride_x);
}

template <class T>
DEVICE void backward_data_mma(const T* dy, const T* packed, T* dx, int n, int in_h, int in_w, int in_c, int out_h, int out_w,
                              int out_c, int kernel_h, int kernel_w, int stride_y, int stride_x, int padding_y,
                              int padding_x, int accumulate) {
    DYNAMIC_SHARED(shared);
    int4* pixels = (int4*)(shared + MMA_PIXELS_AT);
    // This phase's input pixels are phase + stride·(0, 1, ...), its taps tap + stride·(0, 1, ...).
    int phase_y = blockIdx.z / stride_x, phase_x = blockIdx.z - phase_y * stride_x;
    int height = phase_y < in_h ? ceil_div(in_h - phase_y, stride_y) : 0;
    int width = phase_x < in_w ? ceil_div(in_w - phase_x, stride_x) : 0;
    int tap_y = (phase_y + padding_y) % stride_y, tap_x = (phase_x + padding_x) % stride_x;
    int taps_y = tap_y < kernel_h ? ceil_div(kernel_h - tap_y, stride_y) : 0;
    int taps_x = tap_x < kernel_w ? ceil_div(kernel_w - tap_x, stride_x) : 0;
    long long count = (long long)n * height * width, first = (long long)blockIdx.x * MMA_ROWS;
    if (first >= count) return;

    // Of tile row r: pixel of dx (index, or -1) and, for the gather, the pixel of dy under the phase's first tap.
    auto input_pixel = [&](int row, int4* gathered) -> long long {
        long long pixel = first + row;
        if (pixel >= count) return -1;
        int line = (int)(pixel / width), image = line / height;
        int along_y = line - image * height, along_x = (int)(pixel - (long long)line * width);
        if (gathered)
            *gathered = make_int4(image * out_h, along_y + (phase_y + padding_y - tap_y) / stride_y,
                                  along_x + (phase_x + padding_x - tap_x) / stride_x, 0);
        return ((long long)image * in_h + phase_y + along_y * stride_y) * in_w + phase_x + along_x * stride_x;
    };
    if (threadIdx.x < MMA_ROWS) {
        int4 place = make_int4(0, NO_PIXEL_MMA, 0, 0);
        input_pixel(threadIdx.x, &place);
        pixels[threadIdx.x] = place;
    }
    __syncthreads();

    float acc[2][8][4] = {};
    int per_tap = steps_of_tap<T>(out_c), steps = taps_y * taps_x * per_tap;
    if (steps > 0) {
        // Taps of the phases before this one: whole rows of phases, then those to the left.
        int before = 0;
        for (int phase = 0; phase < tap_y * stride_x + tap_x; phase++) {
            int y = phase / stride_x, x = phase % stride_x;
            before += (y < kernel_h ? ceil_div(kernel_h - y, stride_y) : 0) * (x < kernel_w ? ceil_div(kernel_w - x, stride_x) : 0);
        }
        MmaPixels<T> a{dy, out_h, out_w, out_c, taps_x, -1, pixels};
        long long start = ((long long)blockIdx.y * kernel_h * kernel_w + before) * per_tap;
        multiply_mma(acc, shared, a, packed + start * MMA_COLUMNS * Mma<T>::DEPTH, steps);
    }

#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            long long pixel = input_pixel(mma_row(i, half * 2), nullptr);
            if (pixel < 0) continue;
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int column = blockIdx.y * MMA_COLUMNS + mma_column(j, e);
                    if (column < in_c) put(dx + pixel * in_c + column, acc[i][j][half * 2 + e], accumulate);
                }
        }
}

// launch: grid (ceil(n·ceil(in_h / stride_y)·ceil(in_w / stride_x) / 128), ceil(in_c / 128), stride_y·stride_x), dynamic
// shared memory 63488
extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_data_bf16(const bf16* __restrict__ dy,      // [n, out_h, out_w, out_c]
                              const bf16* __restrict__ packed,  // by pack_transposed_bf16 with these strides
                              bf16* __restrict__ dx,            // [n, in_h, in_w, in_c]
                              int n, int in_h, int in_w, int in_c, int out_h, int out_w, int out_c, int kernel_h,
                              int kernel_w, int stride_y, int stride_x, int padding_y, int padding_x, int accumulate) {
    backward_data_mma(dy, packed, dx, n, in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride_y, stride_x,
                      padding_y, padding_x, accumulate);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_data_tf32(const float* __restrict__ dy, const float* __restrict__ packed, float* __restrict__ dx,
                              int n, int in_h, int in_w, int in_c, int out_h, int out_w, int out_c, int kernel_h,
                              int kernel_w, int stride_y, int stride_x, int padding_y, int padding_x, int accumulate) {
    backward_data_mma(dy, packed, dx, n, in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride_y, stride_x,
                      padding_y, padding_x, accumulate);
}
