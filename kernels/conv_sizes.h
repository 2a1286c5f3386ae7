// The sizes of a convolution, as kernels take them: by value. The build script writes the same struct in Rust from this text.
#pragma once

struct ConvSizes {
    int n, in_h, in_w, in_c;     // input [n, in_h, in_w, in_c]
    int out_h, out_w, out_c;     // output [n, out_h, out_w, out_c]
    int kernel_h, kernel_w;      // weight [kernel_h, kernel_w, in_c, out_c]
    int stride_y, stride_x, padding_y, padding_x;
};
static_assert(sizeof(ConvSizes) == 52, "the size that src/engine/device/kernels.rs expects");
