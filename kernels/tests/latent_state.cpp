#include "harness.h"
using namespace test;

CASE(latent_state_memory) {
    for (int slot : {1, 37, 300}) {
        Floats state = random_floats(5 * slot), memory = random_floats(3 * slot), before = memory;
        // Row 2 takes a quarter of the mean of the slots 3, 0 and 1; row 0 becomes slot 4. Row 1 and slot 2 have no part.
        float quarter = 0.25f, whole = 1.0f;
        int32_t bits[2];
        memcpy(bits, &quarter, 4), memcpy(bits + 1, &whole, 4);
        Ints groups{2, 0, 3, bits[0], 0, 3, 1, bits[1]}, slots{3, 0, 1, 4};
        Doubles want = values(memory);
        for (int at = 0; at < slot; at++) {
            double mean = ((double)state[3 * slot + at] + state[at] + state[slot + at]) / 3;
            want[2 * slot + at] += 0.25 * (mean - want[2 * slot + at]);
            want[at] = state[4 * slot + at];
        }
        RUN(collect_states, (Grid{2}), memory, state, groups, slots, 2, slot);
        expect("memory", memory, want, 1e-6, 1e-6);

        Ints rows{2, 2, 0, 1};
        Floats spread(4 * slot);
        RUN(spread_states, (Grid{3}), memory, spread, rows, 4, slot);
        Doubles copied(4 * slot);
        for (int at = 0; at < 4 * slot; at++) copied[at] = memory[rows[at / slot] * slot + at % slot];
        expect_exact("spread", spread, copied);
    }
}

CASE(latent_state_channel_means) {
    for (int pixels : {1, 7, 600}) {
        const int channels = 5, slots = 3;
        Floats memory = random_floats(pixels * channels), state(slots * pixels * channels);
        Doubles want(slots * pixels * channels);
        for (int c = 0; c < channels; c++) {
            double sum = 0;
            for (int p = 0; p < pixels; p++) sum += memory[p * channels + c];
            for (int at = 0; at < slots * pixels; at++) want[at * channels + c] = sum / pixels;
        }
        RUN(spread_channel_means, (Grid{channels}), memory, state, slots, pixels, channels);
        expect("means", state, want, 1e-6, 1e-6);
    }
}
