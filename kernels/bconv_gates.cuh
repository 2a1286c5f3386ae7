// Activations of a BConv-Cell's gates by type.
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
