#include "harness.h"
using namespace test;

static const float MEAN[3] = {0.485f, 0.456f, 0.406f}, STD[3] = {0.229f, 0.224f, 0.225f};
#define NORMAL MEAN[0], MEAN[1], MEAN[2], STD[0], STD[1], STD[2]

CASE(images) {
    const int n = 3, h = 7, w = 5;
    Buffer<unsigned char> pixels(n * h * w * 3);
    for (unsigned char& p : pixels.data) p = (unsigned char)below(256);
    Ints shift{0, 0, -2, 1, 3, -4}, mirror{1, 0, 1}, erase{0, 0, 0, 0, 2, 1, 3, 2, 5, 3, 2, 2};
    for (int augment = 0; augment < 2; augment++)
        for (int channels = 3; channels <= 4; channels++) {
            Doubles want;
            for (int i = 0; i < n; i++)
                for (int y = 0; y < h; y++)
                    for (int x = 0; x < w; x++)
                        for (int c = 0; c < channels; c++) {
                            int fy = y, fx = x;
                            bool inside = c < 3;
                            if (augment) {
                                fy = y + shift[2 * i];
                                fx = (mirror[i] ? w - 1 - x : x) + shift[2 * i + 1];
                                const int* box = &erase[4 * i];
                                inside &= fy >= 0 && fy < h && fx >= 0 && fx < w;
                                inside &= !(y >= box[0] && y < box[0] + box[2] && x >= box[1] && x < box[1] + box[3]);
                            }
                            want.push_back(inside ? ((double)pixels[((i * h + fy) * w + fx) * 3 + c] / 255 - MEAN[c]) / STD[c] : 0.0);
                        }
            Floats out(want.size());
            Halves half(want.size());
            const int *s = augment ? (int*)shift : nullptr, *m = augment ? (int*)mirror : nullptr, *e = augment ? (int*)erase : nullptr;
            RUN(prepare_images_f32, (Grid{1}), pixels, out, s, m, e, n, h, w, channels, NORMAL);
            RUN(prepare_images_bf16, (Grid{2}), pixels, half, s, m, e, n, h, w, channels, NORMAL);
            expect("f32", out, want, 1e-6, 1e-6);
            expect("bf16", half, want, 1e-6, BF16);
        }
}
