// BConv-Cell forward on tensor cores. In bf16, activations and saved gates are bf16; in tf32, all is f32 in memory. Sums and the
// latent state are f32 in both. Formulas, sizes and contract are those of bconv_f32.cu, except that the weights come packed by
// pack_gates_*, which must run again after each change of the weights.
//
// A block's 128 columns are 32 channels with their four gates, a warp's 64 columns are 16 channels. The columns are arranged so
// that a thread holds all four gates of four consecutive channels: of a warp's eight blocks of 8 columns, block j holds gate j%4;
// its columns 2q and 2q + 1 (those of the lanes with l%4 = q) are the channels 4q + 2·(j/4) and the next one.
//
// bconv_gates.cuh has the activation functions of both types.

#include "bconv_gates.cuh"
#include "implicit_gemm_mma.cuh"

// The gate of column `column` of a block's 128, and its channel among the block's 32.
DEVICE int packed_gate(int column) { return column % 64 / 8 % 4; }
DEVICE int packed_channel(int column) { return column / 64 * 16 + column % 8 / 2 * 4 + column % 64 / 32 * 2 + column % 2; }

template <class Pixels, class T>
DEVICE void pack_gates(const float* weight, T* packed, ConvSizes conv) {
    const int taps = conv.kernel_h * conv.kernel_w, channels = cell_channels(conv);
    const int depth = Mma<T>::DEPTH, steps = Pixels::steps(taps, conv.in_c);
    long long count = (long long)ceil_div(channels, 32) * steps * MMA_COLUMNS * depth;
    for (long long i = global_index(); i < count; i += global_size()) {
        int k = (int)(i % depth), column = (int)(i / depth % MMA_COLUMNS);
        int step = (int)(i / depth / MMA_COLUMNS), block = step / steps;
        int row = Pixels::depth_at(step % steps, k, taps, conv.in_c), channel = block * 32 + packed_channel(column);
        bool inside = row >= 0 && channel < channels;
        long long from = (long long)row * 4 * channels + packed_gate(column) * channels + channel;
        packed[i] = Mma<T>::rounded(inside ? weight[from] : 0.0f);
    }
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    pack_gates_bf16(const float* __restrict__ weight,  // [taps, in_c, 4·channels], columns i f o g
                    bf16* __restrict__ packed,         // [ceil(channels / 32), taps, ceil(in_c / 32), 128, 32]
                    ConvSizes conv) {
    pack_gates<MmaPixels<bf16>>(weight, packed, conv);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_gates_tf32(const float* __restrict__ weight,
                    float* __restrict__ packed,  // [ceil(channels / 32), taps, ceil(in_c / 16), 128, 16]
                    ConvSizes conv) {
    pack_gates<MmaPixels<float>>(weight, packed, conv);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_gates_dense_bf16(const float* __restrict__ weight,
                          bf16* __restrict__ packed,  // [ceil(channels / 32), ceil(taps·in_c / 32), 128, 32]
                          ConvSizes conv) {
    pack_gates<MmaDensePixels<bf16>>(weight, packed, conv);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_gates_dense_tf32(const float* __restrict__ weight,
                          float* __restrict__ packed,  // [ceil(channels / 32), ceil(taps·in_c / 16), 128, 16]
                          ConvSizes conv) {
    pack_gates<MmaDensePixels<float>>(weight, packed, conv);
}

// Loads or stores four consecutive channels, of which `live` exist; all four at once where `aligned`.
DEVICE void load_four(const float* p, float (&v)[4], int live, bool aligned) {
    if (aligned) {
        float4 q = *(const float4*)p;
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = i < live ? p[i] : 0.0f;
    }
}
DEVICE void store_four(float* p, const float (&v)[4], int live, bool aligned) {
    if (aligned) {
        *(float4*)p = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < live) p[i] = v[i];
    }
}
DEVICE void store_four(bf16* p, const float (&v)[4], int live, bool aligned) {
    if (aligned) {
        *(uint2*)p = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < live) store(p + i, v[i]);
    }
}

template <class Pixels, class T>
DEVICE void bconv_forward_mma(const T* x, const T* packed, const float* c_prev, float* c_next, T* y, T* gates, ConvSizes conv) {
    DYNAMIC_SHARED(shared);
    const int channels = cell_channels(conv);
    long long count = (long long)conv.n * conv.out_h * conv.out_w;
    MmaPlaces places((long long)blockIdx.x * MMA_ROWS, count, [=](int pixel) { return forward_place(pixel, conv); });

    int steps = Pixels::steps(conv.kernel_h * conv.kernel_w, conv.in_c);
    Pixels a = Pixels::forward(x, conv, places);
    float acc[4][8][4] = {};
    multiply_mma(acc, shared, a, packed + (long long)blockIdx.y * steps * MMA_COLUMNS * Mma<T>::DEPTH, steps);

    int channel = blockIdx.y * 32 + threadIdx.x / 32 % 2 * 16 + threadIdx.x % 4 * 4;
    int live = min(4, channels - channel);
    bool aligned = live == 4 && channels % 4 == 0;
    if (live <= 0) return;
    // All states before the first store: c_next may be c_prev as far as the compiler knows, so each load would wait for the stores before.
    float before[8][4] = {};
#pragma unroll
    for (int part = 0; part < 8; part++) {
        long long pixel = (long long)blockIdx.x * MMA_ROWS + mma_row(part / 2, part % 2 * 2);
        if (pixel < count) load_four(c_prev + pixel * channels + channel, before[part], live, aligned);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            long long pixel = (long long)blockIdx.x * MMA_ROWS + mma_row(i, half * 2);
            if (pixel >= count) continue;
            long long at = pixel * channels + channel;
            float state[4], out[4], activated[4][4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                // Channel e is in the blocks of 8 columns 4·(e/2) + gate, in the lane's column e%2.
                const int block = e / 2 * 4, element = half * 2 + e % 2;
                float iv = Activations<T>::sigmoid_of(acc[i][block][element]);
                float fv = Activations<T>::sigmoid_of(acc[i][block + 1][element]);
                float ov = Activations<T>::sigmoid_of(acc[i][block + 2][element]);
                float gv = Activations<T>::tanh_of(acc[i][block + 3][element]);
                state[e] = fv * before[i * 2 + half][e] + iv * gv;
                out[e] = ov * Activations<T>::tanh_of(state[e]);
                activated[0][e] = iv, activated[1][e] = fv, activated[2][e] = ov, activated[3][e] = gv;
            }
            store_four(c_next + at, state, live, aligned);
            store_four(y + at, out, live, aligned);
            if (gates) {
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    store_four(gates + (pixel * 4 + gate) * channels + channel, activated[gate], live, aligned);
            }
        }
}

// launch: grid (ceil(n·out_h·out_w / 128), ceil(channels / 32)), dynamic shared memory 49152
extern "C" __global__ void __launch_bounds__(128, 2)
    bconv_forward_bf16(const bf16* __restrict__ x,       // [n, in_h, in_w, in_c]
                       const bf16* __restrict__ packed,  // by pack_gates_bf16
                       const float* c_prev,              // [n, out_h, out_w, channels]
                       float* c_next,                    // [n, out_h, out_w, channels]
                       bf16* __restrict__ y,             // [n, out_h, out_w, channels]
                       bf16* __restrict__ gates,         // [n, out_h, out_w, 4, channels] or null
                       ConvSizes conv) {                 // out_c = 4·channels
    bconv_forward_mma<MmaPixels<bf16>>(x, packed, c_prev, c_next, y, gates, conv);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    bconv_forward_tf32(const float* __restrict__ x, const float* __restrict__ packed, const float* c_prev, float* c_next,
                       float* __restrict__ y, float* __restrict__ gates, ConvSizes conv) {
    bconv_forward_mma<MmaPixels<float>>(x, packed, c_prev, c_next, y, gates, conv);
}

// The same for few input channels, with weights packed by pack_gates_dense_*. With 3 channels, a step of MmaPixels would hold 3
// numbers and 29 zeros.
extern "C" __global__ void __launch_bounds__(128, 2)
    bconv_forward_dense_bf16(const bf16* __restrict__ x, const bf16* __restrict__ packed, const float* c_prev,
                             float* c_next, bf16* __restrict__ y, bf16* __restrict__ gates, ConvSizes conv) {
    bconv_forward_mma<MmaDensePixels<bf16>>(x, packed, c_prev, c_next, y, gates, conv);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    bconv_forward_dense_tf32(const float* __restrict__ x, const float* __restrict__ packed, const float* c_prev,
                             float* c_next, float* __restrict__ y, float* __restrict__ gates, ConvSizes conv) {
    bconv_forward_mma<MmaDensePixels<float>>(x, packed, c_prev, c_next, y, gates, conv);
}
