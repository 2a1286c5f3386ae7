// Instance normalisation: each channel of each image by the mean and the variance of its own pixels, with an optional ReLU:
//   y = relu((x - mean)·inv_std·weight + bias)
//
// Forward: instance_norm_statistics, then instance_norm_apply. Backward: instance_norm_backward_sums, then instance_norm_backward_apply. The
// arithmetic is that of batch_norm.cu with batch statistics, where the rows are the pixels of one image; training and evaluation are alike.
//
// Contract. Activations are [images, pixels, channels], f32 or bf16; statistics, parameters and their gradients are f32. The sums of an image are
// made by one block for each 32 channels, in a fixed order. The sums of dweight and dbias over the images are added by the last block of a channel,
// in a fixed order and in double precision. `accumulate`: 0 overwrites a gradient, any other value adds to it. y may be x, and dx may be dy.
// NaN passes the ReLU in both directions. There are at most 65535 images.

#include "batch_norm.cuh"

// The offset of this block's image in activations.
DEVICE long long image_offset(int pixels, int channels) { return (long long)blockIdx.y * pixels * channels; }

template <class T> DEVICE void instance_statistics(const T* x, float* statistics, int pixels, int channels, float eps) {
    const T* image = x + image_offset(pixels, channels);
    norm_moments(image, statistics, pixels, channels, 0, pixels);
    const int channel = blockIdx.x * 32 + threadIdx.x;
    if (threadIdx.x >= 32 || channel >= channels) return;
    // This thread wrote the two sums itself.
    float* own = statistics + (long long)blockIdx.y * 2 * channels + channel;
    double d = (double)own[0] / pixels, biased = (double)own[channels] / pixels - d * d;
    // A comparison instead of fmaxf, so that NaN stays NaN.
    float variance = (float)(biased < 0.0 ? 0.0 : biased);
    own[0] = (float)(load(image + channel) + d);
    own[channels] = 1.0f / sqrtf(variance + eps);
}

// Mean and 1/√(biased variance + eps) of each channel of each image. launch: grid (ceil(channels / 32), images)
extern "C" __global__ void __launch_bounds__(256)
    instance_norm_statistics_f32(const float* __restrict__ x,  // [images, pixels, channels]
                                 float* statistics,            // [images, 2, channels]: mean, inv_std
                                 int pixels, int channels, float eps) {
    instance_statistics(x, statistics, pixels, channels, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    instance_norm_statistics_bf16(const bf16* __restrict__ x, float* statistics, int pixels, int channels, float eps) {
    instance_statistics(x, statistics, pixels, channels, eps);
}

template <class T>
DEVICE void instance_apply(const T* x, const float* statistics, const float* weight, const float* bias, T* y, int pixels, int channels,
                           int relu) {
    const long long offset = image_offset(pixels, channels);
    const float* mean = statistics + (long long)blockIdx.y * 2 * channels;
    norm_apply<T>(x + offset, nullptr, mean, mean + channels, weight, bias, y + offset, pixels, channels, relu);
}

// launch: grid (any, images)
extern "C" __global__ void __launch_bounds__(256, 4)
    instance_norm_apply_f32(const float* x,                                                    // [images, pixels, channels]
                            const float* __restrict__ statistics,                              // [images, 2, channels]
                            const float* __restrict__ weight, const float* __restrict__ bias,  // [channels] each
                            float* y,                                                          // [images, pixels, channels]
                            int pixels, int channels, int relu) {
    instance_apply(x, statistics, weight, bias, y, pixels, channels, relu);
}

extern "C" __global__ void __launch_bounds__(256)
    instance_norm_apply_bf16(const bf16* x, const float* __restrict__ statistics, const float* __restrict__ weight,
                             const float* __restrict__ bias, bf16* y, int pixels, int channels, int relu) {
    instance_apply(x, statistics, weight, bias, y, pixels, channels, relu);
}

// The rows of a split are the pixels of an image, so the partial sums are the sums of the images.
template <class T>
DEVICE void instance_backward_sums(const T* x, const T* dy, const float* statistics, const float* weight, const float* bias, float* sums,
                                   unsigned* counters, float* totals, float* dweight, float* dbias, int images, int pixels, int channels,
                                   int relu, int accumulate_weight, int accumulate_bias) {
    const float* mean = statistics + (long long)blockIdx.y * 2 * channels;
    norm_backward_sums<T>(x, nullptr, dy, mean, mean + channels, weight, bias, sums, counters, totals, dweight, dbias,
                          (long long)images * pixels, channels, pixels, relu ? RELU_OF_X : NO_RELU, accumulate_weight, accumulate_bias);
}

// launch: grid (ceil(channels / 32), images)
extern "C" __global__ void __launch_bounds__(256)
    instance_norm_backward_sums_f32(const float* __restrict__ x, const float* __restrict__ dy,         // [images, pixels, channels] each
                                    const float* __restrict__ statistics,                              // [images, 2, channels]
                                    const float* __restrict__ weight, const float* __restrict__ bias,  // [channels] each
                                    float* sums,                 // [images, 2, channels]: Σg, Σg·x̂
                                    unsigned* counters,          // [ceil(channels / 32)]: 0, before and after
                                    float* __restrict__ totals,  // [2, channels]: the same over all images
                                    float* __restrict__ dweight, float* __restrict__ dbias,  // [channels], each may be null
                                    int images, int pixels, int channels, int relu, int accumulate_weight, int accumulate_bias) {
    instance_backward_sums(x, dy, statistics, weight, bias, sums, counters, totals, dweight, dbias, images, pixels, channels, relu,
                           accumulate_weight, accumulate_bias);
}

extern "C" __global__ void __launch_bounds__(256)
    instance_norm_backward_sums_bf16(const bf16* __restrict__ x, const bf16* __restrict__ dy, const float* __restrict__ statistics,
                                     const float* __restrict__ weight, const float* __restrict__ bias, float* sums, unsigned* counters,
                                     float* __restrict__ totals, float* __restrict__ dweight, float* __restrict__ dbias, int images,
                                     int pixels, int channels, int relu, int accumulate_weight, int accumulate_bias) {
    instance_backward_sums(x, dy, statistics, weight, bias, sums, counters, totals, dweight, dbias, images, pixels, channels, relu,
                           accumulate_weight, accumulate_bias);
}

template <class T>
DEVICE void instance_backward_apply(const T* x, const T* dy, const float* statistics, const float* weight, const float* bias,
                                    const float* sums, T* dx, int pixels, int channels, int relu, int accumulate) {
    const long long offset = image_offset(pixels, channels), own = (long long)blockIdx.y * 2 * channels;
    norm_backward_apply<T>(x + offset, nullptr, dy + offset, statistics + own, statistics + own + channels, weight, bias, sums + own,
                           dx + offset, nullptr, pixels, channels, 1, relu ? RELU_OF_X : NO_RELU, accumulate, 0);
}

// launch: grid (any, images)
extern "C" __global__ void __launch_bounds__(256)
    instance_norm_backward_apply_f32(const float* x, const float* dy,                                   // [images, pixels, channels] each
                                     const float* __restrict__ statistics,                              // [images, 2, channels]
                                     const float* __restrict__ weight, const float* __restrict__ bias,  // [channels] each
                                     const float* __restrict__ sums,                                    // [images, 2, channels]
                                     float* dx,  // [images, pixels, channels]
                                     int pixels, int channels, int relu, int accumulate) {
    instance_backward_apply(x, dy, statistics, weight, bias, sums, dx, pixels, channels, relu, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    instance_norm_backward_apply_bf16(const bf16* x, const bf16* dy, const float* __restrict__ statistics,
                                      const float* __restrict__ weight, const float* __restrict__ bias, const float* __restrict__ sums,
                                      bf16* dx, int pixels, int channels, int relu, int accumulate) {
    instance_backward_apply(x, dy, statistics, weight, bias, sums, dx, pixels, channels, relu, accumulate);
}
