// Checks that each planted fault is caught by the layers that should catch it: runs each fault in a child process and looks at how
// that ends. The layers are Values (a NaN in the output, or different bits under some schedule), Report (the emulator ends the
// launch), and the sanitizer that this program was built with, which ends the process.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../cuda_compat.h"

enum Layer { Nothing = 0, Values = 1, Report = 2, Address = 4, Race = 8 };

// fault(kernel, the layers that catch it, blocks, dynamic shared memory). Values and Report apply in every build, Address and Race with
// the sanitizer of that name.
#define FAULTS(fault)                                           \
    fault(faultless, Nothing, 1, 0)                             \
    fault(shared_static_too_far, Address, 1, 0)                 \
    fault(shared_dynamic_too_far, Address, 1, 256)              \
    fault(global_too_far, Address, 1, 0)                        \
    fault(global_read_too_far, Address, 1, 0)                   \
    fault(misaligned, Address, 1, 0)                            \
    fault(no_barrier_reads_lower, Values | Race, 1, 0)          \
    fault(no_barrier_reads_higher, Values | Race, 1, 0)         \
    fault(no_second_barrier, Values | Race, 1, 0)               \
    fault(no_syncwarp, Values | Race, 1, 0)                     \
    fault(uninitialised_shared, Values, 1, 0)                   \
    fault(output_forgotten, Values, 1, 0)                       \
    fault(diverged_barriers, Report, 1, 0)                      \
    fault(deadlock, Report, 1, 0)                               \
    fault(lane_missing, Report, 1, 0)                           \
    fault(copy_never_waited_for, Values | Report, 1, 0)         \
    fault(one_wait_too_few, Values, 1, 0)                       \
    fault(copy_without_barrier, Values | Race, 1, 0)            \
    fault(copy_misaligned, Report, 1, 0)                        \
    fault(two_blocks_one_place, Values | Race, 2, 0)            \
    fault(too_much_shared, Report, 1, 120000)

#define DECLARE(kernel, layers, blocks, shared) extern "C" void kernel(float* out, const float* in);
FAULTS(DECLARE)
#undef DECLARE

struct Fault {
    const char* name;
    void (*kernel)(float*, const float*);
    int layers;
    unsigned blocks, shared;
};
static const Fault faults[] = {
#define ENTRY(kernel, layers, blocks, shared) {#kernel, kernel, layers, blocks, shared},
    FAULTS(ENTRY)
#undef ENTRY
};

#if defined(__SANITIZE_ADDRESS__)
static const int SANITIZER = Address;
#elif defined(__SANITIZE_THREAD__)
static const int SANITIZER = Race;
#else
static const int SANITIZER = Nothing;
#endif

struct Call {
    void (*kernel)(float*, const float*);
    float *out, *in;
};

// Runs in the child, whose exit code is the layers that noticed. A sanitizer ends the process with a code of its own.
static int run(const Fault& fault) {
    int layers = 0;
    std::vector<float> first;
    for (unsigned schedule = 0; schedule < 3; schedule++) {
        std::vector<float> out(64), in(64);
        memset((void*)out.data(), 0xff, 64 * sizeof(float));
        for (int i = 0; i < 64; i++) in[i] = (float)(i / 4 * 4 + 1);
        // Copies in groups of 4 keep their first element; elsewhere neighbours must differ.
        if (!strstr(fault.name, "copy") && !strstr(fault.name, "wait"))
            for (int i = 0; i < 64; i++) in[i] = (float)i + 1;
        Call call{fault.kernel, out.data(), in.data()};
        char message[600];
        emu::Launch launch{{fault.blocks, 1, 1}, {64, 1, 1}, fault.shared, (emu::Schedule)schedule, 7};
        bool ended = emu::launch(launch, [](void* c) { ((Call*)c)->kernel(((Call*)c)->out, ((Call*)c)->in); }, &call, message,
                                 sizeof message);
        if (!ended) {
            if (schedule == 0) fprintf(stderr, "%s\n", message);
            layers |= Report;
            if (strcmp(fault.name, "copy_never_waited_for") != 0) break;
        }
        for (float v : out)
            if (v != v) layers |= Values;
        if (schedule == 0) first = out;
        if (memcmp(first.data(), out.data(), 64 * sizeof(float)) != 0) layers |= Values;
    }
    return layers;
}

// A child exits with this plus the layers that noticed; any other end comes from the sanitizer.
static const int CODE = 40;

int main(int argc, char** argv) {
    if (argc == 2) {
        for (const Fault& fault : faults)
            if (strcmp(fault.name, argv[1]) == 0) _exit(CODE + run(fault));
        return 99;
    }
    int failed = 0;
    for (const Fault& fault : faults) {
        // Out of bounds without the address sanitizer, anything may happen.
        if ((fault.layers & Address) && SANITIZER != Address) continue;
        bool stops = (fault.layers & SANITIZER) != 0;
        int wanted = CODE + (fault.layers & (Values | Report));
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            if (stops && !freopen("/dev/null", "w", stderr)) _exit(98);
            setenv("TSAN_OPTIONS", "halt_on_error=1", 1);
            execl("/proc/self/exe", argv[0], fault.name, (char*)nullptr);
            _exit(98);
        }
        int status = 0;
        waitpid(child, &status, 0);
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
        bool stopped = code < CODE || code > CODE + 3, good = stops ? stopped && code != 98 && code != 99 : code == wanted;
        const char* how = stops ? "stopped by the sanitizer" : wanted == CODE ? "clean" : fault.layers & Report ? "reported" : "seen in the values";
        printf("%-24s %s\n", fault.name, good ? how : "FAILED: not caught where it should be");
        if (!good) {
            printf("    ended with code %d\n", code);
            failed++;
        }
    }
    return failed != 0;
}
