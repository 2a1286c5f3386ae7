// Max and average pooling, NHWC, any window, stride and padding (at most half the window), floor mode.
//
// Max: padding counts as -∞; the first maximum in row-major order of the window wins, a NaN always. The winner is its input
// pixel's index within the image. Average: padding counts as zeros and is divided by. Backward gathers: each input pixel adds
// what the windows over it send, in row-major order of the windows; no atomics.
//
// Contract. Forward overwrites y and, unless null, winners. `accumulate`: 0 overwrites dx, else adds. All buffers distinct.
// Fewer than 2^31 pixels in all images together.
// launch: any grid of one dimension.

#include "common.cuh"

struct Pool {
    int in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x;
};

// A pixel of n images.
struct Pixel {
    int n, y, x;
};
DEVICE Pixel pixel_at(int i, int height, int width) {
    int line = i / width, n = line / height;
    return Pixel{n, line - n * height, i - line * width};
}

// visit(input pixel within its image) over the window of an output, in row-major order.
template <class F> DEVICE void for_each_in_window(const Pool& p, const Pixel& out, F visit) {
    int top = out.y * p.stride_y - p.padding_y, left = out.x * p.stride_x - p.padding_x;
    for (int y = max(top, 0); y < min(top + p.kernel_h, p.in_h); y++)
        for (int x = max(left, 0); x < min(left + p.kernel_w, p.in_w); x++) visit(y * p.in_w + x);
}

// visit(output pixel within its image) over the windows that hold an input, in row-major order.
template <class F> DEVICE void for_each_window(const Pool& p, const Pixel& in, F visit) {
    // Window o covers o·stride - padding .. + kernel - 1.
    int y = in.y + p.padding_y, x = in.x + p.padding_x;
    int first_y = y < p.kernel_h ? 0 : (y - p.kernel_h) / p.stride_y + 1, last_y = min(y / p.stride_y, p.out_h - 1);
    int first_x = x < p.kernel_w ? 0 : (x - p.kernel_w) / p.stride_x + 1, last_x = min(x / p.stride_x, p.out_w - 1);
    for (int oy = first_y; oy <= last_y; oy++)
        for (int ox = first_x; ox <= last_x; ox++) visit(oy * p.out_w + ox);
}

template <class T> DEVICE void max_pool(const T* x, T* y, int* winners, int n, const Pool& p) {
    for_each_in_rows((long long)n * p.out_h * p.out_w, p.channels, [=](long long row, int channel) {
        Pixel out = pixel_at((int)row, p.out_h, p.out_w);
        long long i = row * p.channels + channel;
        const T* image = x + (long long)out.n * p.in_h * p.in_w * p.channels + channel;
        float best = -INFINITY;
        int winner = -1;
        for_each_in_window(p, out, [&](int pixel) {
            float v = load(image + (long long)pixel * p.channels);
            // The second test makes the first pixel win even at -∞.
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
DEVICE void max_pool_backward(const T* dy, const int* winners, T* dx, int n, const Pool& p, int accumulate) {
    for_each_in_rows((long long)n * p.in_h * p.in_w, p.channels, [=](long long row, int channel) {
        Pixel in = pixel_at((int)row, p.in_h, p.in_w);
        long long i = row * p.channels + channel, image = (long long)in.n * p.out_h * p.out_w * p.channels + channel;
        int own = in.y * p.in_w + in.x;
        float sum = 0.0f;
        for_each_window(p, in, [&](int pixel) {
            long long at = image + (long long)pixel * p.channels;
            if (winners[at] == own) sum += load(dy + at);
        });
        put(dx + i, sum, accumulate);
    });
}

template <class T> DEVICE void avg_pool(const T* x, T* y, int n, const Pool& p) {
    float scale = 1.0f / (float)(p.kernel_h * p.kernel_w);
    for_each_in_rows((long long)n * p.out_h * p.out_w, p.channels, [=](long long row, int channel) {
        Pixel out = pixel_at((int)row, p.out_h, p.out_w);
        long long i = row * p.channels + channel;
        const T* image = x + (long long)out.n * p.in_h * p.in_w * p.channels + channel;
        float sum = 0.0f;
        for_each_in_window(p, out, [&](int pixel) { sum += load(image + (long long)pixel * p.channels); });
        store(y + i, sum * scale);
    });
}

template <class T> DEVICE void avg_pool_backward(const T* dy, T* dx, int n, const Pool& p, int accumulate) {
    float scale = 1.0f / (float)(p.kernel_h * p.kernel_w);
    for_each_in_rows((long long)n * p.in_h * p.in_w, p.channels, [=](long long row, int channel) {
        Pixel in = pixel_at((int)row, p.in_h, p.in_w);
        long long i = row * p.channels + channel;
        const T* image = dy + (long long)in.n * p.out_h * p.out_w * p.channels + channel;
        float sum = 0.0f;
        for_each_window(p, in, [&](int pixel) { sum += load(image + (long long)pixel * p.channels); });
        put(dx + i, sum * scale, accumulate);
    });
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_f32(const float* __restrict__ x,  // [n, in_h, in_w, channels]
                 float* __restrict__ y,        // [n, out_h, out_w, channels]
                 int* __restrict__ winners,    // [n, out_h, out_w, channels] or null
                 int n, int in_h, int in_w, int channels, int out_h, int out_w, int kernel_h, int kernel_w, int stride_y,
                 int stride_x, int padding_y, int padding_x) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    max_pool(x, y, winners, n, p);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int* __restrict__ winners, int n, int in_h, int in_w,
                  int channels, int out_h, int out_w, int kernel_h, int kernel_w, int stride_y, int stride_x,
                  int padding_y, int padding_x) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    max_pool(x, y, winners, n, p);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward_f32(const float* __restrict__ dy,     // [n, out_h, out_w, channels]
                          const int* __restrict__ winners,  // [n, out_h, out_w, channels]
                          float* __restrict__ dx,           // [n, in_h, in_w, channels]
                          int n, int in_h, int in_w, int channels, int out_h, int out_w, int kernel_h, int kernel_w,
                          int stride_y, int stride_x, int padding_y, int padding_x, int accumulate) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    max_pool_backward(dy, winners, dx, n, p, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward_bf16(const bf16* __restrict__ dy, const int* __restrict__ winners, bf16* __restrict__ dx, int n,
                           int in_h, int in_w, int channels, int out_h, int out_w, int kernel_h, int kernel_w,
                           int stride_y, int stride_x, int padding_y, int padding_x, int accumulate) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    max_pool_backward(dy, winners, dx, n, p, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    avg_pool_f32(const float* __restrict__ x,  // [n, in_h, in_w, channels]
                 float* __restrict__ y,        // [n, out_h, out_w, channels]
                 int n, int in_h, int in_w, int channels, int out_h, int out_w, int kernel_h, int kernel_w, int stride_y,
                 int stride_x, int padding_y, int padding_x) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    avg_pool(x, y, n, p);
}

extern "C" __global__ void __launch_bounds__(256)
    avg_pool_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int n, int in_h, int in_w, int channels, int out_h,
                  int out_w, int kernel_h, int kernel_w, int stride_y, int stride_x, int padding_y, int padding_x) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    avg_pool(x, y, n, p);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    avg_pool_backward_f32(const float* __restrict__ dy,  // [n, out_h, out_w, channels]
                          float* __restrict__ dx,        // [n, in_h, in_w, channels]
                          int n, int in_h, int in_w, int channels, int out_h, int out_w, int kernel_h, int kernel_w,
                          int stride_y, int stride_x, int padding_y, int padding_x, int accumulate) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    avg_pool_backward(dy, dx, n, p, accumulate);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    avg_pool_backward_bf16(const bf16* __restrict__ dy, bf16* __restrict__ dx, int n, int in_h, int in_w, int channels,
                           int out_h, int out_w, int kernel_h, int kernel_w, int stride_y, int stride_x, int padding_y,
                           int padding_x, int accumulate) {
    Pool p{in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_y, stride_x, padding_y, padding_x};
    avg_pool_backward(dy, dx, n, p, accumulate);
}
