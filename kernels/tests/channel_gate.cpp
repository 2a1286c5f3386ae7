#include "harness.h"
using namespace test;

struct GateCase {
    int images, area, channels;
};
// Odd channels, a multiple of 16 bytes, more channels than a block has, one pixel.
static const GateCase cases[] = {{2, 11, 5}, {3, 7, 16}, {2, 20, 40}, {4, 1, 8}};

template <class T> static Buffer<T> numbers(size_t n, double low, double high) {
    Buffer<T> b(n);
    for (T& v : b.data) store(&v, (float)uniform(low, high));
    return b;
}

template <class T, class Forward, class Backward> static void check_gates(double rounding, Forward forward, Backward backward) {
    for (const GateCase& k : cases) {
        size_t c = (size_t)k.channels, vectors = k.images * c, len = vectors * (size_t)k.area;
        Buffer<T> x = numbers<T>(len, -1, 1), dy = numbers<T>(len, -1, 1), z = numbers<T>(vectors, -6, 6);
        store(&z[0], -200.0f), store(&z[1], 200.0f);
        Buffer<T> y(len), dx = numbers<T>(len, -1, 1), dz(vectors);
        Doubles want(len), want_dx = values(dx), want_dz(vectors);
        for (size_t i = 0; i < len; i++) {
            size_t at = i / (c * (size_t)k.area) * c + i % c;
            double gate = 1 / (1 + std::exp(-value(z[at])));
            want[i] = value(x[i]) * gate;
            want_dx[i] += value(dy[i]) * gate;
            want_dz[at] += value(dy[i]) * value(x[i]) * gate * (1 - gate);
        }
        forward(k, x, z, y, 0);
        expect("y", y, want, 1e-6, rounding);
        forward(k, dy, z, dx, 1);
        expect("dx, added", dx, want_dx, 1e-6, rounding);
        backward(k, x, z, dy, dz, 0);
        expect("dz", dz, want_dz, 1e-5, rounding);
        for (double& v : want_dz) v *= 2;
        backward(k, x, z, dy, dz, 1);
        expect("dz, added", dz, want_dz, 1e-5, 2 * rounding);
    }
}

CASE(channel_gates_f32) {
    check_gates<float>(
        1e-5,
        [](const GateCase& k, Floats& x, Floats& z, Floats& y, int add) {
            RUN(channel_gate_f32, (Grid{2}), x, z, y, k.images * k.area, k.area, k.channels, add);
        },
        [](const GateCase& k, Floats& x, Floats& z, Floats& dy, Floats& dz, int add) {
            Grid grid{blocks(k.channels, 32), (unsigned)k.images};
            RUN(channel_gate_backward_f32, grid, x, z, dy, dz, k.area, k.channels, add);
        });
}
CASE(channel_gates_bf16) {
    check_gates<bf16>(
        BF16,
        [](const GateCase& k, Halves& x, Halves& z, Halves& y, int add) {
            RUN(channel_gate_bf16, (Grid{2}), x, z, y, k.images * k.area, k.area, k.channels, add);
        },
        [](const GateCase& k, Halves& x, Halves& z, Halves& dy, Halves& dz, int add) {
            Grid grid{blocks(k.channels, 32), (unsigned)k.images};
            RUN(channel_gate_backward_bf16, grid, x, z, dy, dz, k.area, k.channels, add);
        });
}
