// Convolution as a matrix product on tensor cores (mma.sync, sm_80 and later), in bf16 or tf32 with f32 sums.
//
// A block of 128 threads computes 128 rows x 128 columns; each of its 4 warps computes 64 x 64, so that it reads 4 KB from shared memory
// for 65536 products of bf16. A step of depth is 64 bytes: 32 numbers in bf16, 16 in tf32. Three steps are in shared memory at a time,
// loaded by cp.async. A 16-byte row of an 8x8 ldmatrix tile is 8 bf16 or 4 f32, and both mma instructions take the words of their
// fragments from the same positions, so one loop serves both types; only the instruction differs.
#pragma once

#include "pixels.cuh"

const int MMA_ROWS = 128, MMA_COLUMNS = 128, MMA_THREADS = 128, MMA_STAGES = 3;
const int MMA_DEPTH_BYTES = 64;
const int MMA_STAGE_BYTES = (MMA_ROWS + MMA_COLUMNS) * MMA_DEPTH_BYTES;
const int MMA_SHARED = MMA_STAGES * MMA_STAGE_BYTES;  // 49152 bytes of dynamic shared memory
// Rows, and columns, of which a thread loads 16 bytes of each step: threadIdx.x / 4 + 32·i, their part threadIdx.x % 4.
const int MMA_LOADS = MMA_ROWS * 4 / MMA_THREADS;
DEVICE int mma_loaded(int i) { return (int)threadIdx.x / 4 + i * (MMA_THREADS / 4); }

// The byte of a stage where the 16 bytes number `part` (0 to 3) of a row or column lie. Parts change places from row to row, so that the
// eight rows of an ldmatrix, and the eight stores of a quarter of a warp, are in different banks.
DEVICE int mma_at(int row, int part) { return row * MMA_DEPTH_BYTES + (part ^ row / 2 % 4) * 16; }

// The places of the rows that a thread loads; place(first + row) for those that exist (pixels.cuh).
struct MmaPlaces {
    int4 of[MMA_LOADS];

    template <class F> METHOD MmaPlaces(long long first, long long count, F place) {
#pragma unroll
        for (int i = 0; i < MMA_LOADS; i++) {
            long long pixel = first + mma_loaded(i);
            of[i] = pixel < count ? place((int)pixel) : make_int4(0, NO_PIXEL, 0, 0);
        }
    }
};

template <class T> struct Mma;
template <> struct Mma<bf16> {
    static const int DEPTH = 32;  // numbers in 64 bytes
    static METHOD void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_bf16(d, a, b0, b1); }
    static METHOD uint32_t operand(uint32_t word) { return word; }
    static METHOD bf16 rounded(float v) {
        bf16 r;
        store(&r, v);
        return r;
    }
};
template <> struct Mma<float> {
    static const int DEPTH = 16;
    static METHOD void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_tf32(d, a, b0, b1); }
    // The tensor core would truncate; rounding halves the error.
    static METHOD uint32_t operand(uint32_t word) { return round_tf32(word); }
    static METHOD float rounded(float v) { return bits_to_float(round_tf32(float_to_bits(v))); }
};

// Steps of depth for one tap. Each has DEPTH channels, the last one is filled up with zeros.
template <class T> DEVICE int steps_of_tap(int channels) { return ceil_div(channels, Mma<T>::DEPTH); }

// The left side: rows are pixels, depth is (tap y, tap x, channel); the element is image[y ± tap y][x ± tap x][channel], or 0
// outside.
template <class T> struct MmaPixels {
    static METHOD int steps(int taps, int channels) { return taps * steps_of_tap<T>(channels); }
    // The index tap·channels + channel of number k of a step, or -1 where the step is filled up with zeros.
    static METHOD int depth_at(int step, int k, int, int channels) {
        int per_tap = steps_of_tap<T>(channels), channel = step % per_tap * Mma<T>::DEPTH + k;
        return channel < channels ? step / per_tap * channels + channel : -1;
    }

    const T* image;  // [n, height, width, channels]
    int height, width, channels;
    int taps_x;
    int direction;  // 1 or -1: the sign of the tap
    MmaPlaces places;
    // The tap and the first channel of the next step. They are counted, because divisions would take as long as the loads.
    int tap_y = 0, tap_x = 0, first = 0;

    static METHOD MmaPixels forward(const T* x, const ConvSizes& conv, const MmaPlaces& places) {
        return {x, conv.in_h, conv.in_w, conv.in_c, conv.kernel_w, 1, places};
    }
    // Starts to load the next step of depth.
    METHOD void load_next(unsigned char* stage) {
        const int wide = 16 / (int)sizeof(T);
        int channel = first + (int)(threadIdx.x % 4) * wide;
#pragma unroll
        for (int i = 0; i < MMA_LOADS; i++) {
            int4 place = places.of[i];
            int y = place.y + direction * tap_y, x = place.z + direction * tap_x;
            bool inside = (unsigned)y < (unsigned)height && (unsigned)x < (unsigned)width && channel < channels;
            const T* source = inside ? image + ((long long)(place.x + y) * width + x) * channels + channel : image;
            T* to = (T*)(stage + mma_at(mma_loaded(i), threadIdx.x % 4));
            if (channels % wide == 0) {
                cp_async_16(to, source, inside);
            } else {
                // Rows that are no multiple of 16 bytes long are not aligned. They are copied number by number, which other threads
                // see after the barrier that follows the wait for cp.async.
#pragma unroll
                for (int e = 0; e < wide; e++) {
                    T zero;
                    store(&zero, 0.0f);
                    to[e] = inside && channel + e < channels ? source[e] : zero;
                }
            }
        }
        first += Mma<T>::DEPTH;
        if (first < channels) return;
        first = 0;
        if (++tap_x == taps_x) tap_x = 0, tap_y++;
    }
};

// The same left side for few channels, forward only: depth is tap·channels + channel without gaps between the taps, so that a step
// may hold numbers of many taps, and only the last step is filled up with zeros.
template <class T> struct MmaDensePixels {
    static METHOD int steps(int taps, int channels) { return ceil_div(taps * channels, Mma<T>::DEPTH); }
    static METHOD int depth_at(int step, int k, int taps, int channels) {
        int depth = step * Mma<T>::DEPTH + k;
        return depth < taps * channels ? depth : -1;
    }

    const T* image;  // [n, height, width, channels]
    int height, width, channels;
    int taps_y, taps_x;
    MmaPlaces places;
    int step = 0;  // the next one

    static METHOD MmaDensePixels forward(const T* x, const ConvSizes& conv, const MmaPlaces& places) {
        return {x, conv.in_h, conv.in_w, conv.in_c, conv.kernel_h, conv.kernel_w, places};
    }
    METHOD void load_next(unsigned char* stage) {
        const int wide = 16 / (int)sizeof(T);
        int depth = step++ * Mma<T>::DEPTH + (int)(threadIdx.x % 4) * wide, tap = depth / channels, channel = depth - tap * channels;
        int tap_y = tap / taps_x, tap_x = tap - tap_y * taps_x;
#pragma unroll
        for (int i = 0; i < MMA_LOADS; i++) {
            int4 place = places.of[i];
            long long at = ((long long)(place.x + place.y + tap_y) * width + place.z + tap_x) * channels + channel;
            unsigned char* to = stage + mma_at(mma_loaded(i), threadIdx.x % 4);
            if (channels % wide == 0) {
                // All 16 bytes belong to one tap.
                bool valid = inside(place, tap_y, tap_x);
                cp_async_16(to, valid ? image + at : image, valid);
                continue;
            }
            // Copied number by number, which other threads see after the barrier that follows the wait for cp.async. Successive numbers of
            // depth are successive in memory too, except at the end of a line of taps.
            struct alignas(16) {
                T of[wide];
            } numbers;
            int c = channel, y = tap_y, x = tap_x;
#pragma unroll
            for (int e = 0; e < wide; e++) {
                store(&numbers.of[e], 0.0f);
                if (inside(place, y, x)) numbers.of[e] = image[at];
                at++;
                if (++c < channels) continue;
                c = 0;
                if (++x < taps_x) continue;
                x = 0, y++;
                at += (long long)(width - taps_x) * channels;
            }
            *(decltype(numbers)*)to = numbers;
        }
    }
    METHOD bool inside(int4 place, int tap_y, int tap_x) const {
        return tap_y < taps_y && (unsigned)(place.y + tap_y) < (unsigned)height && (unsigned)(place.z + tap_x) < (unsigned)width;
    }
};

// Runs a product over `steps` steps of depth, which pass through MMA_STAGES stages of shared memory: while one is multiplied, the
// next ones are fetched. fetch(stage, step) starts to fill a stage, by cp.async or by plain stores, and is called for the steps in
// order; multiply(stage) reads a stage that has arrived.
template <int STAGE_BYTES, class Fetch, class Multiply>
DEVICE void pipeline(unsigned char* shared, int steps, Fetch fetch, Multiply multiply) {
#pragma unroll
    for (int step = 0; step < MMA_STAGES - 1; step++) {
        if (step < steps) fetch(shared + step * STAGE_BYTES, step);
        cp_async_commit();  // empty groups too, so that counting groups counts steps
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<MMA_STAGES - 2>();
        // After the barrier, what all threads fetched of this stage has arrived, and no thread reads the stage that is filled next.
        __syncthreads();
        int next = step + MMA_STAGES - 1;
        if (next < steps) fetch(shared + next % MMA_STAGES * STAGE_BYTES, next);
        cp_async_commit();
        multiply(shared + step % MMA_STAGES * STAGE_BYTES);
    }
    cp_async_wait<0>();
}

// acc[i][j] += left[i] · right[j / 2][the half j % 2]
template <class T>
DEVICE void multiply_fragments(float (&acc)[4][8][4], const uint32_t (&left)[4][4], const uint32_t (&right)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            Mma<T>::multiply(acc[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
}

// acc[i][j] += rows · columns over `steps` steps of depth. acc[i][j] is a tile of 16x8, which in warp w starts at row 64·(w/2) +
// 16·i and column 64·(w%2) + 8·j; lane l holds its rows l/4 and l/4 + 8, columns 2·(l%4) and the next one. The right side is packed
// as [steps][MMA_COLUMNS][DEPTH].
template <class T, class Pixels>
DEVICE void multiply_mma(float (&acc)[4][8][4], unsigned char* shared, Pixels a, const T* packed, int steps) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    auto fetch = [&](unsigned char* stage, int step) {
        a.load_next(stage);
        const unsigned char* source = (const unsigned char*)packed + (long long)step * MMA_COLUMNS * MMA_DEPTH_BYTES;
#pragma unroll
        for (int i = 0; i < MMA_LOADS; i++) {
            int column = mma_loaded(i), part = threadIdx.x % 4;
            cp_async_16(stage + mma_at(MMA_ROWS + column, part), source + column * MMA_DEPTH_BYTES + part * 16, true);
        }
    };
    auto multiply = [&](const unsigned char* stage) {
        const int rows = warp / 2 * 64 + lane % 16, columns = MMA_ROWS + warp % 2 * 64 + lane % 8 + lane / 16 * 8;
#pragma unroll
        for (int part = 0; part < 4; part += 2) {
            uint32_t left[4][4], right[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                ldmatrix_x4(left[i], stage + mma_at(rows + i * 16, part + lane / 16));
#pragma unroll
                for (int r = 0; r < 4; r++) left[i][r] = Mma<T>::operand(left[i][r]);
            }
#pragma unroll
            for (int j = 0; j < 4; j++)
                ldmatrix_x4(right[j], stage + mma_at(columns + j * 16, part + lane / 8 % 2));
            multiply_fragments<T>(acc, left, right);
        }
    };
    pipeline<MMA_STAGE_BYTES>(shared, steps, fetch, multiply);
}

// The row of acc[i][·][e] within the block's tile, and the column of acc[·][j][e].
DEVICE int mma_row(int i, int e) { return (int)threadIdx.x / 64 * 64 + i * 16 + (int)threadIdx.x % 32 / 4 + e / 2 * 8; }
DEVICE int mma_column(int j, int e) { return (int)threadIdx.x / 32 % 2 * 64 + j * 8 + (int)threadIdx.x % 4 * 2 + e % 2; }

// Stores or adds two neighbouring numbers at once. The index of the first and the length of the row are even.
DEVICE void put_pair(float* p, float a, float b, int accumulate) {
    if (accumulate) {
        float2 v = *(const float2*)p;
        a += v.x, b += v.y;
    }
    *(float2*)p = float2{a, b};
}
DEVICE void put_pair(bf16* p, float a, float b, int accumulate) {
    if (accumulate) {
        uint32_t v = *(const uint32_t*)p;
        a += bits_to_float(v << 16), b += bits_to_float(v & 0xffff0000u);
    }
    *(uint32_t*)p = pack_bf16(a, b);
}

// Stores or adds this thread's sums acc[·][2·half] and acc[·][2·half + 1], which belong to one row of the tile, into `row` of
// `columns` numbers. The tile starts at its column `first`.
template <class T>
DEVICE void put_row(T* row, int first, int columns, const float (&acc)[8][4], int half, int accumulate) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        int column = first + mma_column(j, 0);
        float a = acc[j][half * 2], b = acc[j][half * 2 + 1];
        if (columns % 2 == 0) {
            if (column < columns) put_pair(row + column, a, b, accumulate);
        } else {
            if (column < columns) put(row + column, a, accumulate);
            if (column + 1 < columns) put(row + column + 1, b, accumulate);
        }
    }
}
