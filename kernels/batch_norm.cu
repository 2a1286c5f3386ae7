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

#include "common.cuh"

// Sums over rows: a block of 256 threads takes 32 channels. A thread reads N channels at once (1, or as many as 16 bytes hold), so
// a warp reads N rows at once and a block 8·N.
template <int N> struct NormTile {
    static constexpr int THREADS = 32 / N, ROWS = 8 * N;
    static METHOD int channel() { return blockIdx.x * 32 + threadIdx.x % THREADS * N; }
    static METHOD int row() { return threadIdx.x / THREADS; }
};

// Sums a and b over the rows of the tile, in a fixed order, and writes the sums to partials[blockIdx.y][0 and 1][channel].
template <int N> DEVICE void norm_write_partials(Vec<N> a, Vec<N> b, float* partials, int channels) {
    SHARED(float2, sums, [8][32]);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int lanes = NormTile<N>::THREADS; lanes < 32; lanes *= 2)
#pragma unroll
        for (int e = 0; e < N; e++) {
            a[e] += shuffle_xor(a[e], lanes);
            b[e] += shuffle_xor(b[e], lanes);
        }
    if (lane < NormTile<N>::THREADS) {
#pragma unroll
        for (int e = 0; e < N; e++) sums[warp][lane * N + e] = float2{a[e], b[e]};
    }
    __syncthreads();
    int channel = blockIdx.x * 32 + lane;
    if (warp == 0 && channel < channels) {
        float2 sum = sums[0][lane];
        for (int w = 1; w < 8; w++) {
            sum.x += sums[w][lane].x;
            sum.y += sums[w][lane].y;
        }
        float* out = partials + (long long)blockIdx.y * 2 * channels + channel;
        out[0] = sum.x;
        out[channels] = sum.y;
    }
}

// Two sums over all splits.
struct NormSums {
    double a, b;
};

// Adds up the partial sums of 32 channels in double precision, in the last block of these channels: each of its eight warps takes every
// eighth split, and their sums are added in order. The result is for channel blockIdx.x * 32 + threadIdx.x, in the first 32 threads of
// the block only.
DEVICE NormSums norm_add_partials(const float* partials, int channels) {
    SHARED(NormSums, of_warps, [8][32]);
    const int splits = gridDim.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, channel = blockIdx.x * 32 + lane;
    NormSums sums = {0.0, 0.0};
    if (channel < channels) {
#pragma unroll 4
        for (int split = warp; split < splits; split += 8) {
            sums.a += partials[(2ll * split) * channels + channel];
            sums.b += partials[(2ll * split + 1) * channels + channel];
        }
    }
    of_warps[warp][lane] = sums;
    __syncthreads();
    if (warp == 0) {
        for (int w = 1; w < 8; w++) {
            sums.a += of_warps[w][lane].a;
            sums.b += of_warps[w][lane].b;
        }
    }
    return sums;
}

template <class T>
DEVICE void norm_statistics(const T* x, float* partials, unsigned* counters, float* mean, float* inv_std, float* running_mean,
                            float* running_var, long long rows, int channels, int split_rows, float eps, float momentum) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        const int channel = NormTile<N>::channel();
        long long first = (long long)blockIdx.y * split_rows, end = min(first + split_rows, rows);
        Vec<N> sum = {}, squares = {};
        if (channel < channels) {
            Vec<N> pivot = load_vec<N>(x + channel);
            // There are few blocks, so each thread needs several loads in flight.
#pragma unroll 4
            for (long long row = first + NormTile<N>::row(); row < end; row += NormTile<N>::ROWS) {
                Vec<N> v = load_vec<N>(x + row * channels + channel);
#pragma unroll
                for (int e = 0; e < N; e++) {
                    float d = v[e] - pivot[e];
                    sum[e] += d;
                    squares[e] = fmaf(d, d, squares[e]);
                }
            }
        }
        norm_write_partials(sum, squares, partials, channels);
    });
    if (!is_last_block(counters + blockIdx.x, gridDim.y)) return;
    const NormSums sums = norm_add_partials(partials, channels);
    const int channel = blockIdx.x * 32 + threadIdx.x;
    if (threadIdx.x >= 32 || channel >= channels) return;
    double d = sums.a / rows, biased = sums.b / rows - d * d;
    float batch_mean = (float)(load(x + channel) + d);
    // A comparison instead of fmaxf, so that NaN stays NaN.
    float variance = (float)(biased < 0.0 ? 0.0 : biased);
    mean[channel] = batch_mean;
    inv_std[channel] = 1.0f / sqrtf(variance + eps);
    if (running_mean) {
        float unbiased = variance * ((float)rows / ((float)rows - 1.0f));
        running_mean[channel] += momentum * (batch_mean - running_mean[channel]);
        running_var[channel] += momentum * (unbiased - running_var[channel]);
    }
}

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

// The same mean and inv_std from the running statistics. launch: grid (ceil(channels / 64))
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
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x, residual, y), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_columns(rows, channels / N, [=](int part, long long first, unsigned step) {
            const int c = part * N;
            Vec<N> m = gather_vec<N>(mean + c), scale = gather_vec<N>(inv_std + c), w = gather_vec<N>(weight + c);
            Vec<N> b = gather_vec<N>(bias + c);
#pragma unroll
            for (int e = 0; e < N; e++) scale[e] *= w[e];
            for (long long row = first; row < rows; row += step) {
                long long i = row * channels + c;
                Vec<N> v = load_vec<N>(x + i), r = {};
                if (residual) r = load_vec<N>(residual + i);
#pragma unroll
                for (int e = 0; e < N; e++) {
                    float normal = (v[e] - m[e]) * scale[e] + b[e];
                    if (residual) normal += r[e];
                    v[e] = relu && normal < 0.0f ? 0.0f : normal;
                }
                store_vec(y + i, v);
            }
        });
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

// From what backward knows which values the ReLU let through: there is no ReLU; y; or y computed again from x, so that y is not read.
enum { NO_RELU = 0, RELU_OF_Y = 1, RELU_OF_X = 2 };

// dy where the ReLU let the value through, else 0. v are the elements of x, scale is inv_std·weight.
template <int N, class T>
DEVICE Vec<N> norm_masked(const T* y, const T* dy, long long i, const Vec<N>& v, const Vec<N>& mean, const Vec<N>& scale,
                          const Vec<N>& bias, int relu) {
    Vec<N> g = load_vec<N>(dy + i);
    if (relu == NO_RELU) return g;
    Vec<N> out = {};
    if (relu == RELU_OF_Y) out = load_vec<N>(y + i);
#pragma unroll
    for (int e = 0; e < N; e++) {
        // As in norm_apply.
        if (relu == RELU_OF_X) out[e] = (v[e] - mean[e]) * scale[e] + bias[e];
        if (out[e] <= 0.0f) g[e] = 0.0f;
    }
    return g;
}

template <class T>
DEVICE void norm_backward_sums(const T* x, const T* y, const T* dy, const float* mean, const float* inv_std, const float* weight,
                               const float* bias, float* partials, unsigned* counters, float* sums, float* dweight,
                               float* dbias, long long rows, int channels, int split_rows, int relu, int accumulate_weight,
                               int accumulate_bias) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x, y, dy), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        const int channel = NormTile<N>::channel();
        long long first = (long long)blockIdx.y * split_rows, end = min(first + split_rows, rows);
        Vec<N> sum = {}, dot = {};
        if (channel < channels) {
            Vec<N> m = gather_vec<N>(mean + channel), s = gather_vec<N>(inv_std + channel);
            Vec<N> scale = gather_vec<N>(weight + channel), shift = gather_vec<N>(bias + channel);
#pragma unroll
            for (int e = 0; e < N; e++) scale[e] = s[e] * scale[e];
#pragma unroll 4
            for (long long row = first + NormTile<N>::row(); row < end; row += NormTile<N>::ROWS) {
                long long i = row * channels + channel;
                Vec<N> v = load_vec<N>(x + i), g = norm_masked<N>(y, dy, i, v, m, scale, shift, relu);
#pragma unroll
                for (int e = 0; e < N; e++) {
                    sum[e] += g[e];
                    dot[e] = fmaf(g[e], (v[e] - m[e]) * s[e], dot[e]);
                }
            }
        }
        norm_write_partials(sum, dot, partials, channels);
    });
    if (!is_last_block(counters + blockIdx.x, gridDim.y)) return;
    const NormSums total = norm_add_partials(partials, channels);
    const int channel = blockIdx.x * 32 + threadIdx.x;
    if (threadIdx.x >= 32 || channel >= channels) return;
    sums[channel] = (float)total.a;
    sums[channels + channel] = (float)total.b;
    if (dweight) put(dweight + channel, (float)total.b, accumulate_weight);
    if (dbias) put(dbias + channel, (float)total.a, accumulate_bias);
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

template <class T>
DEVICE void norm_backward_apply(const T* x, const T* y, const T* dy, const float* mean, const float* inv_std,
                                const float* weight, const float* bias, const float* sums, T* dx, T* dresidual,
                                long long rows, int channels, int batch_statistics, int relu, int accumulate_dx,
                                int accumulate_dresidual) {
    const float share = batch_statistics ? 1.0f / (float)rows : 0.0f;
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x, y, dy, dx, dresidual), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_columns(rows, channels / N, [=](int part, long long first, unsigned step) {
            const int c = part * N;
            Vec<N> m = gather_vec<N>(mean + c), s = gather_vec<N>(inv_std + c), scale = gather_vec<N>(weight + c);
            // Σg/rows, and 1/√(variance + eps)·Σg·x̂/rows.
            Vec<N> shift = gather_vec<N>(bias + c), offset = {}, slope = {};
            if (dx) offset = gather_vec<N>(sums + c), slope = gather_vec<N>(sums + channels + c);
#pragma unroll
            for (int e = 0; e < N; e++) scale[e] = s[e] * scale[e], offset[e] *= share, slope[e] *= s[e] * share;
            for (long long row = first; row < rows; row += step) {
                long long i = row * channels + c;
                Vec<N> v = {};
                if (dx || relu == RELU_OF_X) v = load_vec<N>(x + i);
                Vec<N> g = norm_masked<N>(y, dy, i, v, m, scale, shift, relu);
                if (dx) {
#pragma unroll
                    for (int e = 0; e < N; e++) v[e] = scale[e] * (g[e] - offset[e] - (v[e] - m[e]) * slope[e]);
                    put_vec(dx + i, v, accumulate_dx);
                }
                if (dresidual) put_vec(dresidual + i, g, accumulate_dresidual);
            }
        });
    });
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
