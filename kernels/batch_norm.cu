// Batch normalisation over rows (n, h, w) for each channel, with an optional residual sum and ReLU:
//   y = relu((x - mean)·inv_std·weight + bias + residual)
//
// Training, forward: batch_norm_statistics, then batch_norm_apply. Evaluation: batch_norm_from_running, then batch_norm_apply.
// Backward: batch_norm_backward_sums, then batch_norm_backward_apply.
// With g = dy masked by the ReLU: dbias = Σg, dweight = Σg·x̂, dx = weight·inv_std·(g - Σg/rows - x̂·Σg·x̂/rows),
// dresidual = g. With running statistics (`batch_statistics` = 0) the two sums drop out of dx.
//
// Contract. Activations are [rows, channels], f32 or bf16; statistics, parameters and their gradients are f32 [channels]. The rows
// are cut into fixed splits. Each split gives partial sums, which the last block of a channel adds in a fixed order and in double
// precision; within a split the order depends only on whether a row is a multiple of 16 bytes long. The first row of x is subtracted before squaring, so that a
// large mean costs no digits. `accumulate`: 0 overwrites a gradient, any other value adds to it. y may be x or residual; dx may be
// dy if dresidual is null, and dresidual may be dy. NaN passes the ReLU in both directions.

#include "batch_norm.cuh"

// Mean and 1/√(biased variance + eps) of the batch. Updates the running statistics, with the unbiased variance, unless they are
// null. Needs rows > 1.
// launch: grid (ceil(channels / 32), splits), splits = ceil(rows / split_rows)
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_statistics_f32(const float* __restrict__ x,  // [rows, channels]
                              float* partials,     // [splits, 2, channels]: Σ(x - x₀), Σ(x - x₀)²
                              unsigned* counters,  // [ceil(channels / 32)]: 0, before and after
                              float* __restrict__ mean, float* __restrict__ inv_std, float* __restrict__ running_mean,
                              float* __restrict__ running_var,  // [channels] each
                              long long rows, int channels, int split_rows, float eps, float momentum) {
    norm_statistics(x, partials, counters, mean, inv_std, running_mean, running_var, rows, channels, split_rows, eps, momentum);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_statistics_bf16(const bf16* __restrict__ x, float* partials, unsigned* counters, float* __restrict__ mean,
                               float* __restrict__ inv_std, float* __restrict__ running_mean,
                               float* __restrict__ running_var, long long rows, int channels, int split_rows, float eps,
                               float momentum) {
    norm_statistics(x, partials, counters, mean, inv_std, running_mean, running_var, rows, channels, split_rows, eps, momentum);
}

// Mean and inv_std over the rows of all ranks, of which each has as many, from those of each rank; updates the running statistics. rows are those of
// one rank. launch: grid (ceil(channels / 64))
extern "C" __global__ void __launch_bounds__(64)
    batch_norm_of_ranks(const float* __restrict__ of_each,  // [ranks, 2, channels]: mean, inv_std
                        float* mean, float* inv_std, float* running_mean, float* running_var,  // [channels]
                        int ranks, long long rows, int channels, float eps, float momentum) {
    int channel = (int)global_index();
    if (channel >= channels) return;
    double sum = 0.0, within = 0.0, between = 0.0;
    for (int rank = 0; rank < ranks; rank++) {
        const float* of_rank = of_each + 2ll * rank * channels + channel;
        double inverse = of_rank[channels];
        sum += of_rank[0];
        within += 1.0 / (inverse * inverse) - eps;
    }
    double middle = sum / ranks;
    for (int rank = 0; rank < ranks; rank++) {
        double d = of_each[2ll * rank * channels + channel] - middle;
        between += d * d;
    }
    double biased = (within + between) / ranks;
    float variance = (float)(biased < 0.0 ? 0.0 : biased), all = (float)rows * ranks;
    mean[channel] = (float)middle;
    inv_std[channel] = 1.0f / sqrtf(variance + eps);
    running_mean[channel] += momentum * ((float)middle - running_mean[channel]);
    running_var[channel] += momentum * (variance * (all / (all - 1.0f)) - running_var[channel]);
}

// The same mean and inv_std from the running statistics. launch: grid (ceil(channels / 64))
extern "C" __global__ void __launch_bounds__(64)
    batch_norm_from_running(const float* running_mean, const float* running_var, float* mean, float* inv_std,  // [channels]
                            int channels, float eps) {
    int channel = (int)global_index();
    if (channel >= channels) return;
    mean[channel] = running_mean[channel];
    inv_std[channel] = 1.0f / sqrtf(running_var[channel] + eps);
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

// launch: grid (ceil(channels / 32), splits), splits = ceil(rows / split_rows)
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_sums_f32(const float* __restrict__ x, const float* __restrict__ y,  // y: read for RELU_OF_Y
                                 const float* __restrict__ dy,                              // [rows, channels] each
                                 const float* __restrict__ mean, const float* __restrict__ inv_std,
                                 const float* __restrict__ weight, const float* __restrict__ bias,  // [channels] each
                                 float* partials,           // [splits, 2, channels]: Σg, Σg·x̂
                                 unsigned* counters,        // [ceil(channels / 32)]: 0, before and after
                                 float* __restrict__ sums,  // [2, channels]: Σg, Σg·x̂
                                 float* __restrict__ dweight, float* __restrict__ dbias,  // [channels], each may be null
                                 long long rows, int channels, int split_rows, int relu, int accumulate_weight,
                                 int accumulate_bias) {
    norm_backward_sums(x, y, dy, mean, inv_std, weight, bias, partials, counters, sums, dweight, dbias, rows, channels,
                       split_rows, relu, accumulate_weight, accumulate_bias);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_sums_bf16(const bf16* __restrict__ x, const bf16* __restrict__ y, const bf16* __restrict__ dy,
                                  const float* __restrict__ mean, const float* __restrict__ inv_std,
                                  const float* __restrict__ weight, const float* __restrict__ bias, float* partials,
                                  unsigned* counters, float* __restrict__ sums, float* __restrict__ dweight,
                                  float* __restrict__ dbias, long long rows, int channels, int split_rows, int relu,
                                  int accumulate_weight, int accumulate_bias) {
    norm_backward_sums(x, y, dy, mean, inv_std, weight, bias, partials, counters, sums, dweight, dbias, rows, channels,
                       split_rows, relu, accumulate_weight, accumulate_bias);
}

// dx and dresidual may each be null. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256, 4)
    batch_norm_backward_apply_f32(const float* x, const float* y, const float* dy,  // [rows, channels], y as above
                                  const float* __restrict__ mean, const float* __restrict__ inv_std,
                                  const float* __restrict__ weight, const float* __restrict__ bias,  // [channels] each
                                  const float* __restrict__ sums,                                    // [2, channels]
                                  float* dx, float* dresidual,  // [rows, channels] or null
                                  long long rows, int channels, int batch_statistics, int relu, int accumulate_dx,
                                  int accumulate_dresidual) {
    norm_backward_apply(x, y, dy, mean, inv_std, weight, bias, sums, dx, dresidual, rows, channels, batch_statistics, relu,
                        accumulate_dx, accumulate_dresidual);
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward_apply_bf16(const bf16* x, const bf16* y, const bf16* dy, const float* __restrict__ mean,
                                   const float* __restrict__ inv_std, const float* __restrict__ weight,
                                   const float* __restrict__ bias, const float* __restrict__ sums, bf16* dx,
                                   bf16* dresidual, long long rows, int channels, int batch_statistics, int relu,
                                   int accumulate_dx, int accumulate_dresidual) {
    norm_backward_apply(x, y, dy, mean, inv_std, weight, bias, sums, dx, dresidual, rows, channels, batch_statistics, relu,
                        accumulate_dx, accumulate_dresidual);
}
