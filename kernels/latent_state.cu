// What latent states keep from batch to batch, where they do not simply stay in their slots: a memory of rows, each of the size of a slot
// (src/engine/latent_state/memory.rs). After a step, groups of slots are collected into rows; before the next, rows are spread to slots.
//
// Contract. Nothing overlaps. collect_states changes the rows of its groups only, each of which is of one group; the others overwrite all of
// state.

#include "common.cuh"

// memory[row] += share·(mean of the group's slots - memory[row]); with a share of 1 the mean replaces the row. Slots are added in their order.
// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    collect_states(float* __restrict__ memory,       // [rows, slot]
                   const float* __restrict__ state,  // [slots, slot]
                   const int* __restrict__ groups,   // [count, 4]: row, first of its numbers in `slots`, how many, bits of the share
                   const int* __restrict__ slots,    // numbers of slots, those of a group one after the other
                   int count, int slot) {
    for_each_in_rows(count, slot, [=](long long group, int at) {
        const int* g = groups + group * 4;
        float sum = 0.0f, share = bits_to_float((uint32_t)g[3]);
        for (int i = 0; i < g[2]; i++) sum += state[(long long)slots[g[1] + i] * slot + at];
        float mean = sum / (float)g[2], *row = memory + (long long)g[0] * slot + at;
        *row = share == 1.0f ? mean : *row + share * (mean - *row);
    });
}

// launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    spread_states(const float* __restrict__ memory,  // [rows, slot]
                  float* __restrict__ state,         // [slots, slot]
                  const int* __restrict__ rows,      // [slots]: the row that a slot gets
                  int slots, int slot) {
    for_each_in_rows(slots, slot, [=](long long s, int at) { state[s * slot + at] = memory[(long long)rows[s] * slot + at]; });
}

// Sets every pixel of every slot to the mean over pixels of one row. launch: grid (channels)
extern "C" __global__ void __launch_bounds__(256)
    spread_channel_means(const float* __restrict__ memory,  // [pixels, channels]
                         float* __restrict__ state,         // [slots, pixels, channels]
                         int slots, int pixels, int channels) {
    float sum = 0.0f;
    for (int pixel = threadIdx.x; pixel < pixels; pixel += blockDim.x) sum += memory[(long long)pixel * channels + blockIdx.x];
    float mean = block_sum(sum) / (float)pixels;
    for (long long at = threadIdx.x; at < (long long)slots * pixels; at += blockDim.x) state[at * channels + blockIdx.x] = mean;
}
