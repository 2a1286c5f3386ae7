// Losses with their gradients: softmax cross-entropy with label smoothing, and the batch-hard triplet loss. Also counts correct
// answers.
//
// Contract. Labels are below the number of classes. Every kernel overwrites its outputs, except gradients where `accumulate` is not
// 0: these are added to. Sums that end in one number or decide between elements are in double precision; batches are small.

#include "common.cuh"

// out[0] = Σ terms / divisor, in a fixed order. launch: grid (1)
extern "C" __global__ void __launch_bounds__(256)
    sum_terms(const double* __restrict__ terms,  // [n]
              float* __restrict__ out,           // [1]
              int n, int divisor) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) sum += terms[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = (float)(sum / divisor);
}

// grad[0] = weight, the gradient that backward starts from. If the loss is not finite it is NaN instead, and so is every gradient
// after it: the optimiser's step then changes nothing.
// launch: grid (1)
extern "C" __global__ void __launch_bounds__(32)
    loss_gradient(const float* __restrict__ loss,  // [1]
                  float* __restrict__ grad,        // [1]
                  float weight) {
    // This comparison is false for NaN too.
    if (threadIdx.x == 0) grad[0] = fabsf(loss[0]) < INFINITY ? weight : NAN;
}

// Returns log Σ exp(z) of a row of logits to every thread, and sets *sum_z to Σ z. All 256 threads of a block call it.
template <class T> DEVICE double log_sum_exp(const T* z, int classes, double* sum_z) {
    SHARED(float, maxima, [256]);
    float largest = -INFINITY;
    double sum = 0.0;
    for (int c = threadIdx.x; c < classes; c += 256) {
        float v = load(z + c);
        largest = v > largest ? v : largest;
        sum += v;
    }
    maxima[threadIdx.x] = largest;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
        if ((int)threadIdx.x < half) maxima[threadIdx.x] = fmaxf(maxima[threadIdx.x], maxima[threadIdx.x + half]);
        __syncthreads();
    }
    largest = maxima[0];
    *sum_z = block_sum(sum);
    double exps = 0.0;
    for (int c = threadIdx.x; c < classes; c += 256) exps += exp((double)load(z + c) - largest);
    return largest + log(block_sum(exps));
}

template <class T>
DEVICE void cross_entropy(const T* logits, const unsigned* labels, double* terms, double* lse, int classes,
                          float smoothing) {
    const T* z = logits + (long long)blockIdx.x * classes;
    double sum, l = log_sum_exp(z, classes, &sum);
    if (threadIdx.x == 0) {
        double target = (1.0 - smoothing) * load(z + labels[blockIdx.x]) + smoothing * sum / classes;
        terms[blockIdx.x] = l - target;
        lse[blockIdx.x] = l;
    }
}

// terms[i] = lse[i] - (1-s)·z[label] - s·mean(z), lse = log Σ exp(z); the loss is sum_terms(terms, n).
// launch: grid (n)
extern "C" __global__ void __launch_bounds__(256, 4)
    cross_entropy_f32(const float* __restrict__ logits,     // [n, classes]
                      const unsigned* __restrict__ labels,  // [n]
                      double* __restrict__ terms,           // [n]
                      double* __restrict__ lse,             // [n], for backward
                      int classes, float smoothing) {
    cross_entropy(logits, labels, terms, lse, classes, smoothing);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    cross_entropy_bf16(const bf16* __restrict__ logits, const unsigned* __restrict__ labels, double* __restrict__ terms,
                       double* __restrict__ lse, int classes, float smoothing) {
    cross_entropy(logits, labels, terms, lse, classes, smoothing);
}

template <class T>
DEVICE void cross_entropy_backward(const T* logits, const unsigned* labels, const double* lse, const float* dloss,
                                   T* dlogits, int n, int classes, float smoothing, int accumulate) {
    long long row = (long long)blockIdx.x * classes;
    double scale = (double)dloss[0] / n, l = lse[blockIdx.x], base = (double)smoothing / classes;
    int label = (int)labels[blockIdx.x];
    for (int c = threadIdx.x; c < classes; c += 256) {
        // The difference in double precision, because its terms may be large and close; the exponential in single.
        float p = expf((float)(load(logits + row + c) - l));
        double hit = c == label ? 1.0 - smoothing : 0.0;
        put(dlogits + row + c, (float)((p - hit - base) * scale), accumulate);
    }
}

// dlogits = (softmax(z) - (1-s)·onehot - s/classes)·dloss/n. dlogits may be logits if it is overwritten. launch: grid (n)
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward_f32(const float* logits,                  // [n, classes]
                               const unsigned* __restrict__ labels,  // [n]
                               const double* __restrict__ lse,       // [n]
                               const float* __restrict__ dloss,      // [1]
                               float* dlogits,                       // [n, classes]
                               int n, int classes, float smoothing, int accumulate) {
    cross_entropy_backward(logits, labels, lse, dloss, dlogits, n, classes, smoothing, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward_bf16(const bf16* logits, const unsigned* __restrict__ labels,
                                const double* __restrict__ lse, const float* __restrict__ dloss, bf16* dlogits, int n,
                                int classes, float smoothing, int accumulate) {
    cross_entropy_backward(logits, labels, lse, dloss, dlogits, n, classes, smoothing, accumulate);
}

template <class T>
DEVICE void soft_cross_entropy(const T* logits, const float* targets, double* terms, double* lse, int classes) {
    const T* z = logits + (long long)blockIdx.x * classes;
    const float* t = targets + (long long)blockIdx.x * classes;
    double sum, l = log_sum_exp(z, classes, &sum), term = 0.0;
    for (int c = threadIdx.x; c < classes; c += 256) term += t[c] * (l - load(z + c));
    term = block_sum(term);
    if (threadIdx.x == 0) terms[blockIdx.x] = term, lse[blockIdx.x] = l;
}

// Against a probability t for each class: terms[i] = Σ t·(lse[i] - z); the loss is sum_terms(terms, n). launch: grid (n)
extern "C" __global__ void __launch_bounds__(256, 4)
    soft_cross_entropy_f32(const float* __restrict__ logits,   // [n, classes]
                           const float* __restrict__ targets,  // [n, classes]
                           double* __restrict__ terms,         // [n]
                           double* __restrict__ lse,           // [n], for backward
                           int classes) {
    soft_cross_entropy(logits, targets, terms, lse, classes);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    soft_cross_entropy_bf16(const bf16* __restrict__ logits, const float* __restrict__ targets,
                            double* __restrict__ terms, double* __restrict__ lse, int classes) {
    soft_cross_entropy(logits, targets, terms, lse, classes);
}

template <class T>
DEVICE void soft_cross_entropy_backward(const T* logits, const float* targets, const double* lse, const float* dloss,
                                        T* dlogits, int n, int classes, int accumulate) {
    long long row = (long long)blockIdx.x * classes;
    double scale = (double)dloss[0] / n, l = lse[blockIdx.x], whole = 0.0;
    for (int c = threadIdx.x; c < classes; c += 256) whole += targets[row + c];
    whole = block_sum(whole);
    for (int c = threadIdx.x; c < classes; c += 256) {
        float p = expf((float)(load(logits + row + c) - l));
        put(dlogits + row + c, (float)((p * whole - targets[row + c]) * scale), accumulate);
    }
}

// dlogits = (softmax(z)·Σt - t)·dloss/n. dlogits may be logits if it is overwritten. launch: grid (n)
extern "C" __global__ void __launch_bounds__(256)
    soft_cross_entropy_backward_f32(const float* logits,                // [n, classes]
                                    const float* __restrict__ targets,  // [n, classes]
                                    const double* __restrict__ lse,     // [n]
                                    const float* __restrict__ dloss,    // [1]
                                    float* dlogits,                     // [n, classes]
                                    int n, int classes, int accumulate) {
    soft_cross_entropy_backward(logits, targets, lse, dloss, dlogits, n, classes, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    soft_cross_entropy_backward_bf16(const bf16* logits, const float* __restrict__ targets,
                                     const double* __restrict__ lse, const float* __restrict__ dloss, bf16* dlogits,
                                     int n, int classes, int accumulate) {
    soft_cross_entropy_backward(logits, targets, lse, dloss, dlogits, n, classes, accumulate);
}

// An integer key that sorts floats by value, with -0 below 0, and NaN below or above all others by its sign.
DEVICE int order_key(float v) {
    int bits = (int)float_to_bits(v);
    return bits ^ (int)((unsigned)(bits >> 31) >> 1);
}

template <class T> DEVICE void top1_hits(const T* logits, const unsigned* labels, float* hits, int n, int classes) {
    int lane = threadIdx.x % 32, found = 0;
    for (int row = threadIdx.x / 32; row < n; row += 8) {
        const T* z = logits + (long long)row * classes;
        // A lane that has no classes keeps class -1, which loses every tie.
        int best = -1, best_key = INT32_MIN;
        for (int c = lane; c < classes; c += 32) {
            int key = order_key(load(z + c));
            if (key >= best_key) best_key = key, best = c;
        }
        for (int lanes = 16; lanes; lanes /= 2) {
            int key = shuffle_xor(best_key, lanes), other = shuffle_xor(best, lanes);
            if (key > best_key || (key == best_key && other > best)) best_key = key, best = other;
        }
        found += lane == 0 && best == (int)labels[row];
    }
    found = block_sum(found);
    if (threadIdx.x == 0) hits[0] = (float)found;
}

// hits[0] = the number of rows whose largest logit is that of the label. Of equal logits the last counts as the largest; a positive
// NaN is larger than all numbers. A warp takes a row.
// launch: grid (1)
extern "C" __global__ void __launch_bounds__(256)
    top1_hits_f32(const float* __restrict__ logits,     // [n, classes]
                  const unsigned* __restrict__ labels,  // [n]
                  float* __restrict__ hits,             // [1]
                  int n, int classes) {
    top1_hits(logits, labels, hits, n, classes);
}

extern "C" __global__ void __launch_bounds__(256)
    top1_hits_bf16(const bf16* __restrict__ logits, const unsigned* __restrict__ labels, float* __restrict__ hits, int n,
                   int classes) {
    top1_hits(logits, labels, hits, n, classes);
}

// ---- Batch-hard triplet ------------------------------------------------------------------------------------------
// loss = mean over anchors i of max(0, d(i, hardest positive) - d(i, hardest negative) + margin), d = √max(|fi - fj|², 1e-12).
// The anchor counts among its own positives. Exact ties share the gradient evenly; a clamped distance has no gradient. An anchor
// without a negative contributes nothing. Distances are summed from differences in double precision, with equal bits for (i, j) and
// (j, i), so that ties are the same as on the CPU. A NaN feature makes the loss NaN.
// Order: triplet_distances, triplet_mine, sum_terms(terms, n); backward: triplet_backward.

const double MIN_SQUARED = 1e-12;

// A warp computes the distance of a pair; a block has 8 warps. launch: grid (ceil(n·n / 8))
extern "C" __global__ void __launch_bounds__(256)
    triplet_distances(const float* __restrict__ features,  // [n, dim]
                      double* __restrict__ squared,        // [n, n], clamped; NaN stays
                      int n, int dim) {
    long long pair = (long long)blockIdx.x * 8 + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (pair >= (long long)n * n) return;
    int i = (int)(pair / n), j = (int)(pair - (long long)i * n);
    const float *a = features + (long long)min(i, j) * dim, *b = features + (long long)max(i, j) * dim;
    double sum = 0.0;
    for (int k = lane; k < dim; k += 32) {
        double d = (double)a[k] - (double)b[k];
        sum += d * d;
    }
    sum = warp_sum(sum);
    if (lane == 0) squared[pair] = sum < MIN_SQUARED ? MIN_SQUARED : sum;
}

// factors[i][j] = ∂(n·loss)/∂d(i, j) / d(i, j): what triplet_backward multiplies fi - fj with.
// launch: grid (ceil(n / 64)); a thread takes an anchor
extern "C" __global__ void __launch_bounds__(64)
    triplet_mine(const double* __restrict__ squared,   // [n, n]
                 const unsigned* __restrict__ labels,  // [n]
                 double* __restrict__ terms,           // [n]
                 double* __restrict__ factors,         // [n, n]
                 int n, float margin) {
    int i = (int)global_index();
    if (i >= n) return;
    const double* row = squared + (long long)i * n;
    double* factor = factors + (long long)i * n;
    double farthest = -1.0, nearest = INFINITY, poison = 0.0;
    int positives = 0, negatives = 0;
    for (int j = 0; j < n; j++) {
        double d = row[j];
        factor[j] = 0.0;
        if (d != d) {
            poison = d;
        } else if (labels[j] == labels[i]) {
            positives = d == farthest ? positives + 1 : d > farthest ? 1 : positives;
            farthest = d > farthest ? d : farthest;
        } else {
            negatives = d == nearest ? negatives + 1 : d < nearest ? 1 : negatives;
            nearest = d < nearest ? d : nearest;
        }
    }
    double term = poison;
    if (poison == 0.0 && negatives > 0) {
        double hinge = sqrt(farthest) - sqrt(nearest) + (double)margin;
        term = hinge < 0.0 ? 0.0 : hinge;
        for (int j = 0; j < n && hinge > 0.0; j++) {
            double d = row[j];
            if (d <= MIN_SQUARED) continue;
            if (labels[j] == labels[i]) {
                if (d == farthest) factor[j] = 1.0 / (positives * sqrt(d));
            } else if (d == nearest) {
                factor[j] = -1.0 / (negatives * sqrt(d));
            }
        }
    }
    terms[i] = term;
}

// dfeatures[i] = dloss/n · Σj (factors[i][j] + factors[j][i])·(fi - fj), in the order of j.
// launch: grid (ceil(dim / 256), n)
extern "C" __global__ void __launch_bounds__(256)
    triplet_backward(const float* __restrict__ features,  // [n, dim]
                     const double* __restrict__ factors,  // [n, n]
                     const float* __restrict__ dloss,     // [1]
                     float* __restrict__ dfeatures,       // [n, dim]
                     int n, int dim, int accumulate) {
    int k = blockIdx.x * 256 + threadIdx.x, i = blockIdx.y;
    if (k >= dim) return;
    double own = features[(long long)i * dim + k], sum = 0.0;
    for (int j = 0; j < n; j++) {
        double factor = factors[(long long)i * n + j] + factors[(long long)j * n + i];
        if (factor != 0.0) sum += factor * (own - (double)features[(long long)j * dim + k]);
    }
    put(dfeatures + (long long)i * dim + k, (float)(sum * ((double)dloss[0] / n)), accumulate);
}
