#include "harness.h"
using namespace test;

static const float MEAN[3] = {0.485f, 0.456f, 0.406f}, STD[3] = {0.229f, 0.224f, 0.225f};
#define NORMAL MEAN[0], MEAN[1], MEAN[2], STD[0], STD[1], STD[2]

// As src/data/augment/params.rs does it, in the same arithmetic: crops the image, mirrors the crop, erases from the result.
static Floats augmented(const Buffer<unsigned char>& pixels, const Ints& shift, const Ints& mirror, const Ints& erase, int n, int h,
                        int w, int channels) {
    Floats out(n * h * w * channels);
    for (float& v : out.data) v = 0.0f;
    for (int i = 0; i < n; i++) {
        auto at = [&](int y, int x) { return &out[((i * h + y) * w + x) * channels]; };
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                int from_y = y + shift[2 * i], from_x = x + shift[2 * i + 1];
                if (from_y < 0 || from_y >= h || from_x < 0 || from_x >= w) continue;
                for (int c = 0; c < 3; c++) {
                    float v = (float)pixels[((i * h + from_y) * w + from_x) * 3 + c];
                    at(y, mirror[i] ? w - 1 - x : x)[c] = (v / 255.0f - MEAN[c]) / STD[c];
                }
            }
        const int* box = &erase[4 * i];
        for (int y = box[0]; y < box[0] + box[2]; y++)
            for (int x = box[1]; x < box[1] + box[3]; x++)
                for (int c = 0; c < 3; c++) at(y, x)[c] = 0.0f;
    }
    return out;
}

CASE(images) {
    const int n = 12, h = 7, w = 5, pad = 4;
    Buffer<unsigned char> pixels(n * h * w * 3);
    for (unsigned char& p : pixels.data) p = (unsigned char)below(256);
    // The first image stays as it is, the others are augmented at random.
    Ints shift(2 * n), mirror(n), erase(4 * n), none(4 * n);
    for (Ints* table : {&shift, &mirror, &erase, &none})
        for (int& v : table->data) v = 0;
    for (int i = 1; i < n; i++) {
        shift[2 * i] = (int)below(2 * pad + 1) - pad, shift[2 * i + 1] = (int)below(2 * pad + 1) - pad;
        mirror[i] = (int)below(2);
        if (i % 2 == 0) continue;
        int height = 1 + (int)below(h - 1), width = 1 + (int)below(w - 1);
        int box[4] = {(int)below(h - height + 1), (int)below(w - width + 1), height, width};
        for (int k = 0; k < 4; k++) erase[4 * i + k] = box[k];
    }
    for (int augment = 0; augment < 2; augment++)
        for (int channels = 3; channels <= 4; channels++) {
            Doubles want = values(augment ? augmented(pixels, shift, mirror, erase, n, h, w, channels)
                                          : augmented(pixels, none, none, none, n, h, w, channels));
            Floats out(want.size());
            Halves half(want.size());
            const int *s = augment ? (int*)shift : nullptr, *m = augment ? (int*)mirror : nullptr, *e = augment ? (int*)erase : nullptr;
            RUN(prepare_images_f32, (Grid{1}), pixels, out, s, m, e, n, h, w, channels, NORMAL);
            RUN(prepare_images_bf16, (Grid{2}), pixels, half, s, m, e, n, h, w, channels, NORMAL);
            expect_exact("f32", out, want);
            expect("bf16", half, want, 1e-6, BF16);
        }
}

// Inside the rectangle each image becomes own·image + (1 - own)·partner; the middle one stays as it is.
CASE(mixed_images) {
    const int h = 7, w = 5;
    struct { float own; int top, left, height, width; } cases[] = {
        {0.3f, 0, 0, h, w}, {1.0f, 0, 0, h, w}, {0.0f, 2, 1, 5, 3}, {0.0f, 0, 4, 1, 1}, {0.0f, 3, 3, 0, 0}};
    for (int n : {1, 2, 5})
        for (int channels = 3; channels <= 4; channels++)
            for (auto& c : cases) {
                const int len = h * w * channels;
                Floats images = random_floats(n * len);
                Halves half = random_halves(n * len);
                Doubles want = values(images), want_half = values(half);
                for (int i = 0; i < n; i++)
                    for (int y = c.top; y < c.top + c.height; y++)
                        for (int at = c.left * channels; at < (c.left + c.width) * channels; at++) {
                            int own = i * len + y * w * channels + at, other = (n - 1 - i) * len + y * w * channels + at;
                            if (own == other) continue;
                            auto mixed = [&](float a, float b) { return fmaf(c.own, a, (1.0f - c.own) * b); };
                            want[own] = mixed(images[own], images[other]);
                            want_half[own] = mixed(load(&half[own]), load(&half[other]));
                        }
                RUN(mix_images_f32, (Grid{1}), images, n, h, w, channels, c.own, c.top, c.left, c.height, c.width);
                RUN(mix_images_bf16, (Grid{2}), half, n, h, w, channels, c.own, c.top, c.left, c.height, c.width);
                expect_exact("f32", images, want);
                expect("bf16", half, want_half, 1e-6, BF16);
            }
}
