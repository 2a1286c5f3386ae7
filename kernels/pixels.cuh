// Which pixels the rows of a tile stand for; all main loops share it.
//
// Pixels are numbered through all images; there are fewer than 2^31. A place is what the gather of a row needs of the image
// that is read, int4(n·height, y, x, -): the pixel under tap (0, 0).
#pragma once

#include "common.cuh"

// The y of a row that is no pixel: far outside of any image, whatever tap is added.
const int NO_PIXEL = -(1 << 29);

// places[r] = place(first + r) for a block's `rows` rows, no more than threads; behind a barrier.
template <class F> DEVICE void fill_places(int4* places, int rows, long long first, long long count, F place) {
    if ((int)threadIdx.x < rows) {
        long long pixel = first + threadIdx.x;
        places[threadIdx.x] = pixel < count ? place((int)pixel) : make_int4(0, NO_PIXEL, 0, 0);
    }
    __syncthreads();
}

// Forward: rows are output pixels, places those of the input.
DEVICE int4 forward_place(int pixel, int in_h, int out_h, int out_w, int stride_y, int stride_x, int padding_y,
                          int padding_x) {
    int out_row = pixel / out_w, n = out_row / out_h;
    return make_int4(n * in_h, (out_row - n * out_h) * stride_y - padding_y, (pixel - out_row * out_w) * stride_x - padding_x, 0);
}

// Gradient of the input: rows are the input pixels phase + stride·(0, 1, ...) of one stride phase, places those of the output
// under the phase's first tap; the taps that reach them are tap + stride·(0, 1, ...).
struct StridePhase {
    int phase_y, phase_x, height, width;  // pixels of the phase in each image: height·width
    int tap_y, tap_x, taps_y, taps_x;
    int shift_y, shift_x;  // from a pixel's number along the phase to the output's y and x

    METHOD StridePhase(int phase, int in_h, int in_w, int kernel_h, int kernel_w, int stride_y, int stride_x, int padding_y,
                       int padding_x) {
        phase_y = phase / stride_x, phase_x = phase - phase_y * stride_x;
        height = count_from(phase_y, in_h, stride_y), width = count_from(phase_x, in_w, stride_x);
        tap_y = (phase_y + padding_y) % stride_y, tap_x = (phase_x + padding_x) % stride_x;
        taps_y = count_from(tap_y, kernel_h, stride_y), taps_x = count_from(tap_x, kernel_w, stride_x);
        shift_y = (phase_y + padding_y - tap_y) / stride_y, shift_x = (phase_x + padding_x - tap_x) / stride_x;
    }
    // How many of first, first + stride, ... lie below `end`.
    static METHOD int count_from(int first, int end, int stride) { return first < end ? ceil_div(end - first, stride) : 0; }

    METHOD int4 place(int pixel, int out_h) const {
        int line = pixel / width, image = line / height;
        return make_int4(image * out_h, line - image * height + shift_y, pixel - line * width + shift_x, 0);
    }
    // The pixel's number in [n, in_h, in_w].
    METHOD long long input_pixel(int pixel, int in_h, int in_w, int stride_y, int stride_x) const {
        int line = pixel / width, image = line / height;
        int along_y = line - image * height, along_x = pixel - line * width;
        return ((long long)image * in_h + phase_y + along_y * stride_y) * in_w + phase_x + along_x * stride_x;
    }
};
