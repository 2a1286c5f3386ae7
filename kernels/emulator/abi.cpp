// The C interface of the emulator: launches by name, with the `void**` arguments that the CUDA driver's launch call takes.
#include <utility>

#include "../conv_sizes.h"
#include "../cuda_compat.h"

// A line KERNEL(name, threads of a block, (parameters)) for each kernel, written from the signatures when this is built.
#define KERNEL(name, threads, parameters) extern "C" void name parameters;
#include "table.inc"
#undef KERNEL

namespace {

template <class... P, size_t... I>
void apply(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*(P*)arguments[I]...);
}
template <class... P> void apply(void (*kernel)(P...), void** arguments) {
    apply(kernel, arguments, std::index_sequence_for<P...>());
}

struct Kernel {
    const char* name;
    unsigned threads;
    void (*call)(void* arguments);
};

const Kernel kernels[] = {
#define KERNEL(name, threads, parameters) {#name, threads, [](void* arguments) { apply(name, (void**)arguments); }},
#include "table.inc"
#undef KERNEL
};

const Kernel* find(const char* name) {
    for (const Kernel& kernel : kernels)
        if (strcmp(kernel.name, name) == 0) return &kernel;
    return nullptr;
}

}  // namespace

extern "C" {

// Returns the threads of a block of this kernel, the number in its __launch_bounds__, or 0 if there is no such kernel.
unsigned ptl_emu_threads(const char* kernel) {
    const Kernel* found = find(kernel);
    return found ? found->threads : 0;
}

// Runs a kernel to its end. `arguments` has one pointer for each parameter, to a value of the parameter's type. `schedule` is the
// order of threads: 0 forward, 1 backward, 2 random by `seed`. Returns 0, or 1 with the reason in `message`. Several host
// threads may launch at the same time.
int ptl_emu_launch(const char* kernel, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                   void** arguments, unsigned schedule, unsigned long long seed, char* message, size_t message_len) {
    auto refuse = [&](const char* why) {
        if (message_len) {
            strncpy(message, why, message_len - 1);
            message[message_len - 1] = 0;
        }
        return 1;
    };
    const Kernel* found = find(kernel);
    if (!found) return refuse("no kernel of this name");
    if (block[0] * block[1] * block[2] != found->threads) return refuse("block differs from the kernel's __launch_bounds__");
    if (schedule > 2) return refuse("no schedule of this number");
    emu::Launch launch{{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, (emu::Schedule)schedule, seed};
    return emu::launch(launch, found->call, arguments, message, message_len) ? 0 : 1;
}

}  // extern "C"
