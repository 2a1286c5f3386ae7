// The gradient of a convolution's weight on tensor cores, in bf16 and tf32, with f32 sums; any kernel, stride, padding and
// channels. Also that of a BConv-Cell, with its gate gradients as dy and 4·channels as out_c.
//
// Contract. All buffers are distinct. The output pixels are cut into fixed splits, and each split overwrites its partial sums;
// sum_partials_f32 (sums.cu) then adds these in the order of the splits, so the bits are the same every time.
//
// dweight = (x under the taps)ᵀ · dy: rows are (tap y, tap x, input channel), columns output channels, depth output pixels. In
// memory and in shared memory, the depth is the slowest index of both sides: a stage holds some pixels, each with 128 channels of x
// and of dy. Fragments are therefore transposed while they are read, in bf16 by ldmatrix.trans, in tf32 word by word.

#include "implicit_gemm_mma.cuh"

template <class T> struct Slab {
    static const int WIDE = 16 / (int)sizeof(T);   // numbers in 16 bytes, which a thread fetches at once
    static const int CHUNKS = MMA_ROWS / WIDE;     // threads that fetch one pixel
    static const int PASS = MMA_THREADS / CHUNKS;  // pixels that all threads fetch at once
    static const int PASSES = 4;                   // of a stage
    static const int PIXELS = PASSES * PASS;       // of a stage: 32 of bf16, 16 of tf32
    static const int PITCH = MMA_ROWS * (int)sizeof(T);
    static const int BYTES = PIXELS * PITCH;

    // The byte where the 16 bytes number `chunk` of a pixel lie. Chunks change places from pixel to pixel, so that a warp reads from
    // different banks: eight pixels of one chunk in bf16, four pixels of two chunks in tf32.
    static METHOD int at(int pixel, int chunk) {
        int turned = sizeof(T) == 2 ? chunk ^ pixel % 8 : chunk ^ pixel % 4 * 2;
        return pixel * PITCH + turned * 16;
    }
};
static_assert(Slab<bf16>::BYTES == Slab<float>::BYTES, "both forms take the same shared memory");
const int WEIGHT_STAGE_BYTES = 2 * Slab<bf16>::BYTES;
const int WEIGHT_SHARED = MMA_STAGES * WEIGHT_STAGE_BYTES;  // 49152 bytes of dynamic shared memory

// Fills 16 bytes of shared memory from `source`: `live` numbers, then zeros. If the rows are `aligned`, a `live` above 0 stands for all,
// and cp.async copies them. Otherwise they are copied one by one, and other threads see them after the barrier that follows the wait for
// cp.async. `readable` is any valid address.
template <class T> DEVICE void fetch_row(T* to, const T* source, const T* readable, int live, bool aligned) {
    const int wide = Slab<T>::WIDE;
    if (aligned) {
        cp_async_16(to, live > 0 ? source : readable, live > 0);
    } else {
#pragma unroll
        for (int e = 0; e < wide; e++) {
            T zero;
            store(&zero, 0.0f);
            to[e] = e < live ? source[e] : zero;
        }
    }
}

// What one thread fetches: WIDE rows (x under a tap) and WIDE columns (dy) of every PASS-th output pixel of the split.
template <class T> struct WeightOperands {
    const T *x, *dy;
    ConvSizes conv;
    int offset_y, offset_x, channel;  // of the first of its rows: tap - padding, input channel
    int rows, columns;                // how many of its rows and columns exist
    int image, out_y, out_x, left;    // the next pixel, and how many pixels of the split are left, this one included
    const T* gradients;               // dy of that pixel at its first column
    int step_image, step_y, step_x;   // PASS pixels forward, as images, rows and columns

    METHOD void load_stage(unsigned char* stage) {
        const int wide = Slab<T>::WIDE;
#pragma unroll
        for (int pass = 0; pass < Slab<T>::PASSES; pass++) {
            int pixel = pass * Slab<T>::PASS + (int)threadIdx.x / Slab<T>::CHUNKS;
            T* to = (T*)(stage + Slab<T>::at(pixel, (int)threadIdx.x % Slab<T>::CHUNKS));
            load_rows(to);
            to = (T*)((unsigned char*)to + Slab<T>::BYTES);
            fetch_row(to, gradients, dy, left > 0 ? columns : 0, conv.out_c % wide == 0);
            advance();
        }
    }
    METHOD void load_rows(T* to) const {
        const int wide = Slab<T>::WIDE;
        int top = out_y * conv.stride_y, start = out_x * conv.stride_x;
        if (conv.in_c % wide == 0) {
            bool inside = left > 0 && rows > 0 && within(top + offset_y, start + offset_x);
            fetch_row(to, x + element(top + offset_y, start + offset_x, channel), x, inside ? wide : 0, true);
            return;
        }
        // The rows of this thread may belong to several taps.
        int down = offset_y, right = offset_x, c = channel;
#pragma unroll
        for (int e = 0; e < wide; e++) {
            bool inside = left > 0 && e < rows && within(top + down, start + right);
            T v;
            store(&v, 0.0f);
            if (inside) v = x[element(top + down, start + right, c)];
            to[e] = v;
            if (++c < conv.in_c) continue;
            c = 0;
            if (++right < conv.kernel_w - conv.padding_x) continue;
            right = -conv.padding_x;
            down++;
        }
    }
    METHOD bool within(int y, int x) const { return (unsigned)y < (unsigned)conv.in_h && (unsigned)x < (unsigned)conv.in_w; }
    METHOD long long element(int y, int x, int c) const {
        return ((long long)(image * conv.in_h + y) * conv.in_w + x) * conv.in_c + c;
    }
    // Moves PASS pixels forward; the steps are less than a row and an image, so each carries at most once.
    METHOD void advance() {
        out_x += step_x, out_y += step_y, image += step_image;
        if (out_x >= conv.out_w) out_x -= conv.out_w, out_y++;
        if (out_y >= conv.out_h) out_y -= conv.out_h, image++;
        gradients += (long long)Slab<T>::PASS * conv.out_c;
        left -= Slab<T>::PASS;
    }
};

// Reads the fragments of mma from the 16 (bf16) or 8 (tf32) pixels that start at `slab`: those of the 16 rows, or 16 columns, that
// start at `first`.
template <class T> struct Fragments;
template <> struct Fragments<bf16> {
    static const int DEPTH = 16;
    static METHOD void rows(uint32_t (&r)[4], const unsigned char* slab, int first) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4_trans(r, slab + Slab<bf16>::at(lane % 8 + lane / 16 * 8, first / 8 + lane / 8 % 2));
    }
    static METHOD void columns(uint32_t (&r)[4], const unsigned char* slab, int first) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4_trans(r, slab + Slab<bf16>::at(lane % 8 + lane / 8 % 2 * 8, first / 8 + lane / 16));
    }
};
template <> struct Fragments<float> {
    static const int DEPTH = 8;
    static METHOD uint32_t word(const unsigned char* slab, int pixel, int at) {
        return round_tf32(((const uint32_t*)(slab + Slab<float>::at(pixel, at / 4)))[at % 4]);
    }
    static METHOD void rows(uint32_t (&r)[4], const unsigned char* slab, int first) {
        int pixel = threadIdx.x % 4, at = first + threadIdx.x % 32 / 4;
        r[0] = word(slab, pixel, at), r[1] = word(slab, pixel, at + 8);
        r[2] = word(slab, pixel + 4, at), r[3] = word(slab, pixel + 4, at + 8);
    }
    static METHOD void columns(uint32_t (&r)[4], const unsigned char* slab, int first) {
        int pixel = threadIdx.x % 4, at = first + threadIdx.x % 32 / 4;
        r[0] = word(slab, pixel, at), r[1] = word(slab, pixel + 4, at);
        r[2] = word(slab, pixel, at + 8), r[3] = word(slab, pixel + 4, at + 8);
    }
};

template <class T>
DEVICE void backward_weight_mma(const T* x, const T* dy, float* partials, ConvSizes conv, int split_pixels) {
    DYNAMIC_SHARED(shared);
    const int chunk = (int)threadIdx.x % Slab<T>::CHUNKS * Slab<T>::WIDE, warp = threadIdx.x / 32;
    int all_rows = conv.kernel_h * conv.kernel_w * conv.in_c;
    int row = blockIdx.x * MMA_ROWS + chunk, column = blockIdx.y * MMA_COLUMNS + chunk;
    long long first = (long long)blockIdx.z * split_pixels;
    int pixels = (int)(min(first + split_pixels, (long long)conv.n * conv.out_h * conv.out_w) - first);
    int pixel = (int)first + (int)threadIdx.x / Slab<T>::CHUNKS, out_row = pixel / conv.out_w, image = out_row / conv.out_h;
    int tap = row / conv.in_c, step_rows = Slab<T>::PASS / conv.out_w;

    WeightOperands<T> operands{x, dy, conv,
                               tap / conv.kernel_w - conv.padding_y, tap % conv.kernel_w - conv.padding_x, row - tap * conv.in_c,
                               all_rows - row, conv.out_c - column,
                               image, out_row - image * conv.out_h, pixel - out_row * conv.out_w,
                               pixels - (int)threadIdx.x / Slab<T>::CHUNKS, dy + (long long)pixel * conv.out_c + column,
                               step_rows / conv.out_h, step_rows % conv.out_h, Slab<T>::PASS % conv.out_w};
    int steps = ceil_div(pixels, Slab<T>::PIXELS);
    float acc[4][8][4] = {};
    auto fetch = [&](unsigned char* stage, int) { operands.load_stage(stage); };
    auto multiply = [&](const unsigned char* stage) {
#pragma unroll
        for (int depth = 0; depth < Slab<T>::PIXELS; depth += Fragments<T>::DEPTH) {
            const unsigned char* slab = stage + depth * Slab<T>::PITCH;
            uint32_t left[4][4], right[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) Fragments<T>::rows(left[i], slab, warp / 2 * 64 + i * 16);
#pragma unroll
            for (int j = 0; j < 4; j++) Fragments<T>::columns(right[j], slab + Slab<T>::BYTES, warp % 2 * 64 + j * 16);
            multiply_fragments<T>(acc, left, right);
        }
    };
    pipeline<WEIGHT_STAGE_BYTES>(shared, steps, fetch, multiply);

    float* out = partials + (long long)blockIdx.z * all_rows * conv.out_c;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int r = blockIdx.x * MMA_ROWS + mma_row(i, half * 2);
            if (r < all_rows) put_row(out + (long long)r * conv.out_c, blockIdx.y * MMA_COLUMNS, conv.out_c, acc[i], half, 0);
        }
}

// Block z sums the output pixels from z·split_pixels to (z+1)·split_pixels. A multiple of 32 leaves no step half empty.
// launch: grid (ceil(kernel_h·kernel_w·in_c / 128), ceil(out_c / 128), splits), splits = ceil(n·out_h·out_w / split_pixels),
// dynamic shared memory 49152
extern "C" __global__ void __launch_bounds__(128, 2)
    conv2d_backward_weight_bf16(const bf16* __restrict__ x,    // [n, in_h, in_w, in_c]
                                const bf16* __restrict__ dy,   // [n, out_h, out_w, out_c]
                                float* __restrict__ partials,  // [splits, kernel_h, kernel_w, in_c, out_c]
                                ConvSizes conv, int split_pixels) {
    backward_weight_mma(x, dy, partials, conv, split_pixels);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    conv2d_backward_weight_tf32(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ partials,
                                ConvSizes conv, int split_pixels) {
    backward_weight_mma(x, dy, partials, conv, split_pixels);
}
