// The pixels that the rows of a tile stand for, for the main loops of all convolutions.
//
// Pixels are numbered from the first pixel of the first image to the last of the last image; there are fewer than 2^31. The place
// of a row is the pixel that tap (0, 0) reads in the gathered image, as int4(n·height, y, x, unused).
#pragma once

#include "common.cuh"
#include "conv_sizes.h"

// The y of a row that is no pixel: far outside any image, whichever tap is added.
const int NO_PIXEL = -(1 << 29);

// Sets places[r] = place(first + r) for the `rows` rows of a block, no more than its threads, then waits for all threads.
template <class F> DEVICE void fill_places(int4* places, int rows, long long first, long long count, F place) {
    if ((int)threadIdx.x < rows) {
        long long pixel = first + threadIdx.x;
        places[threadIdx.x] = pixel < count ? place((int)pixel) : make_int4(0, NO_PIXEL, 0, 0);
    }
    __syncthreads();
}

// Forward: a row is an output pixel, its place is in the input.
DEVICE int4 forward_place(int pixel, const ConvSizes& conv) {
    int out_row = pixel / conv.out_w, n = out_row / conv.out_h;
    return make_int4(n * conv.in_h, (out_row - n * conv.out_h) * conv.stride_y - conv.padding_y,
                     (pixel - out_row * conv.out_w) * conv.stride_x - conv.padding_x, 0);
}

// Gradient of the input. A stride phase is the input pixels (phase_y, phase_x) + stride·(0, 1, ...), and the taps that reach them
// are (tap_y, tap_x) + stride·(0, 1, ...). A row is an input pixel of the phase, its place is the output pixel that the first tap
// reads.
struct StridePhase {
    int phase_y, phase_x, height, width;  // pixels of the phase in each image: height·width
    int tap_y, tap_x, taps_y, taps_x;
    int shift_y, shift_x;  // added to a pixel's y and x within the phase, gives the output's

    // The phase whose first tap is number `tap` of those below the stride. Number 0 has the most taps, and so the most work.
    METHOD StridePhase(int tap, const ConvSizes& conv) {
        tap_y = tap / conv.stride_x, tap_x = tap - tap_y * conv.stride_x;
        phase_y = first_pixel(tap_y, conv.padding_y, conv.stride_y), phase_x = first_pixel(tap_x, conv.padding_x, conv.stride_x);
        height = count_from(phase_y, conv.in_h, conv.stride_y), width = count_from(phase_x, conv.in_w, conv.stride_x);
        taps_y = count_from(tap_y, conv.kernel_h, conv.stride_y), taps_x = count_from(tap_x, conv.kernel_w, conv.stride_x);
        shift_y = (phase_y + conv.padding_y - tap_y) / conv.stride_y;
        shift_x = (phase_x + conv.padding_x - tap_x) / conv.stride_x;
    }
    // The first pixel that a tap reaches: the smallest p with (p + padding) % stride == tap.
    static METHOD int first_pixel(int tap, int padding, int stride) { return (tap + stride - padding % stride) % stride; }
    // How many of first, first + stride, ... are below `end`.
    static METHOD int count_from(int first, int end, int stride) { return first < end ? ceil_div(end - first, stride) : 0; }

    METHOD int4 place(int pixel, int out_h) const {
        int line = pixel / width, image = line / height;
        return make_int4(image * out_h, line - image * height + shift_y, pixel - line * width + shift_x, 0);
    }
    // The number of the phase's pixel in [n, in_h, in_w].
    METHOD long long input_pixel(int pixel, const ConvSizes& conv) const {
        int line = pixel / width, image = line / height;
        int along_y = line - image * height, along_x = pixel - line * width;
        return ((long long)image * conv.in_h + phase_y + along_y * conv.stride_y) * conv.in_w + phase_x + along_x * conv.stride_x;
    }
};
