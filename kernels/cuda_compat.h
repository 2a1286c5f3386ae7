// All that kernels use of CUDA: for nvcc as built-ins and inline PTX, for a C++ compiler from the emulator, which runs the same
// sources on the CPU (emulator/emulator.h). Besides this, kernels use only threadIdx, blockIdx, blockDim, gridDim, __syncthreads
// and __syncwarp.
//
// Warp collectives (shuffles, ballots, ldmatrix, mma) are always called by all 32 lanes of a warp.
#pragma once

#include <stdint.h>

// A bfloat16 in memory. It is not the type of CUDA's headers, so that no CUDA header is needed on the host.
struct bf16 {
    uint16_t bits;
};

#if defined(__CUDACC__)

#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
// A static shared array: SHARED(float, tile, [16][65]);
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
// The dynamic shared memory of the launch, as bytes.
extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
#define DYNAMIC_SHARED(name) unsigned char* name = dynamic_shared_memory
#define FULL_WARP 0xffffffffu

DEVICE float shuffle_xor(float v, int lanes) { return __shfl_xor_sync(FULL_WARP, v, lanes); }
DEVICE double shuffle_xor(double v, int lanes) { return __shfl_xor_sync(FULL_WARP, v, lanes); }
DEVICE int shuffle_xor(int v, int lanes) { return __shfl_xor_sync(FULL_WARP, v, lanes); }
DEVICE int shuffle_up(int v, int lanes) { return __shfl_up_sync(FULL_WARP, v, lanes); }
DEVICE int shuffle(int v, int lane) { return __shfl_sync(FULL_WARP, v, lane); }
DEVICE unsigned vote(bool v) { return __ballot_sync(FULL_WARP, v); }
DEVICE int count_bits(unsigned v) { return __popc(v); }

DEVICE float bits_to_float(uint32_t v) { return __uint_as_float(v); }
DEVICE uint32_t float_to_bits(float v) { return __float_as_uint(v); }

// a in the low half, b in the high half, rounded to nearest even.
DEVICE uint32_t pack_bf16(float a, float b) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}

// Adds 1 to *counter and returns what it was. What this thread wrote before, or saw of others by a barrier, is seen by a thread that
// arrives later, and by those that meet it at a barrier then.
DEVICE unsigned arrive(unsigned* counter) {
    __threadfence();
    unsigned before = atomicAdd(counter, 1u);
    __threadfence();
    return before;
}

DEVICE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Starts a copy of 16 bytes from global to shared memory, which cp_async_wait waits for; copies zeros unless `valid`.
// `source` must be a readable address in any case.
DEVICE void cp_async_16(void* shared, const void* source, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(source), "r"(bytes)
                 : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `open` committed groups of this thread are in flight.
template <int open> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory"); }

// Loads four 8x8 matrices of 16-bit elements. Lane l gives the address of row l%8 of matrix l/8. It gets in r[m] two elements of
// matrix m: row l/4, columns 2·(l%4) and the next (the transposed form: column l/4, rows 2·(l%4) and the next).
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d (16x8, f32) += a (16x16, bf16, by rows) · b (16x8, bf16, by columns)
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d (16x8, f32) += a (16x8, tf32, by rows) · b (8x8, tf32, by columns)
DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The nearest tf32, ties away from zero, as f32 bits.
DEVICE uint32_t round_tf32(uint32_t v) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(v)));
    return r;
}

// tanh with a relative error of up to 2^-11.
DEVICE float tanh_fast(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else
#include "emulator/emulator.h"
#endif
