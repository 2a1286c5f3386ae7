// Channel gate: each channel of an image is multiplied by the sigmoid of a number, y = x · sigmoid(z).
//
// The gradient of x is the same function of dy.
//
// Contract. Buffers are distinct. x, y and their gradients are [images, area, channels], where area is the pixels of an image; z and dz are
// [images, channels]. `accumulate`: 0 overwrites the output, any other value adds to it. All images together have fewer than 2^31 pixels.

#include "common.cuh"

template <class T> DEVICE void channel_gate(const T* x, const T* z, T* y, int pixels, int area, int channels, int accumulate) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x, z, y), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_rows(pixels, channels / N, [=](long long pixel, int part) {
            int image = (int)pixel / area;
            Vec<N> gate = load_vec<N>(z + (long long)image * channels + part * N);
            Vec<N> v = load_vec<N>(x + pixel * channels + part * N);
#pragma unroll
            for (int e = 0; e < N; e++) v[e] *= sigmoid(gate[e]);
            put_vec(y + pixel * channels + part * N, v, accumulate);
        });
    });
}

// launch: any grid of one dimension.
extern "C" __global__ void __launch_bounds__(256)
    channel_gate_f32(const float* __restrict__ x, const float* __restrict__ z, float* __restrict__ y, int pixels, int area, int channels,
                     int accumulate) {
    channel_gate(x, z, y, pixels, area, channels, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    channel_gate_bf16(const bf16* __restrict__ x, const bf16* __restrict__ z, bf16* __restrict__ y, int pixels, int area, int channels,
                      int accumulate) {
    channel_gate(x, z, y, pixels, area, channels, accumulate);
}

// dz (+)= sigmoid'(z) · the sum of dy · x over an image. A block of 256 threads: 32 channels by 8 pixels.
template <class T>
DEVICE void channel_gate_backward(const T* x, const T* z, const T* dy, T* dz, int area, int channels, int accumulate) {
    SHARED(float, sums, [8][32]);
    int channel = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32;
    const long long image = blockIdx.y, first = image * area * channels + channel;
    float sum = 0.0f;
    if (channel < channels)
        for (int pixel = lane; pixel < area; pixel += 8) {
            long long i = first + (long long)pixel * channels;
            sum += load(dy + i) * load(x + i);
        }
    sums[lane][threadIdx.x % 32] = sum;
    __syncthreads();
    if (lane == 0 && channel < channels) {
        for (int l = 1; l < 8; l++) sum += sums[l][threadIdx.x];
        float gate = sigmoid(load(z + image * channels + channel));
        put(dz + image * channels + channel, sum * gate * (1.0f - gate), accumulate);
    }
}

// launch: grid (ceil(channels / 32), images)
extern "C" __global__ void __launch_bounds__(256)
    channel_gate_backward_f32(const float* __restrict__ x, const float* __restrict__ z, const float* __restrict__ dy,
                              float* __restrict__ dz, int area, int channels, int accumulate) {
    channel_gate_backward(x, z, dy, dz, area, channels, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    channel_gate_backward_bf16(const bf16* __restrict__ x, const bf16* __restrict__ z, const bf16* __restrict__ dy,
                               bf16* __restrict__ dz, int area, int channels, int accumulate) {
    channel_gate_backward(x, z, dy, dz, area, channels, accumulate);
}
