// Kernels with one planted fault each, for faults.cpp, which checks that the emulator catches them. Never built for a device. Launched
// with one block of 64 threads and out[64], unless faults.cpp says otherwise.

#include "../common.cuh"

#define FAULT(name) extern "C" __global__ void __launch_bounds__(64) name(float* out, [[maybe_unused]] const float* in)

FAULT(shared_static_too_far) {
    SHARED(float, s, [64]);
    s[threadIdx.x + (in[0] > 0)] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
FAULT(shared_dynamic_too_far) {
    DYNAMIC_SHARED(bytes);
    float* s = (float*)bytes;
    s[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
FAULT(global_too_far) { out[threadIdx.x + 1] = in[threadIdx.x]; }
FAULT(global_read_too_far) { out[threadIdx.x] = in[threadIdx.x + 1]; }
FAULT(misaligned) { *(float4*)(out + 1 + threadIdx.x % 2) = make_float4(1, 2, 3, 4); }

// Each of the next kernels would be right only if all threads wrote before any thread reads.
FAULT(no_barrier_reads_lower) {
    SHARED(float, s, [64]);
    s[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = s[threadIdx.x ? threadIdx.x - 1 : 0];
}
FAULT(no_barrier_reads_higher) {
    SHARED(float, s, [64]);
    s[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = s[threadIdx.x < 63 ? threadIdx.x + 1 : 63];
}
FAULT(no_second_barrier) {
    SHARED(float, s, [64]);
    float sum = 0.0f;
    for (int k = 0; k < 4; k++) {
        s[threadIdx.x] = in[threadIdx.x] + k;
        __syncthreads();
        sum += s[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}
FAULT(no_syncwarp) {
    SHARED(float, s, [64]);
    s[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = s[threadIdx.x ^ 1];
}
FAULT(uninitialised_shared) {
    SHARED(float, s, [64]);
    if (threadIdx.x != 7) s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
FAULT(output_forgotten) {
    if (threadIdx.x != 7) out[threadIdx.x] = in[threadIdx.x];
}

FAULT(diverged_barriers) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}
FAULT(deadlock) {
    if (threadIdx.x != 5)
        out[threadIdx.x] = shuffle_xor(in[threadIdx.x], 1);
    else
        __syncthreads();
}
FAULT(lane_missing) {
    if (threadIdx.x == 9) return;
    out[threadIdx.x] = warp_sum(in[threadIdx.x]);
}

DEVICE void stage(float* s, const float* in, int group) {
    cp_async_16(s + group * 256 + threadIdx.x * 4, in + threadIdx.x / 4 * 4, true);
    cp_async_commit();
}
FAULT(copy_never_waited_for) {
    SHARED(float, s, [256]);
    stage(s, in, 0);
    out[threadIdx.x] = s[threadIdx.x * 4];
}
FAULT(one_wait_too_few) {
    SHARED(float, s, [512]);
    stage(s, in, 0);
    stage(s, in, 1);
    cp_async_wait<1>();
    out[threadIdx.x] = s[threadIdx.x * 4] + s[256 + threadIdx.x * 4];
    cp_async_wait<0>();
}
FAULT(copy_without_barrier) {
    SHARED(float, s, [256]);
    stage(s, in, 0);
    cp_async_wait<0>();
    out[threadIdx.x] = s[(63 - threadIdx.x) * 4];
}
FAULT(copy_misaligned) {
    SHARED(float, s, [256]);
    cp_async_16(s + threadIdx.x % 2, in, true);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = s[0];
}
FAULT(two_blocks_one_place) { out[63 - threadIdx.x] = (blockIdx.x ? out[threadIdx.x] : 0.0f) + in[threadIdx.x]; }
FAULT(too_much_shared) {
    DYNAMIC_SHARED(bytes);
    out[threadIdx.x] = bytes[0];
}
// Has no fault.
FAULT(faultless) {
    SHARED(float, s, [64]);
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}
