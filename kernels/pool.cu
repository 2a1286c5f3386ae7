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

template <int N> DEVICE void add_to(Vec<N>& sum, const Vec<N>& v) {
#pragma unroll
    for (int e = 0; e < N; e++) sum[e] += v[e];
}

// N winners of neighbouring channels, 16 bytes at a time as Vec.
template <int N> struct Winners {
    int of[N];
};
template <int N> DEVICE Winners<N> load_winners(const int* p) {
    Winners<N> w;
    if constexpr (N == 1) {
        w.of[0] = *p;
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            int4 q = *(const int4*)(p + i);
            w.of[i] = q.x, w.of[i + 1] = q.y, w.of[i + 2] = q.z, w.of[i + 3] = q.w;
        }
    }
    return w;
}
template <int N> DEVICE void store_winners(int* p, const Winners<N>& w) {
    if constexpr (N == 1) {
        *p = w.of[0];
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) *(int4*)(p + i) = make_int4(w.of[i], w.of[i + 1], w.of[i + 2], w.of[i + 3]);
    }
}

// Fewer threads than this do not fill a large GPU.
const long long POOL_THREADS = 1 << 16;

// Calls f(row, channel, Width<N>{}) for N neighbouring channels of each row at a time: 16 bytes, if the length of a row and all addresses are
// multiples of 16 bytes and at least POOL_THREADS threads have work then; else one number.
template <class T, class F, class... P>
DEVICE void for_each_in_channels(long long rows, int channels, const F& f, const P*... addresses) {
    const int WIDE = VEC<T>;
    const bool wide = channels % WIDE == 0 && aligned_16(addresses...) && rows * (channels / WIDE) >= POOL_THREADS;
    by_width<WIDE>(wide, [&](auto by) {
        for_each_in_rows(rows, channels / by.VALUE, [&](long long row, int part) { f(row, part * by.VALUE, by); });
    });
}

template <class T> DEVICE void max_pool(const T* x, T* y, int* winners, const ConvSizes& pool) {
    auto body = [&](long long row, int channel, auto by) {
        constexpr int N = decltype(by)::VALUE;
        Pixel out = pixel_at((int)row, pool.out_h, pool.out_w);
        long long i = row * pool.in_c + channel;
        const T* image = x + (long long)out.n * pool.in_h * pool.in_w * pool.in_c + channel;
        Vec<N> best;
        Winners<N> winner;
#pragma unroll
        for (int e = 0; e < N; e++) best[e] = -INFINITY, winner.of[e] = -1;
        for_each_in_window(pool, out, [&](int pixel) {
            Vec<N> v = load_vec<N>(image + (long long)pixel * pool.in_c);
#pragma unroll
            for (int e = 0; e < N; e++)
                // The second condition lets the first pixel win even at -∞, the third lets NaN win.
                if (v[e] > best[e] || winner.of[e] < 0 || v[e] != v[e]) best[e] = v[e], winner.of[e] = pixel;
        });
        store_vec(y + i, best);
        if (winners) store_winners(winners + i, winner);
    };
    for_each_in_channels<T>((long long)pool.n * pool.out_h * pool.out_w, pool.in_c, body, x, y, winners);
}

template <class T>
DEVICE void max_pool_backward(const T* dy, const int* winners, T* dx, const ConvSizes& pool, int accumulate) {
    auto body = [&](long long row, int channel, auto by) {
        constexpr int N = decltype(by)::VALUE;
        Pixel in = pixel_at((int)row, pool.in_h, pool.in_w);
        long long i = row * pool.in_c + channel, image = (long long)in.n * pool.out_h * pool.out_w * pool.in_c + channel;
        int own = in.y * pool.in_w + in.x;
        Vec<N> sum = {};
        for_each_window(pool, in, [&](int pixel) {
            long long at = image + (long long)pixel * pool.in_c;
            Winners<N> winner = load_winners<N>(winners + at);
            Vec<N> d = load_vec<N>(dy + at);
#pragma unroll
            for (int e = 0; e < N; e++)
                if (winner.of[e] == own) sum[e] += d[e];
        });
        put_vec(dx + i, sum, accumulate);
    };
    for_each_in_channels<T>((long long)pool.n * pool.in_h * pool.in_w, pool.in_c, body, dy, winners, dx);
}

template <class T> DEVICE void avg_pool(const T* x, T* y, const ConvSizes& pool) {
    float scale = 1.0f / (float)(pool.kernel_h * pool.kernel_w);
    auto body = [&](long long row, int channel, auto by) {
        constexpr int N = decltype(by)::VALUE;
        Pixel out = pixel_at((int)row, pool.out_h, pool.out_w);
        long long i = row * pool.in_c + channel;
        const T* image = x + (long long)out.n * pool.in_h * pool.in_w * pool.in_c + channel;
        Vec<N> sum = {};
        for_each_in_window(pool, out, [&](int pixel) { add_to(sum, load_vec<N>(image + (long long)pixel * pool.in_c)); });
#pragma unroll
        for (int e = 0; e < N; e++) sum[e] *= scale;
        store_vec(y + i, sum);
    };
    for_each_in_channels<T>((long long)pool.n * pool.out_h * pool.out_w, pool.in_c, body, x, y);
}

template <class T> DEVICE void avg_pool_backward(const T* dy, T* dx, const ConvSizes& pool, int accumulate) {
    float scale = 1.0f / (float)(pool.kernel_h * pool.kernel_w);
    auto body = [&](long long row, int channel, auto by) {
        constexpr int N = decltype(by)::VALUE;
        Pixel in = pixel_at((int)row, pool.in_h, pool.in_w);
        long long i = row * pool.in_c + channel;
        const T* image = dy + (long long)in.n * pool.out_h * pool.out_w * pool.in_c + channel;
        Vec<N> sum = {};
        for_each_window(pool, in, [&](int pixel) { add_to(sum, load_vec<N>(image + (long long)pixel * pool.in_c)); });
#pragma unroll
        for (int e = 0; e < N; e++) sum[e] *= scale;
        put_vec(dx + i, sum, accumulate);
    };
    for_each_in_channels<T>((long long)pool.n * pool.in_h * pool.in_w, pool.in_c, body, dy, dx);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    max_pool_f32(const float* __restrict__ x,  // [n, in_h, in_w, in_c]
                 float* __restrict__ y,        // [n, out_h, out_w, out_c]
                 int* __restrict__ winners,    // [n, out_h, out_w, out_c] or null
                 ConvSizes pool) {
    max_pool(x, y, winners, pool);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    max_pool_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int* __restrict__ winners, ConvSizes pool) {
    max_pool(x, y, winners, pool);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    max_pool_backward_f32(const float* __restrict__ dy,     // [n, out_h, out_w, out_c]
                          const int* __restrict__ winners,  // [n, out_h, out_w, out_c]
                          float* __restrict__ dx,           // [n, in_h, in_w, in_c]
                          ConvSizes pool, int accumulate) {
    max_pool_backward(dy, winners, dx, pool, accumulate);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    max_pool_backward_bf16(const bf16* __restrict__ dy, const int* __restrict__ winners, bf16* __restrict__ dx, ConvSizes pool,
                           int accumulate) {
    max_pool_backward(dy, winners, dx, pool, accumulate);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    avg_pool_f32(const float* __restrict__ x,  // [n, in_h, in_w, in_c]
                 float* __restrict__ y,        // [n, out_h, out_w, out_c]
                 ConvSizes pool) {
    avg_pool(x, y, pool);
}

extern "C" __global__ void __launch_bounds__(256, 4)
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
