// CUDA on the CPU, for tests: provides what cuda_compat.h lists to sources that a plain C++17 compiler compiles.
//
// Every CUDA thread is a fiber. Blocks run one after the other on the host thread that launches, and a fiber runs until it reaches a
// barrier or a warp collective. Between barriers, threads run forward, backward or in a seeded random order. Shared memory holds NaN
// at the start of every block, and each array is a block of exact size (so that the address sanitizer sees the first byte beyond
// it). The bytes of cp_async_16 arrive at the wait and not before; until then their destination holds NaN. Threads that wait at
// different places, or for ever, end the launch with an error that names the source line.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DEVICE static inline
#define METHOD inline

// The source line of a call, as default arguments of the functions that kernels call.
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

namespace emu {

struct Index {
    unsigned x, y, z;
};

enum class Schedule : unsigned { Forward, Reverse, Shuffled };

struct Launch {
    Index grid, block;
    size_t shared_bytes;
    Schedule schedule;
    uint64_t seed;
};

// Runs `body(context)` as every thread of every block. Returns true, or false with the reason in `message`.
bool launch(const Launch& launch, void (*body)(void*), void* context, char* message, size_t message_len);

// The indices of the running thread.
struct View {
    Index thread, block, block_dim, grid_dim;
    unsigned lane;
};
// One for each host thread. Every kernel reads it in inner loops, so it must be found without a function call.
extern __thread const View* view __attribute__((tls_model("initial-exec")));

unsigned char* dynamic_shared();
// Returns the array of the block for the SHARED declaration whose address is `key`.
void* static_shared(const void* key, size_t bytes);
void barrier(const char* file, int line);

// A warp collective: every lane stores up to 64 bytes; the last one to arrive computes the results of all.
struct Lane {
    alignas(16) uint32_t in[16];
    uint32_t out[4];
};
void meet(void (*combine)(Lane (&lanes)[32]), const void* in, size_t in_bytes, void* out, size_t out_bytes,
          bool orders_memory, const char* file, int line);

void cp_async(void* shared, const void* source, bool valid, const char* file, int line);
void cp_async_commit();
void cp_async_wait(size_t open);
void fail(const char* file, int line, const char* what);

void combine_nothing(Lane (&lanes)[32]);
void combine_shuffle(Lane (&lanes)[32]);
void combine_ballot(Lane (&lanes)[32]);
void combine_ldmatrix(Lane (&lanes)[32]);
void combine_ldmatrix_trans(Lane (&lanes)[32]);
void combine_mma_bf16(Lane (&lanes)[32]);
void combine_mma_tf32(Lane (&lanes)[32]);

template <class T> T shuffle(T v, unsigned source, const char* file, int line) {
    struct {
        uint32_t value[2], source;
    } in{{0, 0}, source};
    memcpy(in.value, &v, sizeof v);
    meet(combine_shuffle, &in, sizeof in, &v, sizeof v, false, file, line);
    return v;
}

}  // namespace emu

#define threadIdx (emu::view->thread)
#define blockIdx (emu::view->block)
#define blockDim (emu::view->block_dim)
#define gridDim (emu::view->grid_dim)

#define SHARED(type, name, dims)                   \
    typedef type name##_array dims;                \
    static const char name##_key = 0;              \
    name##_array& name = *(name##_array*)emu::static_shared(&name##_key, sizeof(name##_array))
#define DYNAMIC_SHARED(name) unsigned char* name = emu::dynamic_shared()

static inline void __syncthreads(EMU_HERE) { emu::barrier(file, line); }
static inline void __syncwarp(EMU_HERE) {
    emu::meet(emu::combine_nothing, nullptr, 0, nullptr, 0, true, file, line);
}
template <class T> static inline T shuffle_xor(T v, int lanes, EMU_HERE) {
    return emu::shuffle(v, emu::view->lane ^ (unsigned)lanes, file, line);
}
static inline int shuffle_up(int v, int lanes, EMU_HERE) {
    unsigned lane = emu::view->lane;
    return emu::shuffle(v, lane < (unsigned)lanes ? lane : lane - (unsigned)lanes, file, line);
}
static inline int shuffle(int v, int lane, EMU_HERE) { return emu::shuffle(v, (unsigned)lane % 32, file, line); }
static inline unsigned vote(bool v, EMU_HERE) {
    uint32_t in = v, out;
    emu::meet(emu::combine_ballot, &in, sizeof in, &out, sizeof out, false, file, line);
    return out;
}
static inline int count_bits(unsigned v) { return __builtin_popcount(v); }

static inline unsigned arrive(unsigned* counter) { return __atomic_fetch_add(counter, 1u, __ATOMIC_ACQ_REL); }

static inline float bits_to_float(uint32_t v) {
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}
static inline uint32_t float_to_bits(float v) {
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}
static inline uint32_t emu_bf16_bits(float v) {
    uint32_t u = float_to_bits(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN, as the device's conversion gives it
    return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}
static inline uint32_t pack_bf16(float a, float b) { return emu_bf16_bits(a) | emu_bf16_bits(b) << 16; }
static inline uint32_t round_tf32(uint32_t v) {
    if ((v & 0x7f800000u) == 0x7f800000u) return v;
    return (v + 0x1000u) & 0xffffe000u;
}
static inline float tanh_fast(float x) { return tanhf(x); }

static inline void cp_async_16(void* shared, const void* source, bool valid, EMU_HERE) {
    emu::cp_async(shared, source, valid, file, line);
}
static inline void cp_async_commit() { emu::cp_async_commit(); }
template <int open> static inline void cp_async_wait() { emu::cp_async_wait(open); }

static inline void emu_ldmatrix(uint32_t (&r)[4], const void* row, bool trans, const char* file, int line) {
    if ((uintptr_t)row & 15) emu::fail(file, line, "ldmatrix reads a row that is not aligned to 16 bytes");
    uint4 in = *(const uint4*)row;
    emu::meet(trans ? emu::combine_ldmatrix_trans : emu::combine_ldmatrix, &in, sizeof in, r, sizeof r, false, file, line);
}
static inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_HERE) { emu_ldmatrix(r, row, false, file, line); }
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_HERE) {
    emu_ldmatrix(r, row, true, file, line);
}

static inline void emu_mma(void (*combine)(emu::Lane (&)[32]), float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                           uint32_t b1, const char* file, int line) {
    uint32_t in[6] = {a[0], a[1], a[2], a[3], b0, b1};
    float product[4];
    emu::meet(combine, in, sizeof in, product, sizeof product, false, file, line);
    for (int i = 0; i < 4; i++) d[i] += product[i];
}
static inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_HERE) {
    emu_mma(emu::combine_mma_bf16, d, a, b0, b1, file, line);
}
static inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_HERE) {
    emu_mma(emu::combine_mma_tf32, d, a, b0, b1, file, line);
}
