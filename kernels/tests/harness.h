// Cases launch kernels in the emulator and compare the results with references in double precision.
//
// Every case runs under three schedules, and the results that it checks must have the same bits under all of them. Buffers are heap
// blocks of exact size, and outputs start as NaN.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "../common.cuh"
#include "../conv_sizes.h"

extern "C" unsigned ptl_emu_threads(const char* kernel);
extern "C" int ptl_emu_launch(const char* kernel, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                              void** arguments, unsigned schedule, unsigned long long seed, char* message,
                              size_t message_len);

#define KERNEL(name, threads, parameters) extern "C" void name parameters;
#include "table.inc"
#undef KERNEL

namespace test {

struct Grid {
    unsigned x, y = 1, z = 1;
};

void launch(const char* kernel, Grid grid, unsigned shared_bytes, void** arguments);

// Converts the arguments to the types of the kernel's parameters.
template <class... P>
void run(const char* name, void (*)(P...), Grid grid, unsigned shared_bytes, std::common_type_t<P>... arguments) {
    void* pointers[] = {(void*)&arguments...};
    launch(name, grid, shared_bytes, pointers);
}
#define RUN(kernel, grid, ...) test::run(#kernel, kernel, grid, 0, __VA_ARGS__)
#define RUN_SHARED(kernel, grid, shared, ...) test::run(#kernel, kernel, grid, shared, __VA_ARGS__)

template <class T> struct Buffer {
    std::vector<T> data;
    explicit Buffer(size_t n) : data(n) { memset((void*)data.data(), 0xff, n * sizeof(T)); }
    Buffer(std::initializer_list<T> values) : data(values) {}
    operator T*() { return data.data(); }
    operator const T*() const { return data.data(); }
    T& operator[](size_t i) { return data[i]; }
    const T& operator[](size_t i) const { return data[i]; }
    size_t size() const { return data.size(); }
};
using Floats = Buffer<float>;
using Halves = Buffer<bf16>;
using Ints = Buffer<int>;
using Doubles = std::vector<double>;

// Numbers in [low, high), the same on every run.
double uniform(double low = -1.0, double high = 1.0);
unsigned below(unsigned n);
Floats random_floats(size_t n, double low = -1.0, double high = 1.0);
Halves random_halves(size_t n, double low = -1.0, double high = 1.0);
inline double value(float v) { return v; }
inline double value(double v) { return v; }
inline double value(bf16 v) { return load(&v); }
inline double value(int v) { return v; }
inline double value(unsigned v) { return v; }
template <class T> Doubles values(const Buffer<T>& b) {
    Doubles out;
    for (const T& v : b.data) out.push_back(value(v));
    return out;
}

// Checks that |got - want| <= absolute + relative·|want|, and that got is NaN where want is.
void compare(const std::string& what, size_t i, double got, double want, double absolute, double relative);
void record(const void* bytes, size_t n);
template <class T>
void expect(const std::string& what, const Buffer<T>& got, const Doubles& want, double absolute, double relative) {
    if (got.size() != want.size()) compare(what + " (size)", 0, (double)got.size(), (double)want.size(), 0, 0);
    for (size_t i = 0; i < want.size(); i++) compare(what, i, value(got[i]), want[i], absolute, relative);
    record(got.data.data(), got.size() * sizeof(T));
}
template <class T> void expect_exact(const std::string& what, const Buffer<T>& got, const Doubles& want) {
    expect(what, got, want, 0, 0);
}

struct Register {
    Register(const char* name, void (*body)());
};
#define CASE(name)                                     \
    static void name();                                \
    static const test::Register register_##name{#name, name}; \
    static void name()

inline unsigned blocks(long long a, long long b) { return (unsigned)((a + b - 1) / b); }
const float NOT_A_NUMBER = std::nanf("");
// Relative precision of a bf16 that was rounded to nearest, with a little room for the f32 sum before it.
constexpr double BF16 = 1.02 / 256;

}  // namespace test
