// Activations of a BConv-Cell's gates by type, and their gradients.
#pragma once

#include "common.cuh"
#include "conv_sizes.h"

// The channels of a cell, whose convolution computes four gates for each. (The unsigned division takes fewer registers.)
DEVICE int cell_channels(const ConvSizes& conv) { return (int)((unsigned)conv.out_c / 4); }

// The activation functions: in bf16 tanh.approx, whose error of 2^-11 is below that of rounding the operands; in f32 and tf32 the
// accurate functions.
template <class T> struct Activations;
template <> struct Activations<bf16> {
    static METHOD float sigmoid_of(float v) { return sigmoid_fast(v); }
    static METHOD float tanh_of(float v) { return tanh_fast(v); }
};
template <> struct Activations<float> {
    static METHOD float sigmoid_of(float v) { return sigmoid(v); }
    static METHOD float tanh_of(float v) { return tanhf(v); }
};

// Turns activated gates [pixels, i f o g, channels] into the gradients of their pre-activations, in place. With
// c = f·c_prev + i·g and dc = dy·o·(1 - tanh²c): di = dc·g·i(1-i), df = dc·c_prev·f(1-f), do = dy·tanh(c)·o(1-o),
// dg = dc·i·(1-g²).
template <class T>
DEVICE void gate_gradients(T* gates, const float* c_prev, const T* dy, long long pixels, int channels) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(gates, c_prev, dy), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_rows(pixels, channels / N, [=](long long pixel, int part) {
            long long at = pixel * channels + part * N;
            T* gate = gates + pixel * 4 * channels + part * N;
            Vec<N> i = load_vec<N>(gate), f = load_vec<N>(gate + channels), o = load_vec<N>(gate + 2 * channels);
            Vec<N> g = load_vec<N>(gate + 3 * channels), before = load_vec<N>(c_prev + at), d = load_vec<N>(dy + at);
            Vec<N> grads[4];
#pragma unroll
            for (int e = 0; e < N; e++) {
                float t = Activations<T>::tanh_of(f[e] * before[e] + i[e] * g[e]), dc = d[e] * o[e] * (1.0f - t * t);
                grads[0][e] = dc * g[e] * i[e] * (1.0f - i[e]);
                grads[1][e] = dc * before[e] * f[e] * (1.0f - f[e]);
                grads[2][e] = d[e] * t * o[e] * (1.0f - o[e]);
                grads[3][e] = dc * i[e] * (1.0f - g[e] * g[e]);
            }
            // The pointer moves, because nvcc 13.0 would split the wide stores at gate + 2·channels and gate + 3·channels.
#pragma unroll
            for (int k = 0; k < 4; k++) {
                store_vec(gate, grads[k]);
                gate += channels;
            }
        });
    });
}
