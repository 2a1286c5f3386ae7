// Turns a batch of decoded images into network input: shifts, mirrors, normalises and erases in one pass; then mixes pairs of
// images.
//
// Contract. Reads pixels [n, h, w, 3] as bytes and overwrites out [n, h, w, out_channels]. out_channels is at least 3; channels
// from the fourth on are 0, for convolutions that want aligned pixels. The augmentation of each image is in tables, each of which
// may be null: shift [n, 2] (the y and x in the image at which its crop starts), mirror [n] (1 mirrors the crop), erase [n, 4]
// (top, left, height, width of a rectangle of the result). Pixels outside the image and erased ones become 0, the mean colour.
// In f32 the bits are those of the CPU (src/data/augment/params.rs), as long as nvcc divides exactly (no --use_fast_math).
// launch: any grid of one dimension

#include "common.cuh"

template <class T>
DEVICE void prepare_images(const unsigned char* pixels, T* out, const int* shift, const int* mirror, const int* erase, int n,
                           int h, int w, int out_channels, const float (&mean)[3], const float (&std)[3]) {
    for_each_in_rows((long long)n * h, w, [=](long long line, int x) {
        int image = (int)line / h, y = (int)line - image * h;
        int from_y = y + (shift ? shift[2 * image] : 0);
        int from_x = (mirror && mirror[image] ? w - 1 - x : x) + (shift ? shift[2 * image + 1] : 0);
        bool inside = (unsigned)from_y < (unsigned)h && (unsigned)from_x < (unsigned)w;
        if (erase) {
            const int* box = erase + 4 * image;
            inside = inside && !((unsigned)(y - box[0]) < (unsigned)box[2] && (unsigned)(x - box[1]) < (unsigned)box[3]);
        }
        const unsigned char* pixel = pixels + (((long long)image * h + from_y) * w + from_x) * 3;
        T* to = out + (line * w + x) * out_channels;
#pragma unroll
        for (int c = 0; c < 3; c++) store(to + c, inside ? (pixel[c] / 255.0f - mean[c]) / std[c] : 0.0f);
        for (int c = 3; c < out_channels; c++) store(to + c, 0.0f);
    });
}

extern "C" __global__ void __launch_bounds__(256)
    prepare_images_f32(const unsigned char* __restrict__ pixels, float* __restrict__ out, const int* __restrict__ shift,
                       const int* __restrict__ mirror, const int* __restrict__ erase, int n, int h, int w,
                       int out_channels, float mean_r, float mean_g, float mean_b, float std_r, float std_g,
                       float std_b) {
    prepare_images(pixels, out, shift, mirror, erase, n, h, w, out_channels, {mean_r, mean_g, mean_b}, {std_r, std_g, std_b});
}

extern "C" __global__ void __launch_bounds__(256)
    prepare_images_bf16(const unsigned char* __restrict__ pixels, bf16* __restrict__ out, const int* __restrict__ shift,
                        const int* __restrict__ mirror, const int* __restrict__ erase, int n, int h, int w,
                        int out_channels, float mean_r, float mean_g, float mean_b, float std_r, float std_g,
                        float std_b) {
    prepare_images(pixels, out, shift, mirror, erase, n, h, w, out_channels, {mean_r, mean_g, mean_b}, {std_r, std_g, std_b});
}

// Mixes image i of images [n, h, w, channels] with image n - 1 - i in place, inside a rectangle (top, left, height, width) that is
// the same for all: image = own·image + (1 - own)·other. Mixup has the whole image as its rectangle, CutMix has own = 0. With an
// odd number of images the middle one stays as it is. A thread computes the same element of both images, with the fused
// multiply-add of src/data/augment/mix.rs.
// launch: any grid of one dimension
template <class T>
DEVICE void mix_images(T* images, int n, int h, int w, int channels, float own, int top, int left, int height, int width) {
    const int row = w * channels;
    const float rest = 1.0f - own;
    for_each_in_rows((long long)(n / 2) * h, row, [=](long long line, int at) {
        int image = (int)(line / h), y = (int)(line - (long long)image * h), x = at / channels;
        if ((unsigned)(y - top) >= (unsigned)height || (unsigned)(x - left) >= (unsigned)width) return;
        T* a = images + line * row + at;
        T* b = images + ((long long)(n - 1 - image) * h + y) * row + at;
        float of_a = load(a), of_b = load(b);
        store(a, fmaf(own, of_a, rest * of_b));
        store(b, fmaf(own, of_b, rest * of_a));
    });
}

extern "C" __global__ void __launch_bounds__(256)
    mix_images_f32(float* __restrict__ images, int n, int h, int w, int channels, float own, int top, int left, int height,
                   int width) {
    mix_images(images, n, h, w, channels, own, top, left, height, width);
}

extern "C" __global__ void __launch_bounds__(256)
    mix_images_bf16(bf16* __restrict__ images, int n, int h, int w, int channels, float own, int top, int left, int height,
                    int width) {
    mix_images(images, n, h, w, channels, own, top, left, height, width);
}
