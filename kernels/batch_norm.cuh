// What normalises the channels of rows (n, h, w), over all rows (batch_norm.cu) or over those of each image (instance_norm.cu).
#pragma once

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

// Sums x - x₀ and its square over the rows of a split, where x₀ is the first row of x, into partials[blockIdx.y].
template <class T> DEVICE void norm_moments(const T* x, float* partials, long long rows, int channels, int split, int split_rows) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(x), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        const int channel = NormTile<N>::channel();
        long long first = (long long)split * split_rows, end = min(first + split_rows, rows);
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
}

template <class T>
DEVICE void norm_statistics(const T* x, float* partials, unsigned* counters, float* mean, float* inv_std, float* running_mean,
                            float* running_var, long long rows, int channels, int split_rows, float eps, float momentum) {
    norm_moments(x, partials, rows, channels, blockIdx.y, split_rows);
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
