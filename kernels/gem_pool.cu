// Generalised-mean pooling (GeM) over whole images, NHWC: y = (mean of v^p over the pixels)^(1/p) with v = max(x, GEM_MIN), and one p for
// all channels. The powers are those of v / max v, so that none overflows.
//
// With u = v/y: dx = dy·u^(p-1)/pixels where x is at least GEM_MIN, else 0; dp = Σ dy·y/p·(mean of u^p·ln u over the pixels).
//
// Each thread takes one channel of one image, number by number: with 16 bytes at a time, too few threads would have work.
//
// Contract. Forward overwrites y and, unless it is null, y_f32 with the same numbers in f32, which backward takes. Backward overwrites
// partials. `accumulate`: 0 overwrites a gradient, any other value adds to it. All buffers are distinct. The sum for dp has a fixed order:
// within a block, then over the blocks in double precision, by the block that is the last one to finish. NaN stays NaN.

#include "common.cuh"

#define GEM_MIN 1e-6f

template <class T> DEVICE float gem_clamped(const T* x) {
    float v = load(x);
    // A comparison instead of fmaxf, so that NaN stays NaN.
    return v < GEM_MIN ? GEM_MIN : v;
}

template <class T>
DEVICE void gem_pool(const T* x, const float* p, T* y, float* y_f32, int images, int pixels, int channels) {
    const float power = *p;
    for_each_in_rows(images, channels, [=](long long image, int channel) {
        const T* from = x + image * pixels * channels + channel;
        float largest = GEM_MIN, sum = 0.0f;
        for (int i = 0; i < pixels; i++) {
            float v = gem_clamped(from + (long long)i * channels);
            if (v > largest || v != v) largest = v;
        }
        for (int i = 0; i < pixels; i++) sum += powf(gem_clamped(from + (long long)i * channels) / largest, power);
        float mean = largest * powf(sum / (float)pixels, 1.0f / power);
        store(y + image * channels + channel, mean);
        if (y_f32) y_f32[image * channels + channel] = mean;
    });
}

template <class T>
DEVICE void gem_pool_backward(const T* x, const float* p, const float* y_f32, const T* dy, T* dx, float* partials, unsigned* counters,
                              float* dp, int images, int pixels, int channels, int accumulate_dx, int accumulate_dp) {
    const float power = *p;
    const long long i = global_index();
    float share = 0.0f;
    if (i < (long long)images * channels) {
        const long long image = i / channels, first = image * pixels * channels + i % channels;
        const float y = y_f32[i], d = load(dy + i);
        float slope = 0.0f;
        for (int pixel = 0; pixel < pixels; pixel++) {
            const long long at = first + (long long)pixel * channels;
            const float u = gem_clamped(x + at) / y, raised = powf(u, power - 1.0f);
            slope += raised * u * logf(u);
            if (dx) put(dx + at, load(x + at) < GEM_MIN ? 0.0f : d * raised / (float)pixels, accumulate_dx);
        }
        share = d * y / power * (slope / (float)pixels);
    }
    const float of_block = block_sum(share);
    if (threadIdx.x == 0) partials[blockIdx.x] = of_block;
    if (!is_last_block(counters, gridDim.x)) return;
    double sum = 0.0;
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) sum += partials[block];
    sum = block_sum(sum);
    if (dp && threadIdx.x == 0) put(dp, (float)sum, accumulate_dp);
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    gem_pool_f32(const float* __restrict__ x,  // [images, pixels, channels]
                 const float* __restrict__ p,  // [1]
                 float* __restrict__ y,        // [images, channels]
                 float* __restrict__ y_f32,    // [images, channels] or null
                 int images, int pixels, int channels) {
    gem_pool(x, p, y, y_f32, images, pixels, channels);
}

extern "C" __global__ void __launch_bounds__(256)
    gem_pool_bf16(const bf16* __restrict__ x, const float* __restrict__ p, bf16* __restrict__ y, float* __restrict__ y_f32, int images,
                  int pixels, int channels) {
    gem_pool(x, p, y, y_f32, images, pixels, channels);
}

// dx and dp may each be null. launch: grid (ceil(images * channels / 256))
extern "C" __global__ void __launch_bounds__(256)
    gem_pool_backward_f32(const float* __restrict__ x,      // [images, pixels, channels]
                          const float* __restrict__ p,      // [1]
                          const float* __restrict__ y_f32,  // [images, channels]
                          const float* __restrict__ dy,     // [images, channels]
                          float* __restrict__ dx,           // [images, pixels, channels]
                          float* partials,                  // [blocks of the grid]
                          unsigned* counters,               // [1]: 0, before and after
                          float* __restrict__ dp,           // [1]
                          int images, int pixels, int channels, int accumulate_dx, int accumulate_dp) {
    gem_pool_backward(x, p, y_f32, dy, dx, partials, counters, dp, images, pixels, channels, accumulate_dx, accumulate_dp);
}

extern "C" __global__ void __launch_bounds__(256)
    gem_pool_backward_bf16(const bf16* __restrict__ x, const float* __restrict__ p, const float* __restrict__ y_f32,
                           const bf16* __restrict__ dy, bf16* __restrict__ dx, float* partials, unsigned* counters,
                           float* __restrict__ dp, int images, int pixels, int channels, int accumulate_dx, int accumulate_dp) {
    gem_pool_backward(x, p, y_f32, dy, dx, partials, counters, dp, images, pixels, channels, accumulate_dx, accumulate_dp);
}
