// Runs every case, or those whose names contain an argument. Exit code 1 if one fails.
#include <algorithm>

#include "harness.h"

namespace test {

struct Case {
    const char* name;
    void (*body)();
};
static std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}
Register::Register(const char* name, void (*body)()) { cases().push_back({name, body}); }

struct LaunchFailed {};

static const char* const schedules[] = {"forward", "reverse", "shuffled"};
#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer is slow, and sees a missing barrier under any schedule.
static const unsigned SCHEDULES = 1;
#else
static const unsigned SCHEDULES = 3;
#endif
static unsigned schedule;
static uint64_t random_state;
static int failures, checks;
static uint64_t bits;
static std::vector<std::string> launched;

void launch(const char* kernel, Grid grid, unsigned shared_bytes, void** arguments) {
    if (std::find(launched.begin(), launched.end(), kernel) == launched.end()) launched.push_back(kernel);
    unsigned g[3] = {grid.x, grid.y, grid.z}, block[3] = {ptl_emu_threads(kernel), 1, 1};
    char message[600] = "";
    if (ptl_emu_launch(kernel, g, block, shared_bytes, arguments, schedule, 1, message, sizeof message) != 0) {
        printf("  %s: %s\n", kernel, message);
        throw LaunchFailed();
    }
}

static uint64_t next() {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
double uniform(double low, double high) { return low + (high - low) * (double)(next() >> 11) / 9007199254740992.0; }
unsigned below(unsigned n) { return (unsigned)(next() % n); }
Floats random_floats(size_t n, double low, double high) {
    Floats out(n);
    for (float& v : out.data) v = (float)uniform(low, high);
    return out;
}
Halves random_halves(size_t n, double low, double high) {
    Halves out(n);
    for (bf16& v : out.data) store(&v, (float)uniform(low, high));
    return out;
}

void compare(const std::string& what, size_t i, double got, double want, double absolute, double relative) {
    checks++;
    bool same = std::isnan(want) ? std::isnan(got) : got == want || std::fabs(got - want) <= absolute + relative * std::fabs(want);
    if (!same && failures++ < 20) printf("  %s[%zu] is %.9g, not %.9g\n", what.c_str(), i, got, want);
}

void record(const void* bytes, size_t n) {
    for (size_t i = 0; i < n; i++) bits = (bits ^ ((const unsigned char*)bytes)[i]) * 1099511628211u;
}

static bool run_case(const Case& c) {
    uint64_t first = 0;
    bool good = true;
    for (schedule = 0; schedule < SCHEDULES; schedule++) {
        failures = checks = 0;
        bits = 14695981039346656037u;
        random_state = 42;
        try {
            c.body();
        } catch (const LaunchFailed&) {
            failures++;
        }
        if (checks == 0 && failures == 0) {
            printf("  the case checks nothing\n");
            failures++;
        }
        if (schedule == 0) first = bits;
        if (failures == 0 && bits != first) {
            printf("  other bits than under the forward schedule\n");
            failures++;
        }
        if (failures) printf("%s FAILED under the %s schedule: %d of %d checks\n", c.name, schedules[schedule], failures, checks);
        good &= failures == 0;
    }
    return good;
}

}  // namespace test

int main(int argc, char** argv) {
    using namespace test;
    int run = 0, failed = 0;
    for (const Case& c : cases()) {
        bool wanted = argc == 1;
        for (int i = 1; i < argc; i++) wanted |= strstr(c.name, argv[i]) != nullptr;
        if (!wanted) continue;
        run++;
        failed += !run_case(c);
        fflush(stdout);
    }
    int forgotten = 0;
#define KERNEL(name, threads, parameters)                                                   \
    if (argc == 1 && std::find(launched.begin(), launched.end(), #name) == launched.end()) { \
        printf("no case launches %s\n", #name);                                             \
        forgotten++;                                                                        \
    }
#include "table.inc"
#undef KERNEL
    printf("%d cases, %zu kernels, %u schedules: %d failed\n", run, launched.size(), SCHEDULES, failed);
    return run == 0 || failed != 0 || forgotten != 0;
}
