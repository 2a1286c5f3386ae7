// Centre loss with its gradient, Σ |f - center of its label|² / 2n, and the centres, which get no gradient and follow the features.
//
// Contract. Labels are below the number of classes. Every kernel overwrites its output, except a gradient where `accumulate` is not 0:
// this is added to. move_centers changes the centres in place. Sums are in double precision, in a fixed order.
// Order: center_loss, sum_terms(terms, n, 2n) of loss.cu; backward: center_loss_backward; then move_centers.

#include "common.cuh"

template <class T>
DEVICE void center_loss(const T* features, const unsigned* labels, const float* centers, double* terms, int dim) {
    const T* f = features + (long long)blockIdx.x * dim;
    const float* center = centers + (long long)labels[blockIdx.x] * dim;
    double sum = 0.0;
    for (int k = threadIdx.x; k < dim; k += 256) {
        double d = (double)load(f + k) - (double)center[k];
        sum += d * d;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) terms[blockIdx.x] = sum;
}

// terms[i] = |features[i] - center|². launch: grid (n)
extern "C" __global__ void __launch_bounds__(256)
    center_loss_f32(const float* __restrict__ features,   // [n, dim]
                    const unsigned* __restrict__ labels,  // [n]
                    const float* __restrict__ centers,    // [classes, dim]
                    double* __restrict__ terms,           // [n]
                    int dim) {
    center_loss(features, labels, centers, terms, dim);
}

extern "C" __global__ void __launch_bounds__(256)
    center_loss_bf16(const bf16* __restrict__ features, const unsigned* __restrict__ labels,
                     const float* __restrict__ centers, double* __restrict__ terms, int dim) {
    center_loss(features, labels, centers, terms, dim);
}

template <class T>
DEVICE void center_loss_backward(const T* features, const unsigned* labels, const float* centers, const float* dloss,
                                 T* dfeatures, int n, int dim, int accumulate) {
    double scale = (double)dloss[0] / n;
    for_each_in_rows(n, dim, [=](long long row, int k) {
        double d = (double)load(features + row * dim + k) - (double)centers[(long long)labels[row] * dim + k];
        put(dfeatures + row * dim + k, (float)(d * scale), accumulate);
    });
}

// dfeatures = (features - center)·dloss/n. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    center_loss_backward_f32(const float* __restrict__ features,   // [n, dim]
                             const unsigned* __restrict__ labels,  // [n]
                             const float* __restrict__ centers,    // [classes, dim]
                             const float* __restrict__ dloss,      // [1]
                             float* __restrict__ dfeatures,        // [n, dim]
                             int n, int dim, int accumulate) {
    center_loss_backward(features, labels, centers, dloss, dfeatures, n, dim, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    center_loss_backward_bf16(const bf16* __restrict__ features, const unsigned* __restrict__ labels,
                              const float* __restrict__ centers, const float* __restrict__ dloss,
                              bf16* __restrict__ dfeatures, int n, int dim, int accumulate) {
    center_loss_backward(features, labels, centers, dloss, dfeatures, n, dim, accumulate);
}

template <class T>
DEVICE void move_centers(float* centers, const T* features, const unsigned* labels, int n, int dim, float rate) {
    int k = blockIdx.x * 256 + threadIdx.x, i = blockIdx.y;
    unsigned label = labels[i];
    for (int j = 0; j < i; j++)
        if (labels[j] == label) return;
    if (k >= dim) return;
    float* center = centers + (long long)label * dim + k;
    double old = *center, sum = 0.0;
    int images = 0;
    for (int j = i; j < n; j++) {
        if (labels[j] != label) continue;
        sum += old - (double)load(features + (long long)j * dim + k);
        images++;
    }
    *center = (float)(old - (double)rate / (1 + images) * sum);
}

// center -= rate·Σ (center - feature) / (1 + count), over the images of its label. The block of the first image of a label works for all.
// launch: grid (ceil(dim / 256), n)
extern "C" __global__ void __launch_bounds__(256)
    move_centers_f32(float* __restrict__ centers,          // [classes, dim]
                     const float* __restrict__ features,   // [n, dim]
                     const unsigned* __restrict__ labels,  // [n]
                     int n, int dim, float rate) {
    move_centers(centers, features, labels, n, dim, rate);
}

extern "C" __global__ void __launch_bounds__(256)
    move_centers_bf16(float* __restrict__ centers, const bf16* __restrict__ features, const unsigned* __restrict__ labels,
                      int n, int dim, float rate) {
    move_centers(centers, features, labels, n, dim, rate);
}
