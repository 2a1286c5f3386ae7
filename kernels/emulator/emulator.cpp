// How the emulator runs: fibers, barriers and warp collectives, shared memory, deferred copies. See emulator.h.
//
// For AddressSanitizer, each switch of fibers is announced, and shared arrays are heap blocks of exact size with redzones. For
// ThreadSanitizer, every CUDA thread is a fiber of its own. A switch of fibers creates no order between them, only barriers,
// __syncwarp and the launch do; so a missing barrier is a data race under any schedule. Blocks are not ordered with respect to
// each other. The emulator's own memory accesses are hidden from it (Quiet).

#include "emulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif
#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#if defined(EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace emu {

// The smallest limit of the GPUs that the kernels are built for (sm_86, sm_89), and the limit without opt-in.
static const size_t MAX_SHARED = 99 * 1024;
static const size_t MAX_STATIC_SHARED = 48 * 1024;
static const size_t PAGE = 4096;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const size_t STACK = 256 * 1024;
#else
static const size_t STACK = 64 * 1024;
#endif

// Hides memory accesses from ThreadSanitizer while the object exists.
struct Quiet {
#if defined(__SANITIZE_THREAD__)
    Quiet() {
        AnnotateIgnoreReadsBegin("", 0);
        AnnotateIgnoreWritesBegin("", 0);
    }
    ~Quiet() {
        AnnotateIgnoreWritesEnd("", 0);
        AnnotateIgnoreReadsEnd("", 0);
    }
#else
    Quiet() {}
    ~Quiet() {}
#endif
};

static void release(void* at) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(at);
#endif
    (void)at;
}
static void acquire(void* at) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(at);
#endif
    (void)at;
}

struct Site {
    const char* file = nullptr;
    int line = 0;
    bool operator!=(const Site& o) const { return line != o.line || strcmp(file, o.file) != 0; }
};

struct Copy {
    void* shared;
    const void* source;
    bool valid;
};

enum class Run { Ready, AtBarrier, InWarp, Done };

struct Context {
#if defined(EMU_UCONTEXT)
    ucontext_t machine;
#else
    void* stack_pointer = nullptr;
#endif
    void* asan = nullptr;
    void* tsan = nullptr;
};

struct Thread {
    View view;
    unsigned warp;
    Run run;
    Site waits_at;
    Context context;
    char* stack = nullptr;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    unsigned arrived = 0, generation = 0;
    Site site;
    Lane lanes[32];
    // What ThreadSanitizer releases and acquires. Two, used in turn: a later release must not reach an earlier acquire.
    char order[2][8];
};

struct StaticArray {
    const void* key;
    void* data;
    size_t bytes;
};

struct State {
    Launch launch;
    void (*body)(void*);
    void* body_context;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Thread* current = nullptr;
    Context main;
    const void* main_stack = nullptr;
    size_t main_stack_size = 0;
    unsigned live, arrived, generation = 0;
    Site barrier_site;
    char barrier_order[2][8], launch_order[8], exit_order[8];
    unsigned char* dynamic;
    std::vector<StaticArray> statics;
    std::vector<void*> garbage;
    bool failed;
    char* message;
    size_t message_len;
    // Stacks that no thread uses at present.
    std::vector<char*> stacks;
};

// One for each host thread, so that launches of several threads can run at the same time.
static __thread State* state = nullptr;

__thread const View* view = nullptr;

// ---- Context switch ----------------------------------------------------------------------------------------------

#if defined(EMU_UCONTEXT)
static void switch_machine(Context& from, Context& to) { swapcontext(&from.machine, &to.machine); }
#else
// Saves the callee-saved registers and switches to another stack.
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
.section .note.GNU-stack,"",@progbits
.text
)");
static void switch_machine(Context& from, Context& to) { emu_switch(&from.stack_pointer, to.stack_pointer); }
#endif

__attribute__((noinline)) static void to_thread(Thread& thread) {
    state->current = &thread;
    view = &thread.view;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(thread.context.tsan, 1);  // 1: no order
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&state->main.asan, thread.stack, STACK);
#endif
    switch_machine(state->main, thread.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(state->main.asan, nullptr, nullptr);
#endif
}

__attribute__((noinline)) static void to_main(bool for_good = false) {
    Thread& thread = *state->current;
    // Only the end of the launch acquires this: what a thread has done, even if it never continues, happened before the end.
    release(state->exit_order);
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(state->main.tsan, 1);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &thread.context.asan, state->main_stack, state->main_stack_size);
#endif
    (void)for_good;
    switch_machine(thread.context, state->main);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(thread.context.asan, nullptr, nullptr);
#endif
}

// ---- Failures ----------------------------------------------------------------------------------------------------

static void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
static void report(const char* format, ...) {
    if (state->failed) return;
    state->failed = true;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (state->current) {
        const Index &b = state->current->view.block, &t = state->current->view.thread;
        snprintf(state->message, state->message_len, "%s (block %u,%u,%u thread %u,%u,%u)", text, b.x, b.y, b.z, t.x, t.y, t.z);
    } else {
        snprintf(state->message, state->message_len, "%s", text);
    }
}

// Ends the launch from within a thread, which never continues.
void fail(const char* file, int line, const char* what) {
    {
        Quiet quiet;
        report("%s:%d: %s", file, line, what);
    }
    to_main();
}

// ---- Barriers and warp collectives -------------------------------------------------------------------------------

static void release_barrier() {
    state->generation++;
    state->arrived = 0;
    for (Thread& t : state->threads)
        if (t.run == Run::AtBarrier) t.run = Run::Ready;
    state->barrier_site = Site();
}

void barrier(const char* file, int line) {
    Quiet quiet;
    Thread& me = *state->current;
    Site site{file, line};
    if (state->barrier_site.file && site != state->barrier_site) {
        report("%s:%d: barrier meets the one at %s:%d: threads of a block diverged", file, line, state->barrier_site.file,
               state->barrier_site.line);
        to_main();
    }
    state->barrier_site = me.waits_at = site;
    void* order = state->barrier_order[state->generation & 1];
    release(order);
    me.run = Run::AtBarrier;
    // Threads that have ended are not waited for.
    if (++state->arrived == state->live) release_barrier();
    if (me.run == Run::AtBarrier) to_main();
    acquire(order);
}

void meet(void (*combine)(Lane (&lanes)[32]), const void* in, size_t in_bytes, void* out, size_t out_bytes,
          bool orders_memory, const char* file, int line) {
    Quiet quiet;
    Thread& me = *state->current;
    Warp& warp = state->warps[me.warp];
    Site site{file, line};
    if (warp.arrived && site != warp.site) {
        report("%s:%d: warp collective meets the one at %s:%d: lanes of a warp diverged", file, line, warp.site.file,
               warp.site.line);
        to_main();
    }
    warp.site = me.waits_at = site;
    Lane& lane = warp.lanes[me.view.lane];
    if (in_bytes) memcpy(lane.in, in, in_bytes);
    void* order = warp.order[warp.generation & 1];
    if (orders_memory) release(order);
    if (++warp.arrived == 32) {
        combine(warp.lanes);
        warp.arrived = 0;
        warp.generation++;
        for (unsigned l = 0; l < 32; l++) state->threads[me.warp * 32 + l].run = Run::Ready;
    } else {
        me.run = Run::InWarp;
        to_main();
    }
    if (orders_memory) acquire(order);
    if (out_bytes) memcpy(out, lane.out, out_bytes);
}

void combine_nothing(Lane (&)[32]) {}

void combine_shuffle(Lane (&lanes)[32]) {
    for (Lane& lane : lanes) memcpy(lane.out, lanes[lane.in[2]].in, 8);
}

void combine_ballot(Lane (&lanes)[32]) {
    uint32_t all = 0;
    for (unsigned l = 0; l < 32; l++) all |= (lanes[l].in[0] & 1) << l;
    for (Lane& lane : lanes) lane.out[0] = all;
}

void combine_ldmatrix(Lane (&lanes)[32]) {
    for (unsigned l = 0; l < 32; l++)
        for (unsigned m = 0; m < 4; m++) lanes[l].out[m] = lanes[m * 8 + l / 4].in[l % 4];
}

void combine_ldmatrix_trans(Lane (&lanes)[32]) {
    auto element = [&](unsigned matrix, unsigned row, unsigned column) {
        return lanes[matrix * 8 + row].in[column / 2] >> (column % 2 * 16) & 0xffffu;
    };
    for (unsigned l = 0; l < 32; l++)
        for (unsigned m = 0; m < 4; m++) {
            unsigned row = l % 4 * 2;
            lanes[l].out[m] = element(m, row, l / 4) | element(m, row + 1, l / 4) << 16;
        }
}

// Fragments of m16n8kK by the PTX manual: with g = lane/4 and t = lane%4, a[r] holds row g + 8·(r%2), b[r] column g; their
// columns and rows of K are the 32-bit words t + 4·(r/2) and t + 4·r; the product's d[r] is row g + 8·(r/2), column 2t + r%2.
template <unsigned K, class Unpack> static void multiply(Lane (&lanes)[32], Unpack unpack) {
    const unsigned per_word = K / 8;
    float a[16][K], b[K][8], d[16][8] = {};
    for (unsigned l = 0; l < 32; l++) {
        unsigned g = l / 4, t = l % 4;
        for (unsigned e = 0; e < per_word; e++) {
            for (unsigned r = 0; r < 4; r++) a[g + 8 * (r % 2)][(t + 4 * (r / 2)) * per_word + e] = unpack(lanes[l].in[r], e);
            for (unsigned r = 0; r < 2; r++) b[(t + 4 * r) * per_word + e][g] = unpack(lanes[l].in[4 + r], e);
        }
    }
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < K; k++)
            for (unsigned j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
    for (unsigned l = 0; l < 32; l++)
        for (unsigned r = 0; r < 4; r++) memcpy(&lanes[l].out[r], &d[l / 4 + 8 * (r / 2)][l % 4 * 2 + r % 2], 4);
}

void combine_mma_bf16(Lane (&lanes)[32]) {
    multiply<16>(lanes, [](uint32_t word, unsigned e) { return bits_to_float(e ? word & 0xffff0000u : word << 16); });
}

void combine_mma_tf32(Lane (&lanes)[32]) {
    // The tensor cores do not read the low 13 bits.
    multiply<8>(lanes, [](uint32_t word, unsigned) { return bits_to_float(word & 0xffffe000u); });
}

// ---- Memory ------------------------------------------------------------------------------------------------------

static void* poisoned(size_t bytes) {
    // aligned_alloc would round the size up and hide the first bytes beyond the end from the address sanitizer.
    void* at = nullptr;
    if (posix_memalign(&at, 128, bytes)) abort();
    memset(at, 0xff, bytes);
    return at;
}

unsigned char* dynamic_shared() { return state->dynamic; }

void* static_shared(const void* key, size_t bytes) {
    Quiet quiet;
    size_t total = bytes;
    for (const StaticArray& array : state->statics) {
        if (array.key == key) return array.data;
        total += array.bytes;
    }
    if (total > MAX_STATIC_SHARED || total + state->launch.shared_bytes > MAX_SHARED) {
        report("%zu bytes of static and %zu of dynamic shared memory are too many", total, state->launch.shared_bytes);
        to_main();
    }
    void* data = poisoned(bytes);
    state->statics.push_back({key, data, bytes});
    return data;
}

void cp_async(void* shared, const void* source, bool valid, const char* file, int line) {
    if (((uintptr_t)shared | (valid ? (uintptr_t)source : 0)) & 15)
        fail(file, line, "cp.async address is not aligned to 16 bytes");
    // Reads the source now, so that a bad address is reported at the line of the copy and not at the wait.
    volatile char probe = valid ? (char)(((const volatile char*)source)[0] ^ ((const volatile char*)source)[15]) : 0;
    (void)probe;
    *(uint4*)shared = uint4{~0u, ~0u, ~0u, ~0u};
    Quiet quiet;
    state->current->open.push_back({shared, source, valid});
}

void cp_async_commit() {
    Quiet quiet;
    Thread& me = *state->current;
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}

void cp_async_wait(size_t open) {
    std::vector<Copy>* arriving;
    size_t count = 0;
    {
        Quiet quiet;
        Thread& me = *state->current;
        arriving = new std::vector<Copy>;
        while (me.groups.size() > open) {
            arriving->insert(arriving->end(), me.groups.front().begin(), me.groups.front().end());
            me.groups.erase(me.groups.begin());
        }
        count = arriving->size();
    }
    for (size_t i = 0; i < count; i++) {
        Copy copy;
        {
            Quiet quiet;
            copy = (*arriving)[i];
        }
        // Outside Quiet: the copy counts as this thread's access.
        *(uint4*)copy.shared = copy.valid ? *(const uint4*)copy.source : uint4{0, 0, 0, 0};
    }
    Quiet quiet;
    delete arriving;
}

// ---- Blocks ------------------------------------------------------------------------------------------------------

static void finish_thread() {
    Quiet quiet;
    Thread& me = *state->current;
    bool in_flight = !me.open.empty();
    for (const std::vector<Copy>& group : me.groups) in_flight |= !group.empty();
    if (in_flight) report("a thread ends with cp.async in flight");
    me.run = Run::Done;
    state->live--;
    if (state->live && state->arrived == state->live) release_barrier();
}

static void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &state->main_stack, &state->main_stack_size);
#endif
    acquire(state->launch_order);
    state->body(state->body_context);
    finish_thread();
    to_main(true);
    abort();
}

static void prepare(Thread& thread, const Index& block) {
    thread.view.block = block;
    thread.run = Run::Ready;
    thread.open.clear();
    thread.groups.clear();
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(thread.stack, STACK);
#endif
    thread.context.asan = nullptr;
#if defined(EMU_UCONTEXT)
    getcontext(&thread.context.machine);
    thread.context.machine.uc_stack.ss_sp = thread.stack;
    thread.context.machine.uc_stack.ss_size = STACK;
    thread.context.machine.uc_link = nullptr;
    makecontext(&thread.context.machine, thread_main, 0);
#else
    void** top = (void**)(thread.stack + STACK);
    *--top = nullptr;                // keeps the stack aligned as after a call
    *--top = (void*)&thread_main;    // where the first switch returns to
    for (int i = 0; i < 6; i++) *--top = nullptr;
    thread.context.stack_pointer = top;
#endif
}

static void free_threads() {
    for (Thread& thread : state->threads) {
        state->stacks.push_back(thread.stack);
#if defined(__SANITIZE_THREAD__)
        // ThreadSanitizer complains about a fiber that is destroyed in the middle of a Quiet.
        if (!state->failed) __tsan_destroy_fiber(thread.context.tsan);
#endif
    }
    state->threads.clear();
}

// Launches with blocks of different sizes alternate all the time, so stacks are kept.
static char* take_stack() {
    if (!state->stacks.empty()) {
        char* stack = state->stacks.back();
        state->stacks.pop_back();
        return stack;
    }
    void* pages = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    mprotect(pages, PAGE, PROT_NONE);  // so that a stack overflow crashes
    return (char*)pages + PAGE;
}

// Frees the state when its host thread ends.
struct Owner {
    ~Owner() {
        if (!state) return;
        free_threads();
        for (char* stack : state->stacks) munmap(stack - PAGE, STACK + PAGE);
        delete state;
        state = nullptr;
    }
};

static bool make_threads(size_t count, const Launch& launch) {
    if (state->threads.size() != count) {
        free_threads();
        state->threads.reserve(count);
        for (size_t i = 0; i < count; i++) {
            char* stack = take_stack();
            if (!stack) return false;
            state->threads.emplace_back();
            Thread& thread = state->threads.back();
            thread.stack = stack;
#if defined(__SANITIZE_THREAD__)
            thread.context.tsan = __tsan_create_fiber(0);
#endif
        }
    }
    for (size_t i = 0; i < count; i++) {
        Thread& thread = state->threads[i];
        unsigned n = (unsigned)i, x = launch.block.x, y = launch.block.y;
        thread.warp = n / 32;
        thread.view = View{{n % x, n / x % y, n / x / y}, {}, launch.block, launch.grid, n % 32};
    }
    state->warps.assign(count / 32, Warp());
    return true;
}

struct Random {
    uint64_t at;
    uint64_t next() {  // splitmix64
        uint64_t z = at += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
};

static void arrange(std::vector<unsigned>& order, Random& random) {
    size_t n = order.size();
    switch (state->launch.schedule) {
        case Schedule::Forward:
            for (size_t i = 0; i < n; i++) order[i] = (unsigned)i;
            break;
        case Schedule::Reverse:
            for (size_t i = 0; i < n; i++) order[i] = (unsigned)(n - 1 - i);
            break;
        case Schedule::Shuffled:
            for (size_t i = 0; i < n; i++) order[i] = (unsigned)i;
            for (size_t i = n; i > 1; i--) std::swap(order[i - 1], order[random.next() % i]);
    }
}

static void run_block(const Index& block, Random& random) {
    state->live = (unsigned)state->threads.size();
    state->arrived = 0;
    state->barrier_site = Site();
    state->dynamic = state->launch.shared_bytes ? (unsigned char*)poisoned(state->launch.shared_bytes) : nullptr;
    for (Warp& warp : state->warps) warp.arrived = 0;
    for (Thread& thread : state->threads) prepare(thread, block);
    std::vector<unsigned> order(state->threads.size());
    release(state->launch_order);
    while (state->live && !state->failed) {
        arrange(order, random);
        bool any = false;
        for (unsigned i : order) {
            if (state->threads[i].run != Run::Ready) continue;
            any = true;
            to_thread(state->threads[i]);
            if (state->failed) break;
        }
        if (!any) {
            for (Thread& thread : state->threads) {
                if (thread.run != Run::AtBarrier && thread.run != Run::InWarp) continue;
                state->current = &thread;
                report("%s:%d: deadlock: not all threads come here", thread.waits_at.file, thread.waits_at.line);
            }
        }
    }
    state->current = nullptr;
    // Freed only at the end of the launch: for ThreadSanitizer, no block happens before another.
    state->garbage.push_back(state->dynamic);
    for (const StaticArray& array : state->statics) state->garbage.push_back(array.data);
    state->statics.clear();
#if !defined(__SANITIZE_THREAD__)
    for (void* at : state->garbage) free(at);
    state->garbage.clear();
#endif
}

bool launch(const Launch& launch, void (*body)(void*), void* context, char* message, size_t message_len) {
    Quiet quiet;
    if (!state) {
        static thread_local Owner owner;
        (void)owner;
        state = new State();
    }
    state->launch = launch;
    state->body = body;
    state->body_context = context;
    state->failed = false;
    state->message = message;
    state->message_len = message_len;
    state->current = nullptr;
    const Index &grid = launch.grid, &block = launch.block;
    size_t threads = (size_t)block.x * block.y * block.z, blocks = (size_t)grid.x * grid.y * grid.z;
    if (threads == 0 || threads > 1024 || threads % 32 != 0) {
        report("a block of %zu threads; it takes a multiple of 32 up to 1024", threads);
    } else if (blocks == 0 || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu) {
        report("a grid of %u x %u x %u blocks cannot be launched", grid.x, grid.y, grid.z);
    } else if (launch.shared_bytes > MAX_SHARED) {
        report("%zu bytes of shared memory; the limit is %zu", launch.shared_bytes, MAX_SHARED);
    } else if (!make_threads(threads, launch)) {
        report("no memory for the stacks of %zu threads", threads);
    }
    if (state->failed) return false;
#if defined(__SANITIZE_THREAD__)
    state->main.tsan = __tsan_get_current_fiber();
#endif
    Random random{launch.seed};
    std::vector<unsigned> order(blocks);
    arrange(order, random);
    for (unsigned b : order) {
        run_block({b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y}, random);
        if (state->failed) break;
    }
    acquire(state->exit_order);
    for (void* at : state->garbage) free(at);
    state->garbage.clear();
    // Threads that stopped in the middle cannot be used again.
    if (state->failed) free_threads();
    return !state->failed;
}

}  // namespace emu
