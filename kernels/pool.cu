// Max and average pooling, NHWC, any window, stride and padding (at most half the window), floor mode.
//
// Max: padding counts as -∞. The first maximum in row-major order of the window wins, and a NaN wins over any number; the winner is
// stored as the index of its pixel within the input image. Average: padding counts as zeros, and the divisor is always the whole
// window. Backward gathers: each input pixel sums the gradients of the windows that hold it, in row-major order of the windows,
// without atomics.
//
// Contract. Forward overwrites y and, unless it is null, winners. `accumulate`: 0 overwrites dx, any other value adds to it. All
// buffers are distinct. All images together have fewer than 2^31 pixels. A pooling has the sizes of a convolution with in_c =
// out_c.
// launch: any grid of one dimension.

#include "common.cuh"
#include "conv_sizes.h"

// A pixel of n images.
struct Pixel {
    int n, y, x;
};
DEVICE Pixel pixel_at(int i, int height, int width) {
    int line = i / width, n = line / height;
    return Pixel{n, line - n * height, i - line * width};
}

// Calls visit(input pixel within its image) over the window of an output, in row-major order.
template <class F> DEVICE void for_each_in_window(const ConvSizes& pool, const Pixel& out, F visit) {
    int top = out.y * pool.stride_y - pool.padding_y, left = out.x * pool.stride_x - pool.padding_x;
    for (int y = max(top, 0); y < min(top + pool.kernel_h, pool.in_h); y++)
        for (int x = max(left, 0); x < min(left + pool.kernel_w, pool.in_w); x++) visit(y * pool.in_w + x);
}

// Calls visit(output pixel within its image) over the windows that hold an input, in row-major order.
template <class F> DEVICE void for_each_window(const ConvSizes& pool, const Pixel& in, F visit) {
    // Window o covers `kernel` pixels from o·stride - padding on.
    int y = in.y + pool.padding_y, x = in.x + pool.padding_x;
    int first_y = y < pool.kernel_h ? 0 : (y - pool.kernel_h) / pool.stride_y + 1, last_y = min(y / pool.stride_y, pool.out_h - 1);
    int first_x = x < pool.kernel_w ? 0 : (x - pool.kernel_w) / pool.stride_x + 1, last_x = min(x / pool.stride_x, pool.out_w - 1);
    for (int oy = first_y; oy <= last_y; oy++)
        for (int ox = first_x; ox <= last_x; ox++) visit(oy * pool.out_w + ox);
}

template <class T> DEVICE void max_pool(const T* x, T* y, int* winners, const ConvSizes& pool) {
    for_each_in_rows((long long)pool.n * pool.out_h * pool.out_w, pool.in_c, [=](long long row, int channel) {
        Pixel out = pixel_at((int)row, pool.out_h, pool.out_w);
        long long i = row * pool.in_c + channel;
        const T* image = x + (long long)out.n * pool.in_h * pool.in_w * pool.in_c + channel;
        float best = -INFINITY;
        int winner = -1;
        for_each_in_window(pool, out, [&](int pixel) {
            float v = load(image + (long long)pixel * pool.in_c);
            // The second condition lets the first pixel win even at -∞, the third lets NaN win.
            if (v > best || winner < 0 || v != v) {
                best = v;
                winner = pixel;
            }
        });
        store(y + i, best);
        if (winners) winners[i] = winner;
    });
}

template <class T>
DEVICE void max_pool_backward(const T* dy, const int* winners, T* dx, const ConvSizes& pool, int accumulate) {
    for_each_in_rows((long long)pool.n * pool.in_h * pool.in_w, pool.in_c, [=](long long row, int channel) {
        Pixel in = pixel_at((int)row, pool.in_h, pool.in_w);
        long long i = row * pool.in_c + channel, image = (long long)in.n * pool.out_h * pool.out_w * pool.in_c + channel;
        int own = in.y * pool.in_w + in.x;
        float sum = 0.0f;
        for_each_window(pool, in, [&](int pixel) {
            long long at = image + (long long)pixel * pool.in_c;
            if (winners[at] == own) sum += load(dy + at);
        });
        put(dx + i, sum, accumulate);
    });
}

template <class T> DEVICE void avg_pool(const T* x, T* y, const ConvSizes& pool) {
    float scale = 1.0f / (float)(pool.kernel_h * pool.kernel_w);
    for_each_in_rows((long long)pool.n * pool.out_h * pool.out_w, pool.in_c, [=](long long row, int channel) {
        Pixel out = pixel_at((int)row, pool.out_h, pool.out_w);
        long long i = row * pool.in_c + channel;
        const T* image = x + (long long)out.n * pool.in_h * pool.in_w * pool.in_c + channel;
        float sum = 0.0f;
        for_each_in_window(pool, out, [&](int pixel) { sum += load(image + (long long)pixel * pool.in_c); });
        store(y + i, sum * scale);
    });
}

template <class T> DEVICE void avg_pool_backward(const T* dy, T* dx, const ConvSizes& pool, int accumulate) {
    float scale = 1.0f / (float)(pool.kernel_h * pool.kernel_w);
    for_each_in_rows((long long)pool.n * pool.in_h * pool.in_w, pool.in_c, [=](long long row, int channel) {
        Pixel in = pixel_at((int)row, pool.in_h, pool.in_w);
        long long i = row * pool.in_c + channel;
        const T* image = dy + (long long)in.n * pool.out_h * pool.out_w * pool.in_c + channel;
        float sum = 0.0f;
        for_each_window(pool, in, [&](int pixel) { sum += load(image + (long long)pixel * pool.in_c); });
        put(dx + i, sum * scale, accumulate);
    });
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_f32(const float* __restrict__ x,  // [n, in_h, in_w, in_c]
                 float* __restrict__ y,        // [n, out_h, out_w, out_c]
                 int* __restrict__ winners,    // [n, out_h, out_w, out_c] or null
                 ConvSizes pool) {
    max_pool(x, y, winners, pool);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int* __restrict__ winners, ConvSizes pool) {
    max_pool(x, y, winners, pool);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward_f32(const float* __restrict__ dy,     // [n, out_h, out_w, out_c]
                          const int* __restrict__ winners,  // [n, out_h, out_w, out_c]
                          float* __restrict__ dx,           // [n, in_h, in_w, in_c]
                          ConvSizes pool, int accumulate) {
    max_pool_backward(dy, winners, dx, pool, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward_bf16(const bf16* __restrict__ dy, const int* __restrict__ winners, bf16* __restrict__ dx, ConvSizes pool,
                           int accumulate) {
    max_pool_backward(dy, winners, dx, pool, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    avg_pool_f32(const float* __restrict__ x,  // [n, in_h, in_w, in_c]
                 float* __restrict__ y,        // [n, out_h, out_w, out_c]
                 ConvSizes pool) {
    avg_pool(x, y, pool);
}

extern "C" __global__ void __launch_bounds__(256)
    avg_pool_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, ConvSizes pool) {
    avg_pool(x, y, pool);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    avg_pool_backward_f32(const float* __restrict__ dy,  // [n, out_h, out_w, out_c]
                          float* __restrict__ dx,        // [n, in_h, in_w, in_c]
                          ConvSizes pool, int accumulate) {
    avg_pool_backward(dy, dx, pool, accumulate);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    avg_pool_backward_bf16(const bf16* __restrict__ dy, bf16* __restrict__ dx, ConvSizes pool, int accumulate) {
    avg_pool_backward(dy, dx, pool, accumulate);
}
