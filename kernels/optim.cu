// Optimiser steps over one flat buffer of parameters and one of gradients, with PyTorch's update rules, and the global norm
// of the gradients.
//
// Segments. A table in device memory says which elements are updated: segment s starts at element begin[s] of every flat buffer and
// has the learning rate lr[s] and the weight decay weight_decay[s]. Segments are disjoint and not empty; elements outside all
// segments keep their value and state. The elements of all segments together are numbered from 0 to count, so that blocks have
// equal work: first[s] is the number of elements in the segments before s.
//
// Contract. params and the state buffers, all f32, are updated in place inside the segments; gradients are only read. Every
// gradient is multiplied by grad_scale[0] first. Where that is NaN, as grad_norm_finish makes it for gradients that are not finite,
// a step changes nothing at all. Each element is computed independently, so the bits are the same for any grid. Every number that
// differs from step to step is in device memory, so that a recorded launch may be replayed.

#include "common.cuh"

// How many elements of all segments together one block visits.
const int STEP_CHUNK = 1024, NORM_CHUNK = 8192;

// Calls visit(flat element, segment) for this thread's elements of the block's chunk.
template <class F>
DEVICE void for_each_element(const long long* begin, const long long* first, int segments, long long count, int chunk, F visit) {
    long long start = (long long)blockIdx.x * chunk, end = min(start + chunk, count);
    int segment = 0;
    for (int above = segments; above - segment > 1;) {
        int middle = (segment + above) / 2;
        if (first[middle] <= start)
            segment = middle;
        else
            above = middle;
    }
    for (long long i = start + threadIdx.x; i < end; i += 256) {
        while (segment + 1 < segments && first[segment + 1] <= i) segment++;
        visit(begin[segment] + (i - first[segment]), segment);
    }
}

// Adam (decoupled = 0, weight decay is added to the gradient) and AdamW (1, the parameter is scaled by 1 - lr·weight decay);
// AMSGrad where max_exp_avg_sq is not null: the maximum is of the second moment before bias correction.
// launch: grid (ceil(count / 1024))
extern "C" __global__ void __launch_bounds__(256)
    adam_step(float* params, const float* __restrict__ grads,
              float* exp_avg, float* exp_avg_sq, float* max_exp_avg_sq,
              const long long* __restrict__ begin, const long long* __restrict__ first,
              const float* __restrict__ lr, const float* __restrict__ weight_decay,  // [segments] each
              int segments, long long count, const float* __restrict__ grad_scale, float beta1, float beta2,
              float one_minus_beta1, float one_minus_beta2, float eps,
              const float* __restrict__ corrections,  // [2]: 1/(1 - beta1^t), 1/√(1 - beta2^t)
              int decoupled) {
    float factor = grad_scale[0];
    if (factor != factor) return;
    float correction1 = corrections[0], rsqrt_correction2 = corrections[1];
    for_each_element(begin, first, segments, count, STEP_CHUNK, [=](long long at, int segment) {
        float p = params[at], g = grads[at] * factor, rate = lr[segment], decay = weight_decay[segment];
        if (decoupled)
            p *= 1.0f - rate * decay;
        else
            g += decay * p;
        float m = beta1 * exp_avg[at] + one_minus_beta1 * g;
        float v = beta2 * exp_avg_sq[at] + one_minus_beta2 * g * g;
        exp_avg[at] = m;
        exp_avg_sq[at] = v;
        if (max_exp_avg_sq) {
            float largest = max_exp_avg_sq[at];
            v = v > largest ? v : largest;
            max_exp_avg_sq[at] = v;
        }
        p -= rate * correction1 * (m / (sqrtf(v) * rsqrt_correction2 + eps));
        params[at] = p;
    });
}

// SGD, with momentum if momentum_buffer is not null (it starts at 0). launch: grid (ceil(count / 1024))
extern "C" __global__ void __launch_bounds__(256)
    sgd_step(float* params, const float* __restrict__ grads,
             float* momentum_buffer, const long long* __restrict__ begin,
             const long long* __restrict__ first, const float* __restrict__ lr,
             const float* __restrict__ weight_decay,  // [segments] each
             int segments, long long count, const float* __restrict__ grad_scale, float momentum, int nesterov) {
    float factor = grad_scale[0];
    if (factor != factor) return;
    for_each_element(begin, first, segments, count, STEP_CHUNK, [=](long long at, int segment) {
        float p = params[at], g = grads[at] * factor + weight_decay[segment] * p;
        if (momentum_buffer) {
            float b = momentum * momentum_buffer[at] + g;
            momentum_buffer[at] = b;
            g = nesterov ? g + momentum * b : b;
        }
        p -= lr[segment] * g;
        params[at] = p;
    });
}

// Sums of squares of 8192 gradients each. launch: grid (ceil(count / 8192))
extern "C" __global__ void __launch_bounds__(256)
    grad_norm_partials(const float* __restrict__ grads, const long long* __restrict__ begin,
                       const long long* __restrict__ first,  // [segments] each
                       int segments, long long count,
                       double* __restrict__ partials) {  // [ceil(count / 8192)]
    // A thread sums its few dozen squares in single precision, since many GPUs are slow at double.
    float sum = 0.0f;
    for_each_element(begin, first, segments, count, NORM_CHUNK,
                     [&](long long at, int) { sum = fmaf(grads[at], grads[at], sum); });
    double total = block_sum((double)sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// norm[0] = √Σ partials. scale[0] = NaN where the norm is not finite, max_norm / norm where it is larger than max_norm, else 1;
// max_norm <= 0 means no clipping.
// launch: grid (1)
extern "C" __global__ void __launch_bounds__(256)
    grad_norm_finish(const double* __restrict__ partials, int n, float max_norm, float* __restrict__ norm,
                     float* __restrict__ scale) {  // [1] each
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) sum += partials[i];
    sum = sqrt(block_sum(sum));
    if (threadIdx.x == 0) {
        norm[0] = (float)sum;
        // This comparison is false for NaN too.
        if (!(sum < INFINITY))
            scale[0] = NAN;
        else
            scale[0] = max_norm > 0.0f && sum > max_norm ? (float)(max_norm / sum) : 1.0f;
    }
}
