// The gates of a BConv-Cell without its convolution. Training and evaluation do not use it; the bench `kernels` compares the fused
// cell with a convolution to 4·channels outputs followed by this.
//   [i f o g] = pre;  c_next = σ(f)·c_prev + σ(i)·tanh(g);  y = σ(o)·tanh(c_next)
//
// Contract. Overwrites c_next, y and, unless it is null, gates (the activated gates, for backward). gates may be the same
// buffer as pre, and c_prev the same as c_next; nothing else may overlap.
// launch: any grid of one dimension.

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
    unfused_gates_f32(const float* pre,       // [pixels, 4, channels]
                      const float* c_prev,    // [pixels, channels]
                      float* c_next,          // [pixels, channels]
                      float* __restrict__ y,  // [pixels, channels]
                      float* gates,           // [pixels, 4, channels] or null
                      long long pixels, int channels) {
    for_each_in_rows(pixels, channels, [=](long long pixel, int channel) {
        long long at = pixel * channels + channel, gate = pixel * 4 * channels + channel;
        float i = sigmoid(pre[gate]), f = sigmoid(pre[gate + channels]);
        float o = sigmoid(pre[gate + 2 * channels]), g = tanhf(pre[gate + 3 * channels]);
        float c = f * c_prev[at] + i * g;
        c_next[at] = c;
        y[at] = o * tanhf(c);
        if (gates) {
            gates[gate] = i;
            gates[gate + channels] = f;
            gates[gate + 2 * channels] = o;
            gates[gate + 3 * channels] = g;
        }
    });
}

// In bf16, with the approximate functions that the fused cell uses on tensor cores.
extern "C" __global__ void __launch_bounds__(256)
    unfused_gates_bf16(const bf16* pre,       // [pixels, 4, channels]
                       const float* c_prev,   // [pixels, channels]
                       float* c_next,         // [pixels, channels]
                       bf16* __restrict__ y,  // [pixels, channels]
                       bf16* gates,           // [pixels, 4, channels] or null
                       long long pixels, int channels) {
    for_each_in_rows(pixels, channels, [=](long long pixel, int channel) {
        long long at = pixel * channels + channel, gate = pixel * 4 * channels + channel;
        float i = sigmoid_fast(load(pre + gate)), f = sigmoid_fast(load(pre + gate + channels));
        float o = sigmoid_fast(load(pre + gate + 2 * channels)), g = tanh_fast(load(pre + gate + 3 * channels));
        float c = f * c_prev[at] + i * g;
        c_next[at] = c;
        store(y + at, o * tanh_fast(c));
        if (gates) {
            store(gates + gate, i);
            store(gates + gate + channels, f);
            store(gates + gate + 2 * channels, o);
            store(gates + gate + 3 * channels, g);
        }
    });
}
