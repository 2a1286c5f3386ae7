// BConv-Cell in f32: a convolution to four gates, and the latent state that they update, in one pass.
//   [i f o g] = conv(x, weight);  c_next = σ(f)·c_prev + σ(i)·tanh(g);  y = σ(o)·tanh(c_next)
// A tile's 64 columns are the four gates of 16 channels, so each thread holds all four gates of its channels, and the
// pre-activations never reach memory. Any kernel, stride, padding and number of channels.
//
// Contract. Overwrites c_next, y and, unless it is null, gates (the activated gates, for backward). c_prev and c_next may be the
// same buffer; nothing else may overlap. Backward: bconv_gate_gradients_f32 (bconv_gates.cu) turns `gates` into the
// gradients of the pre-activations; with these as dy, the gradients of x and weight are those of a convolution with 4·channels outputs
// (conv2d_f32.cu).

#include "bconv_gates.cuh"
#include "implicit_gemm_f32.cuh"

// launch: grid (ceil(n·out_h·out_w / 128), ceil(channels / 16))
extern "C" __global__ void __launch_bounds__(128)
    bconv_forward_f32(const float* __restrict__ x,       // [n, in_h, in_w, in_c]
                      const float* __restrict__ weight,  // [kernel_h, kernel_w, in_c, 4·channels], columns i f o g
                      const float* c_prev,               // [n, out_h, out_w, channels]
                      float* c_next,                     // [n, out_h, out_w, channels]
                      float* __restrict__ y,             // [n, out_h, out_w, channels]
                      float* __restrict__ gates,         // [n, out_h, out_w, 4, channels] or null
                      ConvSizes conv) {                  // out_c = 4·channels
    SHARED(int4, places, [TILE_ROWS]);
    const int channels = cell_channels(conv);
    long long count = (long long)conv.n * conv.out_h * conv.out_w;
    fill_places(places, TILE_ROWS, (long long)blockIdx.x * TILE_ROWS, count, [=](int pixel) { return forward_place(pixel, conv); });

    int depth = conv.kernel_h * conv.kernel_w * conv.in_c, first_channel = blockIdx.y * (TILE_COLUMNS / 4);
    PixelRows a{x, conv.in_h, conv.in_w, conv.in_c, conv.kernel_h, conv.kernel_w, 1, places};
    // Column 4·c + gate of the tile is channel c of the gate.
    int column = threadIdx.x % TILE_COLUMNS, loaded = first_channel + column / 4;
    const float* loaded_column = loaded < channels ? weight + (column % 4) * channels + loaded : nullptr;
    MatrixColumn b{loaded_column, conv.out_c, 0, depth};
    float acc[8][8] = {};
    multiply_tile(acc, depth, a, b);

#pragma unroll
    for (int row = 0; row < 8; row++) {
        long long pixel = (long long)blockIdx.x * TILE_ROWS + tile_row(row);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int channel = first_channel + tile_column(4 * half) / 4;
            if (pixel >= count || channel >= channels) continue;
            float i = sigmoid(acc[row][4 * half]), f = sigmoid(acc[row][4 * half + 1]);
            float o = sigmoid(acc[row][4 * half + 2]), g = tanhf(acc[row][4 * half + 3]);
            long long at = pixel * channels + channel;
            float c = f * c_prev[at] + i * g;
            c_next[at] = c;
            y[at] = o * tanhf(c);
            if (gates) {
                float* out = gates + pixel * 4 * channels + channel;
                out[0] = i;
                out[channels] = f;
                out[2 * channels] = o;
                out[3 * channels] = g;
            }
        }
    }
}
