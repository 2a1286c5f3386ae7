// The gates of a BConv-Cell without its convolution: their activations and the step of the latent state where another kernel or library
// has written the pre-activations, and their gradients for every cell.
//
// Contract of bconv_apply_gates_*. Overwrites c_next, y and, unless it is null, gates (the activated gates, for backward). gates may be the
// same buffer as pre, and c_prev the same as c_next; nothing else may overlap.
// In bf16, pre-activations were rounded to bf16 when they were written, which the fused cell does not do.

#include "bconv_gates.cuh"

// [i f o g] = pre;  c_next = σ(f)·c_prev + σ(i)·tanh(g);  y = σ(o)·tanh(c_next)
template <class T>
DEVICE void apply_gates(const T* pre, const float* c_prev, float* c_next, T* y, T* gates, long long pixels, int channels) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(pre, c_prev, c_next, y, gates), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_rows(pixels, channels / N, [=](long long pixel, int part) {
            long long at = pixel * channels + part * N, first = pixel * 4 * channels + part * N;
            Vec<N> gate[4], before = load_vec<N>(c_prev + at), state, out;
#pragma unroll
            for (int k = 0; k < 4; k++) gate[k] = load_vec<N>(pre + first + k * channels);
#pragma unroll
            for (int e = 0; e < N; e++) {
#pragma unroll
                for (int k = 0; k < 3; k++) gate[k][e] = Activations<T>::sigmoid_of(gate[k][e]);
                gate[3][e] = Activations<T>::tanh_of(gate[3][e]);
                state[e] = gate[1][e] * before[e] + gate[0][e] * gate[3][e];
                out[e] = gate[2][e] * Activations<T>::tanh_of(state[e]);
            }
            store_vec(c_next + at, state);
            store_vec(y + at, out);
            if (!gates) return;
            // The pointer moves, because nvcc 13.0 would split the wide stores at offsets of 2·channels and 3·channels.
            T* to = gates + first;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                store_vec(to, gate[k]);
                to += channels;
            }
        });
    });
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    bconv_apply_gates_f32(const float* pre,       // [pixels, 4, channels]
                          const float* c_prev,    // [pixels, channels]
                          float* c_next,          // [pixels, channels]
                          float* __restrict__ y,  // [pixels, channels]
                          float* gates,           // [pixels, 4, channels] or null
                          long long pixels, int channels) {
    apply_gates(pre, c_prev, c_next, y, gates, pixels, channels);
}

// The same for pre-activations, y and gates in bf16. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    bconv_apply_gates_bf16(const bf16* pre, const float* c_prev, float* c_next, bf16* __restrict__ y, bf16* gates, long long pixels,
                           int channels) {
    apply_gates(pre, c_prev, c_next, y, gates, pixels, channels);
}

// Turns activated gates [pixels, i f o g, channels] into the gradients of their pre-activations, in place. With
// c = f·c_prev + i·g and dc = dy·o·(1 - tanh²c): di = dc·g·i(1-i), df = dc·c_prev·f(1-f), do = dy·tanh(c)·o(1-o),
// dg = dc·i·(1-g²).
// dc_next, unless it is null, is the gradient of c by the step that follows, which is added to dc. dc_prev, unless it is null, becomes the
// gradient of c_prev, dc·f; it may be the same buffer as dc_next.
template <class T>
DEVICE void gate_gradients(T* gates, const float* c_prev, const T* dy, const float* dc_next, float* dc_prev, long long pixels, int channels) {
    by_width<VEC<T>>(channels % VEC<T> == 0 && aligned_16(gates, c_prev, dy, dc_next, dc_prev), [=](auto by) {
        constexpr int N = decltype(by)::VALUE;
        for_each_in_rows(pixels, channels / N, [=](long long pixel, int part) {
            long long at = pixel * channels + part * N;
            T* gate = gates + pixel * 4 * channels + part * N;
            Vec<N> i = load_vec<N>(gate), f = load_vec<N>(gate + channels), o = load_vec<N>(gate + 2 * channels);
            Vec<N> g = load_vec<N>(gate + 3 * channels), before = load_vec<N>(c_prev + at), d = load_vec<N>(dy + at);
            Vec<N> grads[4], carried{};
            if (dc_next) carried = load_vec<N>(dc_next + at);
#pragma unroll
            for (int e = 0; e < N; e++) {
                float t = Activations<T>::tanh_of(f[e] * before[e] + i[e] * g[e]), dc = d[e] * o[e] * (1.0f - t * t) + carried[e];
                grads[0][e] = dc * g[e] * i[e] * (1.0f - i[e]);
                grads[1][e] = dc * before[e] * f[e] * (1.0f - f[e]);
                grads[2][e] = d[e] * t * o[e] * (1.0f - o[e]);
                grads[3][e] = dc * i[e] * (1.0f - g[e] * g[e]);
                carried[e] = dc * f[e];
            }
            if (dc_prev) store_vec(dc_prev + at, carried);
            // The pointer moves, because nvcc 13.0 would split the wide stores at gate + 2·channels and gate + 3·channels.
#pragma unroll
            for (int k = 0; k < 4; k++) {
                store_vec(gate, grads[k]);
                gate += channels;
            }
        });
    });
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    bconv_gate_gradients_f32(float* __restrict__ gates,         // [pixels, 4, channels]
                             const float* __restrict__ c_prev,  // [pixels, channels]
                             const float* __restrict__ dy,      // [pixels, channels]
                             const float* dc_next,              // [pixels, channels] or null
                             float* dc_prev,                    // [pixels, channels] or null
                             long long pixels, int channels) {
    gate_gradients(gates, c_prev, dy, dc_next, dc_prev, pixels, channels);
}

// The same for gates and dy in bf16. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    bconv_gate_gradients_bf16(bf16* __restrict__ gates, const float* __restrict__ c_prev, const bf16* __restrict__ dy,
                              const float* dc_next, float* dc_prev, long long pixels, int channels) {
    gate_gradients(gates, c_prev, dy, dc_next, dc_prev, pixels, channels);
}
