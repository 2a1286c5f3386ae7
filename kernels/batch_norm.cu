// Batch normalisation over rows (n, h, w) for each channel, with an optional residual sum and ReLU:
//   y = relu((x - mean)·inv_std·weight + bias + residual)
//
// Training, forward: batch_norm_partials, batch_norm_finish, batch_norm_apply. Evaluation: batch_norm_from_running, then
// batch_norm_apply. Backward: batch_norm_backward_partials, batch_norm_backward_finish, batch_norm_backward_apply.
// With g = dy masked by the ReLU: dbias = Σg, dweight = Σg·x̂, dx = weight·inv_std·(g - Σg/rows - x̂·Σg·x̂/rows),
// dresidual = g. With running statistics (`batch_statistics` = 0) the two sums drop out of dx.
//
// Contract. Activations are [rows, channels], f32 or bf16; statistics, parameters and their gradients f32 [channels].
// Sums run over fixed splits of the rows into partials, which are added in order and in double precision. From x the first row
// is subtracted before squaring, so that a large mean costs no digits. `accumulate`: 0 overwrites a gradient, else adds.
// y may be x or residual; dx may be dy if dresidual is null, and dresidual may be dy. NaN passes the ReLU in both directions.

#include "common.cuh"

// A block of 256 threads: 32 channels by 8 rows.
const int NORM_ROWS = 8;
DEVICE int norm_channel() { return blockIdx.x * 32 + threadIdx.x % 32; }
DEVICE int norm_lane() { return threadIdx.x / 32; }

// Adds a and b of the 8 lanes of a channel, in order, into partials[blockIdx.y][0 and 1][channel].
DEVICE void norm_write_partials(float a, float b, float* partials, int channels) {
    SHARED(float2, sums, [NORM_ROWS][32]);
    float2 own = {a, b};
    sums[norm_lane()][threadIdx.x % 32] = own;
    __syncthreads();
    int channel = norm_channel();
    if (norm_lane() == 0 && channel < channels) {
        for (int lane = 1; lane < NORM_ROWS; lane++) {
            a += sums[lane][threadIdx.x].x;
            b += sums[lane][threadIdx.x].y;
        }
        float* out = partials + (long long)blockIdx.y * 2 * channels + channel;
        out[0] = a;
        out[channels] = b;
    }
}

template <class T>
DEVICE void norm_partials(const T* x, float* partials, long long rows, int channels, int split_rows) {
    int channel = norm_channel();
    long long first = (long long)blockIdx.y * split_rows, end = min(first + split_rows, rows);
    float sum = 0.0f, squares = 0.0f;
    if (channel < channels) {
        float pivot = load(x + channel);
        for (long long row = first + norm_lane(); row < end; row += NORM_ROWS) {
            float d = load(x + row * channels + channel) - pivot;
            sum += d;
            squares = fmaf(d, d, squares);
        }
    }
    norm_write_partials(sum, squares, partials, channels);
}

// launch: grid (ceil(channels / 32), splits), splits = ceil(rows / split_rows)
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_partials_f32(const float* __restrict__ x,   // [rows, channels]
                            float* __restrict__ partials,  // [splits, 2, channels]: Σ(x - x₀), Σ(x - x₀)²
                            long long rows, int channels, int split_rows) {
    norm_partials(x, partials, rows, channels, split_rows);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_partials_bf16(const bf16* __restrict__ x, float* __restrict__ partials, long long rows, int channels,
                             int split_rows) {
    norm_partials(x, partials, rows, channels, split_rows);
}

template <class T>
DEVICE void norm_finish(const T* x, const float* partials, float* mean, float* inv_std, float* running_mean,
                        float* running_var, int splits, long long rows, int channels, float eps, float momentum) {
    int channel = (int)global_index();
    if (channel >= channels) return;
    double sum = 0.0, squares = 0.0;
    for (int split = 0; split < splits; split++) {
        sum += partials[(2ll * split) * channels + channel];
        squares += partials[(2ll * split + 1) * channels + channel];
    }
    double d = sum / rows, biased = squares / rows - d * d;
    float batch_mean = (float)(load(x + channel) + d);
    // A comparison, so that NaN stays.
    float variance = (float)(biased < 0.0 ? 0.0 : biased);
    mean[channel] = batch_mean;
    inv_std[channel] = 1.0f / sqrtf(variance + eps);
    if (running_mean) {
        float unbiased = variance * ((float)rows / ((float)rows - 1.0f));
        running_mean[channel] += momentum * (batch_mean - running_mean[channel]);
        running_var[channel] += momentum * (unbiased - running_var[channel]);
    }
}

// Mean and 1/√(biased variance + eps) of the batch; moves the running statistics, with the unbiased variance, unless they
// are null. rows > 1. launch: grid (ceil(channels / 64))
extern "C" __global__ void __launch_bounds__(64)
    batch_norm_finish_f32(const float* x,         // [rows, channels], of which the first row is read
                          const float* partials,  // [splits, 2, channels]
                          float* mean, float* inv_std, float* running_mean, float* running_var,  // [channels] each
                          int splits, long long rows, int channels, float eps, float momentum) {
    norm_finish(x, partials, mean, inv_std, running_mean, running_var, splits, rows, channels, eps, momentum);
}

extern "C" __global__ void __launch_bounds__(64)
    batch_norm_finish_bf16(const bf16* x, const float* partials, float* mean, float* inv_std, float* running_mean,
                           float* running_var, int splits, long long rows, int channels, float eps, float momentum) {
    norm_finish(x, partials, mean, inv_std, running_mean, running_var, splits, rows, channels, eps, momentum);
}

// The same from running statistics. launch: grid (ceil(channels / 64))
extern "C" __global__ void __launch_bounds__(64)
    batch_norm_from_running(const float* running_mean, const float* running_var, float* mean, float* inv_std,  // [channels]
                            int channels, float eps) {
    int channel = (int)global_index();
    if (channel >= channels) return;
    mean[channel] = running_mean[channel];
    inv_std[channel] = 1.0f / sqrtf(running_var[channel] + eps);
}

template <class T>
DEVICE void norm_apply(const T* x, const T* residual, const float* mean, const float* inv_std, const float* weight,
                       const float* bias, T* y, long long rows, int channels, int relu) {
    for_each_in_rows(rows, channels, [=](long long row, int c) {
        long long i = row * channels + c;
        float v = (load(x + i) - mean[c]) * (inv_std[c] * weight[c]) + bias[c];
        if (residual) v += load(residual + i);
        store(y + i, relu && v < 0.0f ? 0.0f : v);
    });
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_apply_f32(const float* x, const float* residual,  // [rows, channels], residual or null
                         const float* __restrict__ mean, const float* __restrict__ inv_std,
                         const float* __restrict__ weight, const float* __restrict__ bias,  // [channels] each
                         float* y, long long rows, int channels, int relu) {
    norm_apply(x, residual, mean, inv_std, weight, bias, y, rows, channels, relu);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_apply_bf16(const bf16* x, const bf16* residual, const float* __restrict__ mean,
                          const float* __restrict__ inv_std, const float* __restrict__ weight,
                          const float* __restrict__ bias, bf16* y, long long rows, int channels, int relu) {
    norm_apply(x, residual, mean, inv_std, weight, bias, y, rows, channels, relu);
}

// dy where the ReLU let the value through; y is null without ReLU.
template <class T> DEVICE float norm_masked(const T* y, const T* dy, long long i) {
    return y && load(y + i) <= 0.0f ? 0.0f : load(dy + i);
}

template <class T>
DEVICE void norm_backward_partials(const T* x, const T* y, const T* dy, const float* mean, const float* inv_std,
                                   float* partials, long long rows, int channels, int split_rows) {
    int channel = norm_channel();
    long long first = (long long)blockIdx.y * split_rows, end = min(first + split_rows, rows);
    float sum = 0.0f, dot = 0.0f;
    if (channel < channels) {
        float m = mean[channel], s = inv_std[channel];
        for (long long row = first + norm_lane(); row < end; row += NORM_ROWS) {
            long long i = row * channels + channel;
            float g = norm_masked(y, dy, i);
            sum += g;
            dot = fmaf(g, (load(x + i) - m) * s, dot);
        }
    }
    norm_write_partials(sum, dot, partials, channels);
}

// launch: grid (ceil(channels / 32), splits), splits = ceil(rows / split_rows)
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_partials_f32(const float* __restrict__ x, const float* __restrict__ y,  // y: null without ReLU
                                     const float* __restrict__ dy,                              // [rows, channels] each
                                     const float* __restrict__ mean, const float* __restrict__ inv_std,  // [channels]
                                     float* __restrict__ partials,  // [splits, 2, channels]: Σg, Σg·x̂
                                     long long rows, int channels, int split_rows) {
    norm_backward_partials(x, y, dy, mean, inv_std, partials, rows, channels, split_rows);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_partials_bf16(const bf16* __restrict__ x, const bf16* __restrict__ y,
                                      const bf16* __restrict__ dy, const float* __restrict__ mean,
                                      const float* __restrict__ inv_std, float* __restrict__ partials, long long rows,
                                      int channels, int split_rows) {
    norm_backward_partials(x, y, dy, mean, inv_std, partials, rows, channels, split_rows);
}

// launch: grid (ceil(channels / 64))
extern "C" __global__ void __launch_bounds__(64)
    batch_norm_backward_finish(const float* __restrict__ partials,  // [splits, 2, channels]
                               float* __restrict__ sums,            // [2, channels]: Σg, Σg·x̂
                               float* __restrict__ dweight, float* __restrict__ dbias,  // [channels], each may be null
                               int splits, int channels, int accumulate_weight, int accumulate_bias) {
    int channel = (int)global_index();
    if (channel >= channels) return;
    double sum = 0.0, dot = 0.0;
    for (int split = 0; split < splits; split++) {
        sum += partials[(2ll * split) * channels + channel];
        dot += partials[(2ll * split + 1) * channels + channel];
    }
    sums[channel] = (float)sum;
    sums[channels + channel] = (float)dot;
    if (dweight) put(dweight + channel, (float)dot, accumulate_weight);
    if (dbias) put(dbias + channel, (float)sum, accumulate_bias);
}

template <class T>
DEVICE void norm_backward_apply(const T* x, const T* y, const T* dy, const float* mean, const float* inv_std,
                                const float* weight, const float* sums, T* dx, T* dresidual, long long rows,
                                int channels, int batch_statistics, int accumulate_dx, int accumulate_dresidual) {
    float share = batch_statistics ? 1.0f / (float)rows : 0.0f;
    for_each_in_rows(rows, channels, [=](long long row, int c) {
        long long i = row * channels + c;
        float g = norm_masked(y, dy, i);
        if (dx) {
            float normal = (load(x + i) - mean[c]) * inv_std[c];
            float centred = g - sums[c] * share - normal * (sums[channels + c] * share);
            put(dx + i, weight[c] * inv_std[c] * centred, accumulate_dx);
        }
        if (dresidual) put(dresidual + i, g, accumulate_dresidual);
    });
}

// dx and dresidual may each be null. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_apply_f32(const float* x, const float* y, const float* dy,  // [rows, channels], y null without ReLU
                                  const float* __restrict__ mean, const float* __restrict__ inv_std,
                                  const float* __restrict__ weight,  // [channels] each
                                  const float* __restrict__ sums,    // [2, channels]
                                  float* dx, float* dresidual,       // [rows, channels] or null
                                  long long rows, int channels, int batch_statistics, int accumulate_dx,
                                  int accumulate_dresidual) {
    norm_backward_apply(x, y, dy, mean, inv_std, weight, sums, dx, dresidual, rows, channels, batch_statistics,
                        accumulate_dx, accumulate_dresidual);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_apply_bf16(const bf16* x, const bf16* y, const bf16* dy, const float* __restrict__ mean,
                                   const float* __restrict__ inv_std, const float* __restrict__ weight,
                                   const float* __restrict__ sums, bf16* dx, bf16* dresidual, long long rows,
                                   int channels, int batch_statistics, int accumulate_dx, int accumulate_dresidual) {
    norm_backward_apply(x, y, dy, mean, inv_std, weight, sums, dx, dresidual, rows, channels, batch_statistics,
                        accumulate_dx, accumulate_dresidual);
}
