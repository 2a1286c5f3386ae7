// Depthwise 3x3 convolution, NHWC, stride 1, padding 1: each channel is convolved with 9 numbers of its own.
//
// The gradient of the input is the same convolution of dy with the taps in the opposite order (`turned`).
//
// Contract. Buffers are distinct. The weight is [3, 3, channels] in f32. `accumulate`: 0 overwrites y, any other value adds to it. The
// gradient of the weight is cut into splits of pixels; each overwrites its partial sums in f32, which sum_partials_f32 adds up. All images
// together have fewer than 2^31 pixels.

#include "common.cuh"

// Calls visit(tap, offset in pixels) for the taps of pixel `i` that are inside its image of height x width pixels.
template <class F> DEVICE void for_each_tap(int i, int height, int width, F visit) {
    int line = i / width, x = i - line * width, y = line % height;
#pragma unroll
    for (int ky = 0; ky < 3; ky++) {
        if (y + ky < 1 || y + ky > height) continue;
#pragma unroll
        for (int kx = 0; kx < 3; kx++)
            if (x + kx >= 1 && x + kx <= width) visit(3 * ky + kx, (ky - 1) * width + kx - 1);
    }
}

template <class T>
DEVICE void depthwise(const T* x, const float* weight, T* y, int pixels, int height, int width, int channels, int turned, int accumulate) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x, y), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        // A thread stays in its channels, so that it reads their taps only once.
        for_each_in_columns(pixels, channels / N, [=](int part, long long first, unsigned step) {
            Vec<N> taps[9];
#pragma unroll
            for (int tap = 0; tap < 9; tap++) taps[tap] = gather_vec<N>(weight + (turned ? 8 - tap : tap) * channels + part * N);
            for (long long pixel = first; pixel < pixels; pixel += step) {
                const long long i = pixel * channels + part * N;
                Vec<N> sum = {};
                for_each_tap((int)pixel, height, width, [&](int tap, int offset) {
                    Vec<N> v = load_vec<N>(x + i + (long long)offset * channels);
#pragma unroll
                    for (int e = 0; e < N; e++) sum[e] += v[e] * taps[tap][e];
                });
                put_vec(y + i, sum, accumulate);
            }
        });
    });
}

// launch: any grid of one dimension.
extern "C" __global__ void __launch_bounds__(256, 2)
    depthwise_f32(const float* __restrict__ x,       // [pixels, channels]
                  const float* __restrict__ weight,  // [9, channels]
                  float* __restrict__ y,             // [pixels, channels]
                  int pixels, int height, int width, int channels, int turned, int accumulate) {
    depthwise(x, weight, y, pixels, height, width, channels, turned, accumulate);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    depthwise_bf16(const bf16* __restrict__ x, const float* __restrict__ weight, bf16* __restrict__ y, int pixels, int height,
                   int width, int channels, int turned, int accumulate) {
    depthwise(x, weight, y, pixels, height, width, channels, turned, accumulate);
}

// A block of 256 threads: 32 channels by 8 pixels.
template <class T>
DEVICE void depthwise_weight(const T* x, const T* dy, float* partials, int pixels, int height, int width, int channels, int split_pixels) {
    SHARED(float, sums, [8][9][32]);
    int channel = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32;
    long long first = (long long)blockIdx.y * split_pixels, end = min(first + split_pixels, (long long)pixels);
    float sum[9] = {};
    if (channel < channels)
        for (long long pixel = first + lane; pixel < end; pixel += 8) {
            const T* at = x + pixel * channels + channel;
            float d = load(dy + pixel * channels + channel);
            for_each_tap((int)pixel, height, width,
                         [&](int tap, int offset) { sum[tap] += load(at + (long long)offset * channels) * d; });
        }
#pragma unroll
    for (int tap = 0; tap < 9; tap++) sums[lane][tap][threadIdx.x % 32] = sum[tap];
    __syncthreads();
    for (int i = threadIdx.x; i < 9 * 32; i += 256) {
        int tap = i / 32, c = blockIdx.x * 32 + i % 32;
        float total = 0.0f;
        for (int l = 0; l < 8; l++) total += sums[l][tap][i % 32];
        if (c < channels) partials[((long long)blockIdx.y * 9 + tap) * channels + c] = total;
    }
}

// Block y sums the pixels from y·split_pixels to (y+1)·split_pixels.
// launch: grid (ceil(channels / 32), splits), splits = ceil(pixels / split_pixels)
extern "C" __global__ void __launch_bounds__(256)
    depthwise_weight_f32(const float* __restrict__ x,   // [pixels, channels]
                         const float* __restrict__ dy,  // [pixels, channels]
                         float* __restrict__ partials,  // [splits, 9, channels]
                         int pixels, int height, int width, int channels, int split_pixels) {
    depthwise_weight(x, dy, partials, pixels, height, width, channels, split_pixels);
}

extern "C" __global__ void __launch_bounds__(256)
    depthwise_weight_bf16(const bf16* __restrict__ x, const bf16* __restrict__ dy, float* __restrict__ partials, int pixels, int height,
                          int width, int channels, int split_pixels) {
    depthwise_weight(x, dy, partials, pixels, height, width, channels, split_pixels);
}
