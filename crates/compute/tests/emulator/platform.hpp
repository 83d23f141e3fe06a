// The CUDA execution model on a CPU: what `platform.cuh` gives a kernel on a GPU, for a C++ compiler. One block at a time; its threads are
// fibres that run one after the other between barriers, in an order that the launch chooses.
//
// What it finds, each by name: two threads that touch one cell of shared memory without a barrier between them (also when the numbers
// happen to come out right), shared memory that is read before it is written, barriers and warp operations that not all threads reach, or
// reach at different lines, 16-byte accesses at other addresses, tiles outside the memory of the launch. Accesses outside a buffer
// of global memory meet a guard page or a canary (`serve.hpp`).
//
// What it does not know: time, caches, registers, the number of tensor-core roundings inside one product (its sums are in order, in double).
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;
struct uint4 {
    u32 x, y, z, w;
};
struct dim3 {
    u32 x, y, z;
};
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu {

[[noreturn]] void fail(const char *format, ...);

enum State { READY, AT_BARRIER, IN_WARP, ENDED };
struct Fibre {
    State state;
    bool started;
    int line, operations;
    u32 warp_syncs;
    ucontext_t context;
    jmp_buf at;
    char *stack;
};
const size_t STACK = 128 * 1024;
const int MOST_THREADS = 1024;
inline std::vector<Fibre> fibres;
inline int current, threads, waiting;
inline u32 barriers;
inline int warp_waiting[MOST_THREADS / 32];
inline jmp_buf scheduler;
inline void (*body)();
// What lanes hand each other; two buffers, so that a lane that is one operation ahead overwrites nothing.
struct Letter {
    u8 bytes[64];
};
inline Letter letters[2][MOST_THREADS];

inline void pause_fibre() {
    if (!_setjmp(fibres[current].at)) _longjmp(scheduler, 1);
}

inline void barrier(int line) {
    Fibre &f = fibres[current];
    f.line = line;
    f.state = AT_BARRIER;
    for (int t = 0; t < threads; t++)
        if (fibres[t].state == AT_BARRIER && fibres[t].line != line)
            fail("thread %d waits at the barrier of line %d, thread %d at that of line %d", current, line, t, fibres[t].line);
    if (++waiting == threads) {
        waiting = 0;
        barriers++;
        for (int t = 0; t < threads; t++) fibres[t].state = READY;
    }
    pause_fibre();
}

// Waits until all lanes of the warp are at the same operation.
inline void meet(int line) {
    const int warp = current / 32;
    Fibre &f = fibres[current];
    f.line = line;
    f.state = IN_WARP;
    for (int t = 32 * warp; t < 32 * warp + 32; t++)
        if (fibres[t].state == IN_WARP && fibres[t].line != line)
            fail("lanes of a warp are at different operations: thread %d at line %d, thread %d at line %d", current, line, t, fibres[t].line);
    if (++warp_waiting[warp] == 32) {
        warp_waiting[warp] = 0;
        for (int t = 32 * warp; t < 32 * warp + 32; t++) fibres[t].state = READY;
    }
    pause_fibre();
}

// Every lane posts a letter; afterwards all letters of the warp can be read.
template <class T> const Letter *exchange(int line, const T &mine) {
    static_assert(sizeof(T) <= sizeof(Letter), "a letter is too long");
    Fibre &f = fibres[current];
    Letter *box = letters[f.operations++ % 2];
    std::memcpy(box[current].bytes, &mine, sizeof(T));
    meet(line);
    return box + current / 32 * 32;
}
template <class T> T letter(const Letter *box, int lane) {
    T value;
    std::memcpy(&value, box[lane].bytes, sizeof(T));
    return value;
}
inline int lane() { return current % 32; }

inline void enter() {
    body();
    fibres[current].state = ENDED;
    _longjmp(scheduler, 1);
}

inline void resume(int t) {
    current = t;
    threadIdx = {u32(t), 0, 0};
    if (_setjmp(scheduler)) return;
    Fibre &f = fibres[current];
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    setcontext(&f.context);
}

// Order 0: ascending; 1: descending; others: shuffled, anew in every round.
struct Order {
    u64 seed;
    u64 next() {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        return seed;
    }
    void arrange(std::vector<int> &list) {
        const size_t n = list.size();
        for (size_t i = 0; i < n; i++) list[i] = int(seed == 1 ? n - 1 - i : i);
        if (seed > 1) for (size_t i = n; i > 1; i--) std::swap(list[i - 1], list[next() % i]);
    }
};

// Shared memory, in cells of two bytes that know who touched them.
struct Cell {
    int writer, reader;
    u32 write_barrier, read_barrier, write_sync, read_sync;
    bool many_readers, many_warps;
};
struct Memory {
    std::vector<u8> bytes;
    std::vector<Cell> cells;
    explicit Memory(size_t size) : bytes(size), cells((size + 1) / 2) {}
    void forget() {
        std::fill(bytes.begin(), bytes.end(), 0xff);
        for (Cell &c : cells) c = {-1, -1, 0, 0, 0, 0, false, false};
    }
    void check(size_t at, size_t size) {
        if (at + size > bytes.size() || at % (size < 16 ? 1 : 16)) fail("shared memory: %zu bytes at %zu of %zu", size, at, bytes.size());
    }
    // Whether what `other` did at (barrier, sync) is over for the current thread.
    bool over(int other, u32 barrier, u32 sync) {
        return other == current || barrier != barriers ||
               (other / 32 == current / 32 && sync != fibres[current].warp_syncs);
    }
    void touch_read(size_t at, size_t size) {
        check(at, size);
        for (size_t n = at / 2; n < (at + size + 1) / 2; n++) {
            Cell &c = cells[n];
            if (c.writer < 0) fail("shared memory: thread %d reads byte %zu, which nobody wrote", current, 2 * n);
            if (!over(c.writer, c.write_barrier, c.write_sync))
                fail("race in shared memory: thread %d reads byte %zu, which thread %d writes without a barrier between", current, 2 * n, c.writer);
            const bool fresh = c.reader < 0 || c.read_barrier != barriers;
            c.many_readers = !fresh && (c.many_readers || c.reader != current);
            c.many_warps = !fresh && (c.many_warps || c.reader / 32 != current / 32);
            c.reader = current, c.read_barrier = barriers, c.read_sync = fibres[current].warp_syncs;
        }
    }
    void touch_write(size_t at, size_t size) {
        check(at, size);
        for (size_t n = at / 2; n < (at + size + 1) / 2; n++) {
            Cell &c = cells[n];
            if (c.writer >= 0 && !over(c.writer, c.write_barrier, c.write_sync))
                fail("race in shared memory: threads %d and %d write byte %zu without a barrier between", c.writer, current, 2 * n);
            const bool last_over = c.reader < 0 || c.read_barrier != barriers || over(c.reader, c.read_barrier, c.read_sync);
            const bool others = c.read_barrier == barriers && (c.many_warps || (c.many_readers && c.read_sync == fibres[current].warp_syncs));
            if (!last_over || others)
                fail("race in shared memory: thread %d writes byte %zu, which thread %d reads without a barrier between", current, 2 * n, c.reader);
            c.writer = current, c.write_barrier = barriers, c.write_sync = fibres[current].warp_syncs;
        }
    }
};
inline std::vector<Memory *> declared;
inline Memory launched(0);
inline std::shared_ptr<Memory> declare(size_t size) {
    auto memory = std::make_shared<Memory>(size);
    memory->forget();
    declared.push_back(memory.get());
    return memory;
}

inline void run_block(int count, Order &order) {
    threads = count, waiting = 0;
    for (Memory *memory : declared) memory->forget();
    launched.forget();
    for (int t = 0; t < count; t++) {
        Fibre &f = fibres[t];
        f.state = READY, f.started = false, f.operations = 0, f.warp_syncs = 0;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack, f.context.uc_stack.ss_size = STACK, f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
    }
    std::memset(warp_waiting, 0, sizeof warp_waiting);
    static std::vector<int> list;
    list.resize(count);
    while (true) {
        static int ended, moved;
        ended = moved = 0;
        order.arrange(list);
        static int n;
        for (n = 0; n < count; n++)
            if (fibres[list[n]].state == READY) resume(list[n]), moved++;
        for (int t = 0; t < count; t++) ended += fibres[t].state == ENDED;
        if (ended == count) return;
        if (moved) continue;
        for (int t = 0; t < count; t++)
            if (fibres[t].state != ENDED)
                fail("thread %d waits at line %d for threads that have ended or wait elsewhere", t, fibres[t].line);
    }
}

} // namespace emu

#define DEVICE static inline
#define METHOD inline
#define KERNEL(threads) extern "C" void
#define __syncthreads() emu::barrier(__LINE__)
#define __syncwarp() (emu::meet(__LINE__), (void)emu::fibres[emu::current].warp_syncs++)
#define __shfl_xor_sync(mask, value, far) emu::shuffle_xor(__LINE__, mask, value, far)

namespace emu {
template <class T> T shuffle_xor(int line, u32 mask, T value, int far) {
    if (mask != 0xffffffffu) fail("line %d: a shuffle of part of a warp", line);
    return letter<T>(exchange(line, value), lane() ^ far);
}
}

template <class T> struct Shared {
    emu::Memory *memory;
    size_t base;
    size_t place(int at) const {
        if (at < 0) emu::fail("shared memory: element %d", at);
        return base + size_t(at) * sizeof(T);
    }
    T get(int at) const {
        T value;
        memory->touch_read(place(at), sizeof(T));
        std::memcpy(&value, &memory->bytes[place(at)], sizeof(T));
        return value;
    }
    void set(int at, T value) const {
        memory->touch_write(place(at), sizeof(T));
        std::memcpy(&memory->bytes[place(at)], &value, sizeof(T));
    }
    uint4 get16(int at) const {
        uint4 value;
        memory->touch_read(place(at), 16);
        std::memcpy(&value, &memory->bytes[place(at)], 16);
        return value;
    }
    void set16(int at, uint4 value) const {
        memory->touch_write(place(at), 16);
        std::memcpy(&memory->bytes[place(at)], &value, 16);
    }
};

#define SHARED(T, name, count)                                                                                         \
    static const std::shared_ptr<emu::Memory> name##_memory = emu::declare(sizeof(T) * (count));                       \
    const Shared<T> name = {name##_memory.get(), 0}
template <class T> Shared<T> launch_shared(int bytes) { return Shared<T>{&emu::launched, size_t(bytes)}; }

inline u32 __float_as_uint(float x) {
    u32 y;
    std::memcpy(&y, &x, 4);
    return y;
}
inline float __uint_as_float(u32 x) {
    float y;
    std::memcpy(&y, &x, 4);
    return y;
}
DEVICE uint4 load16(const void *from) {
    if (reinterpret_cast<u64>(from) % 16) emu::fail("16 bytes are read at an address that isn't a multiple of 16");
    uint4 value;
    std::memcpy(&value, from, 16);
    return value;
}
DEVICE void store16(void *to, uint4 value) {
    if (reinterpret_cast<u64>(to) % 16) emu::fail("16 bytes are written at an address that isn't a multiple of 16");
    std::memcpy(to, &value, 16);
}
DEVICE u16 bf16_bits(float x) {
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
DEVICE u32 bf16_pair(float low, float high) { return bf16_bits(low) | static_cast<u32>(bf16_bits(high)) << 16; }
DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE float to_tf32(float x) {
    // Ties away from zero, 13 bits dropped.
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}

namespace emu {
inline double bf16_half(u32 word, int half) { return __uint_as_float(half ? word & 0xffff0000u : word << 16); }

struct Fragments {
    u32 a[4], b[2];
};
// Elements of the operands by row and column, from the lanes that hold them: PTX ISA, mma.m16n8k16 and mma.m16n8k8.
inline double bf16_a(const Letter *box, int row, int k) {
    const Fragments f = letter<Fragments>(box, row % 8 * 4 + k % 8 / 2);
    return bf16_half(f.a[row / 8 + k / 8 * 2], k % 2);
}
inline double bf16_b(const Letter *box, int k, int column) {
    const Fragments f = letter<Fragments>(box, column * 4 + k % 8 / 2);
    return bf16_half(f.b[k / 8], k % 2);
}
inline double tf32(u32 word) {
    if (word & 0x1fffu) fail("a tf32 operand has bits that tensor cores don't read");
    return __uint_as_float(word);
}
inline double tf32_a(const Letter *box, int row, int k) {
    return tf32(letter<Fragments>(box, row % 8 * 4 + k % 4).a[row / 8 + k / 4 * 2]);
}
inline double tf32_b(const Letter *box, int k, int column) {
    return tf32(letter<Fragments>(box, column * 4 + k % 4).b[k / 4]);
}
template <class A, class B> void multiply(float (&d)[4], const Letter *box, int steps, A a, B b) {
    for (int i = 0; i < 4; i++) {
        const int row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
        double sum = d[i];
        for (int k = 0; k < steps; k++) sum += a(box, row, k) * b(box, k, column);
        d[i] = float(sum);
    }
}
template <int N> void matrices(int line, u32 (&r)[N], Shared<u16> tile, int at, bool transposed) {
    const Letter *box = exchange(line, at);
    for (int m = 0; m < N; m++) {
        u16 pair[2];
        for (int i = 0; i < 2; i++) {
            const int row = transposed ? lane() % 4 * 2 + i : lane() / 4, column = transposed ? lane() / 4 : lane() % 4 * 2 + i;
            const int start = letter<int>(box, 8 * m + row);
            if (tile.place(start) % 16) fail("line %d: a row of a matrix starts at byte %zu", line, tile.place(start));
            pair[i] = tile.get(start + column);
        }
        r[m] = pair[0] | u32(pair[1]) << 16;
    }
}
} // namespace emu

DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const emu::Letter *box = emu::exchange(__LINE__, emu::Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
    emu::multiply(d, box, 16, emu::bf16_a, emu::bf16_b);
}
DEVICE void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    emu::Fragments f;
    for (int i = 0; i < 4; i++) f.a[i] = __float_as_uint(a[i]);
    for (int i = 0; i < 2; i++) f.b[i] = __float_as_uint(b[i]);
    emu::multiply(d, emu::exchange(__LINE__, f), 8, emu::tf32_a, emu::tf32_b);
}
DEVICE void load_matrices(u32 (&r)[4], Shared<u16> tile, int at) { emu::matrices(__LINE__, r, tile, at, false); }
DEVICE void load_matrices(u32 (&r)[2], Shared<u16> tile, int at) { emu::matrices(__LINE__, r, tile, at, false); }
DEVICE void load_matrices_transposed(u32 (&r)[2], Shared<u16> tile, int at) { emu::matrices(__LINE__, r, tile, at, true); }
