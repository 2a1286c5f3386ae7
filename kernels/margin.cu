// Margins between classes: z = scale·cos(θ) of each row and class becomes the logit of a cross-entropy. Forward and backward.
//
// Contract. Labels are below the number of classes. Every kernel overwrites its output, except a gradient where `accumulate` is not 0:
// this is added to. An output may be the same buffer as an input of the same type.
// launch: any grid of one dimension.

#include "common.cuh"

// What ArcFace makes of the cosine of the label, cos(θ + m), and its derivative. Beyond π, where the cosine would rise again, the cosine
// falls by m·sin(m) instead.
struct Arc {
    double cosine, slope;
};
DEVICE Arc add_angle(double cosine, float cos_margin, float sin_margin, float margin) {
    if (!(cosine > -cos_margin)) return {cosine - (double)margin * sin_margin, 1.0};
    double squared = 1.0 - cosine * cosine;
    // Rounding may make a cosine larger than 1.
    double sine = squared > 0.0 ? sqrt(squared) : 0.0;
    double slope = sine > 0.0 ? cos_margin + cosine * sin_margin / sine : cos_margin;
    return {cosine * cos_margin - sine * sin_margin, slope};
}

template <class T>
DEVICE void arc_margin(const T* z, const unsigned* labels, T* y, int n, int classes, float scale, float cos_margin,
                       float sin_margin, float margin) {
    for_each_in_rows(n, classes, [=](long long row, int c) {
        long long i = row * classes + c;
        float v = load(z + i);
        if (c == (int)labels[row]) v = (float)(scale * add_angle(v / (double)scale, cos_margin, sin_margin, margin).cosine);
        store(y + i, v);
    });
}

// y = scale·cos(θ + margin) for the label of the row, y = z for the others.
extern "C" __global__ void __launch_bounds__(256)
    arc_margin_f32(const float* z,                       // [n, classes]
                   const unsigned* __restrict__ labels,  // [n]
                   float* y,                             // [n, classes]
                   int n, int classes, float scale, float cos_margin, float sin_margin, float margin) {
    arc_margin(z, labels, y, n, classes, scale, cos_margin, sin_margin, margin);
}

extern "C" __global__ void __launch_bounds__(256)
    arc_margin_bf16(const bf16* z, const unsigned* __restrict__ labels, bf16* y, int n, int classes, float scale,
                    float cos_margin, float sin_margin, float margin) {
    arc_margin(z, labels, y, n, classes, scale, cos_margin, sin_margin, margin);
}

template <class T>
DEVICE void arc_margin_backward(const T* z, const unsigned* labels, const T* dy, T* dz, int n, int classes, float scale,
                                float cos_margin, float sin_margin, float margin, int accumulate) {
    for_each_in_rows(n, classes, [=](long long row, int c) {
        long long i = row * classes + c;
        double slope = 1.0;
        if (c == (int)labels[row]) slope = add_angle(load(z + i) / (double)scale, cos_margin, sin_margin, margin).slope;
        put(dz + i, (float)(slope * load(dy + i)), accumulate);
    });
}

extern "C" __global__ void __launch_bounds__(256)
    arc_margin_backward_f32(const float* z,                       // [n, classes]
                            const unsigned* __restrict__ labels,  // [n]
                            const float* dy,                      // [n, classes]
                            float* dz,                            // [n, classes]
                            int n, int classes, float scale, float cos_margin, float sin_margin, float margin, int accumulate) {
    arc_margin_backward(z, labels, dy, dz, n, classes, scale, cos_margin, sin_margin, margin, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    arc_margin_backward_bf16(const bf16* z, const unsigned* __restrict__ labels, const bf16* dy, bf16* dz, int n, int classes,
                             float scale, float cos_margin, float sin_margin, float margin, int accumulate) {
    arc_margin_backward(z, labels, dy, dz, n, classes, scale, cos_margin, sin_margin, margin, accumulate);
}

// The factor α of the circle loss: how far a cosine is from its optimum, 1 + m for the label and -m for others; at least 0. A comparison
// instead of fmaxf, so that NaN stays NaN.
DEVICE float circle_factor(float cosine, bool is_label, float margin) {
    float factor = is_label ? 1.0f + margin - cosine : cosine + margin;
    return factor < 0.0f ? 0.0f : factor;
}

template <class T>
DEVICE void circle_margin(const T* z, const unsigned* labels, T* y, int n, int classes, float scale, float margin) {
    for_each_in_rows(n, classes, [=](long long row, int c) {
        long long i = row * classes + c;
        bool is_label = c == (int)labels[row];
        float cosine = load(z + i) / scale;
        store(y + i, scale * circle_factor(cosine, is_label, margin) * (cosine - (is_label ? 1.0f - margin : margin)));
    });
}

// y = scale·α·(cos θ - Δ): Δ = 1 - margin for the label of the row, margin for the others.
extern "C" __global__ void __launch_bounds__(256)
    circle_margin_f32(const float* z,                       // [n, classes]
                      const unsigned* __restrict__ labels,  // [n]
                      float* y,                             // [n, classes]
                      int n, int classes, float scale, float margin) {
    circle_margin(z, labels, y, n, classes, scale, margin);
}

extern "C" __global__ void __launch_bounds__(256)
    circle_margin_bf16(const bf16* z, const unsigned* __restrict__ labels, bf16* y, int n, int classes, float scale,
                       float margin) {
    circle_margin(z, labels, y, n, classes, scale, margin);
}

template <class T>
DEVICE void circle_margin_backward(const T* z, const unsigned* labels, const T* dy, T* dz, int n, int classes, float scale,
                                   float margin, int accumulate) {
    for_each_in_rows(n, classes, [=](long long row, int c) {
        long long i = row * classes + c;
        put(dz + i, circle_factor(load(z + i) / scale, c == (int)labels[row], margin) * load(dy + i), accumulate);
    });
}

// dz = α·dy: α counts as a constant.
extern "C" __global__ void __launch_bounds__(256)
    circle_margin_backward_f32(const float* z,                       // [n, classes]
                               const unsigned* __restrict__ labels,  // [n]
                               const float* dy,                      // [n, classes]
                               float* dz,                            // [n, classes]
                               int n, int classes, float scale, float margin, int accumulate) {
    circle_margin_backward(z, labels, dy, dz, n, classes, scale, margin, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    circle_margin_backward_bf16(const bf16* z, const unsigned* __restrict__ labels, const bf16* dy, bf16* dz, int n,
                                int classes, float scale, float margin, int accumulate) {
    circle_margin_backward(z, labels, dy, dz, n, classes, scale, margin, accumulate);
}
