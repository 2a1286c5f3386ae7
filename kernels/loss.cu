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

// ---- Softmax cross-entropy ---------------------------------------------------------------------------------------
// With weights of the classes (null for none), a term has the weight of its label, and the loss is weighted_mean instead of sum_terms.
// With gamma above 0 it is the focal loss: a term counts (1 - p)^gamma times, p the probability of its label, and smoothing is 0.
// Order: cross_entropy, then sum_terms(terms, n) or weighted_mean; backward: cross_entropy_backward.

// How often a term -log p of the focal loss counts, and how often its gradient does.
struct Focus {
    double of_term, of_gradient;
};
DEVICE Focus focus(double loss, float gamma) {
    double rest = -expm1(-loss);
    // The limit for p = 1.
    if (rest <= 0.0) return {0.0, 0.0};
    double factor = exp(gamma * log(rest));
    return {factor, factor * (1.0 + gamma * (1.0 - rest) * loss / rest)};
}

// Returns the sum of all weights to every thread, times `other[c]` each unless that is null.
template <class T> DEVICE double sum_weights(const float* weights, const T* other, int classes) {
    double sum = 0.0;
    for (int c = threadIdx.x; c < classes; c += 256) sum += other ? (double)weights[c] * load(other + c) : (double)weights[c];
    return block_sum(sum);
}

// out[0] = Σ terms / Σ weights[labels], in a fixed order. launch: grid (1)
extern "C" __global__ void __launch_bounds__(256)
    weighted_mean(const double* __restrict__ terms,     // [n]
                  const unsigned* __restrict__ labels,  // [n]
                  const float* __restrict__ weights,    // [classes]
                  float* __restrict__ out,              // [1]
                  int n) {
    double sum = 0.0, divisor = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) sum += terms[i], divisor += weights[labels[i]];
    sum = block_sum(sum), divisor = block_sum(divisor);
    if (threadIdx.x == 0) out[0] = (float)(sum / divisor);
}

template <class T>
DEVICE void cross_entropy(const T* logits, const unsigned* labels, const float* weights, double* terms, double* lse,
                          int classes, float smoothing, float gamma) {
    const T* z = logits + (long long)blockIdx.x * classes;
    double sum, l = log_sum_exp(z, classes, &sum), weight = 1.0, whole = 0.0;
    if (weights) {
        weight = weights[labels[blockIdx.x]];
        whole = sum_weights(weights, (const T*)nullptr, classes);
        sum = sum_weights(weights, z, classes);
    }
    if (threadIdx.x == 0) {
        double own = load(z + labels[blockIdx.x]), hit = (1.0 - smoothing) * weight;
        double target = hit * own + smoothing * sum / classes;
        double total = weights ? hit + smoothing * whole / classes : 1.0;
        terms[blockIdx.x] = gamma > 0.0f ? weight * focus(l - own, gamma).of_term * (l - own) : total * l - target;
        lse[blockIdx.x] = l;
    }
}

// Without weights and gamma, terms[i] = lse[i] - (1-s)·z[label] - s·mean(z), lse = log Σ exp(z). With weights w,
// terms[i] = (1-s)·w[label]·(lse[i] - z[label]) + s/classes·Σ w·(lse[i] - z).
// launch: grid (n)
extern "C" __global__ void __launch_bounds__(256, 4)
    cross_entropy_f32(const float* __restrict__ logits,     // [n, classes]
                      const unsigned* __restrict__ labels,  // [n]
                      const float* __restrict__ weights,    // [classes] or null
                      double* __restrict__ terms,           // [n]
                      double* __restrict__ lse,             // [n], for backward
                      int classes, float smoothing, float gamma) {
    cross_entropy(logits, labels, weights, terms, lse, classes, smoothing, gamma);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    cross_entropy_bf16(const bf16* __restrict__ logits, const unsigned* __restrict__ labels,
                       const float* __restrict__ weights, double* __restrict__ terms, double* __restrict__ lse,
                       int classes, float smoothing, float gamma) {
    cross_entropy(logits, labels, weights, terms, lse, classes, smoothing, gamma);
}

template <class T>
DEVICE void cross_entropy_backward(const T* logits, const unsigned* labels, const float* weights, const double* lse,
                                   const float* dloss, T* dlogits, int n, int classes, float smoothing, float gamma,
                                   int accumulate) {
    long long row = (long long)blockIdx.x * classes;
    int label = (int)labels[blockIdx.x];
    double l = lse[blockIdx.x], base = (double)smoothing / classes, hit = 1.0 - smoothing, total = 1.0, divisor = n;
    if (weights) {
        double of_labels = 0.0;
        for (int i = threadIdx.x; i < n; i += 256) of_labels += weights[labels[i]];
        divisor = block_sum(of_labels);
        hit *= weights[label];
        total = hit + base * sum_weights(weights, (const T*)nullptr, classes);
    }
    if (gamma > 0.0f) {
        total = hit = hit * focus(l - load(logits + row + label), gamma).of_gradient;
        // The logit of the label may be overwritten from here on.
        __syncthreads();
    }
    double scale = dloss[0] / divisor;
    for (int c = threadIdx.x; c < classes; c += 256) {
        // The difference in double precision, because its terms may be large and close; the exponential in single.
        float p = expf((float)(load(logits + row + c) - l));
        double own = c == label ? hit : 0.0, spread = weights ? base * weights[c] : base;
        put(dlogits + row + c, (float)((p * total - own - spread) * scale), accumulate);
    }
}

// Without weights and gamma, dlogits = (softmax(z) - (1-s)·onehot - s/classes)·dloss/n. dlogits may be logits if it is overwritten.
// launch: grid (n)
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward_f32(const float* logits,                  // [n, classes]
                               const unsigned* __restrict__ labels,  // [n]
                               const float* __restrict__ weights,    // [classes] or null
                               const double* __restrict__ lse,       // [n]
                               const float* __restrict__ dloss,      // [1]
                               float* dlogits,                       // [n, classes]
                               int n, int classes, float smoothing, float gamma, int accumulate) {
    cross_entropy_backward(logits, labels, weights, lse, dloss, dlogits, n, classes, smoothing, gamma, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward_bf16(const bf16* logits, const unsigned* __restrict__ labels,
                                const float* __restrict__ weights, const double* __restrict__ lse,
                                const float* __restrict__ dloss, bf16* dlogits, int n, int classes, float smoothing,
                                float gamma, int accumulate) {
    cross_entropy_backward(logits, labels, weights, lse, dloss, dlogits, n, classes, smoothing, gamma, accumulate);
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
// Anchors are the n rows of the batch. Row j < n is of the batch too, row n + p is place p of a bank of m embeddings of earlier batches,
// which get no gradient; m may be 0. A place with the label NO_LABEL is empty and is not mined.
// The anchor counts among its own positives. Exact ties share the gradient evenly; a clamped distance has no gradient. An anchor
// without a negative contributes nothing. Distances are summed from differences in double precision, with equal bits for (i, j) and
// (j, i), so that ties are the same as on the CPU. A NaN feature makes the loss NaN.
// Order: triplet_distances, triplet_mine, sum_terms(terms, n); backward: triplet_backward.

const double MIN_SQUARED = 1e-12;
const unsigned NO_LABEL = 0xffffffffu;

// Row j of the batch and the bank behind it.
DEVICE const float* triplet_row(const float* features, const float* bank, int j, int n, int dim) {
    return j < n ? features + (long long)j * dim : bank + (long long)(j - n) * dim;
}

// A warp computes the distance of a pair; a block has 8 warps. launch: grid (ceil(n·(n + m) / 8))
extern "C" __global__ void __launch_bounds__(256)
    triplet_distances(const float* __restrict__ features,  // [n, dim]
                      const float* __restrict__ bank,      // [m, dim]
                      double* __restrict__ squared,        // [n, n + m], clamped; NaN stays
                      int n, int m, int dim) {
    long long pair = (long long)blockIdx.x * 8 + threadIdx.x / 32;
    int lane = threadIdx.x % 32, width = n + m;
    if (pair >= (long long)n * width) return;
    int i = (int)(pair / width), j = (int)(pair - (long long)i * width);
    const float *a = features + (long long)min(i, j) * dim, *b = triplet_row(features, bank, max(i, j), n, dim);
    double sum = 0.0;
    for (int k = lane; k < dim; k += 32) {
        double d = (double)a[k] - (double)b[k];
        sum += d * d;
    }
    sum = warp_sum(sum);
    if (lane == 0) squared[pair] = sum < MIN_SQUARED ? MIN_SQUARED : sum;
}

// The hardest distance so far, and how many rows have exactly this distance.
struct Hardest {
    double d;
    int ties;
};
DEVICE void take_farther(Hardest& h, double d, int ties) {
    h.ties = d == h.d ? h.ties + ties : d > h.d ? ties : h.ties;
    h.d = d > h.d ? d : h.d;
}
DEVICE void take_nearer(Hardest& h, double d, int ties) {
    h.ties = d == h.d ? h.ties + ties : d < h.d ? ties : h.ties;
    h.d = d < h.d ? d : h.d;
}

// factors[i][j] = ∂(n·loss)/∂d(i, j) / d(i, j): what triplet_backward multiplies fi - fj with.
// launch: grid (ceil(n / 8)); a warp takes an anchor
extern "C" __global__ void __launch_bounds__(256)
    triplet_mine(const double* __restrict__ squared,        // [n, n + m]
                 const unsigned* __restrict__ labels,       // [n]
                 const unsigned* __restrict__ bank_labels,  // [m]
                 double* __restrict__ terms,                // [n]
                 double* __restrict__ factors,              // [n, n + m]
                 int n, int m, float margin) {
    int i = (int)blockIdx.x * 8 + (int)threadIdx.x / 32, lane = threadIdx.x % 32, width = n + m;
    if (i >= n) return;
    const double* row = squared + (long long)i * width;
    double* factor = factors + (long long)i * width;
    Hardest positive{-1.0, 0}, negative{INFINITY, 0};
    double poison = 0.0;
    for (int j = lane; j < width; j += 32) {
        double d = row[j];
        unsigned label = j < n ? labels[j] : bank_labels[j - n];
        factor[j] = 0.0;
        if (j >= n && label == NO_LABEL) continue;
        if (d != d) poison = d;
        else if (label == labels[i]) take_farther(positive, d, 1);
        else take_nearer(negative, d, 1);
    }
    for (int lanes = 16; lanes; lanes /= 2) {
        take_farther(positive, shuffle_xor(positive.d, lanes), shuffle_xor(positive.ties, lanes));
        take_nearer(negative, shuffle_xor(negative.d, lanes), shuffle_xor(negative.ties, lanes));
        double other = shuffle_xor(poison, lanes);
        if (other != other) poison = other;
    }
    double term = poison;
    if (poison == 0.0 && negative.ties > 0) {
        double hinge = sqrt(positive.d) - sqrt(negative.d) + (double)margin;
        term = hinge < 0.0 ? 0.0 : hinge;
        for (int j = lane; j < width && hinge > 0.0; j += 32) {
            double d = row[j];
            unsigned label = j < n ? labels[j] : bank_labels[j - n];
            if (d <= MIN_SQUARED || (j >= n && label == NO_LABEL)) continue;
            if (label == labels[i]) {
                if (d == positive.d) factor[j] = 1.0 / (positive.ties * sqrt(d));
            } else if (d == negative.d) {
                factor[j] = -1.0 / (negative.ties * sqrt(d));
            }
        }
    }
    if (lane == 0) terms[i] = term;
}

// dfeatures[i] = dloss/n · Σj (factors[i][j] + factors[j][i])·(fi - fj), in the order of j; rows of the bank have no factors[j].
// launch: grid (ceil(dim / 256), n)
extern "C" __global__ void __launch_bounds__(256)
    triplet_backward(const float* __restrict__ features,  // [n, dim]
                     const float* __restrict__ bank,      // [m, dim]
                     const double* __restrict__ factors,  // [n, n + m]
                     const float* __restrict__ dloss,     // [1]
                     float* __restrict__ dfeatures,       // [n, dim]
                     int n, int m, int dim, int accumulate) {
    int k = blockIdx.x * 256 + threadIdx.x, i = blockIdx.y, width = n + m;
    if (k >= dim) return;
    double own = features[(long long)i * dim + k], sum = 0.0;
    for (int j = 0; j < width; j++) {
        double factor = factors[(long long)i * width + j];
        if (j < n) factor += factors[(long long)j * width + i];
        if (factor != 0.0) sum += factor * (own - (double)triplet_row(features, bank, j, n, dim)[k]);
    }
    put(dfeatures + (long long)i * dim + k, (float)(sum * ((double)dloss[0] / n)), accumulate);
}
