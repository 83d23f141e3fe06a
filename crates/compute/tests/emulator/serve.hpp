// Runs kernels as stdin asks, one launch after the other, until it ends. Integers are little-endian.
//
// Request: name (u32 length, bytes), grid (3 u32), threads of a block, bytes of launch memory, order (u32 each), number of arguments (u32), each
//   u32 0, u32 size, bytes          a value
//   u32 1, u32 skip, u32 size, bytes   a buffer whose address is `skip` after a multiple of 16
//   u32 2, u32 n, u32 bytes         the buffer of argument n, so many bytes on
//   u32 3                           a null pointer
// Answer: u8 0 and each buffer's bytes in order, or u8 1, u32 length and what is wrong; then the process ends.
#pragma once
#include <csignal>
#include <tuple>
#include <unistd.h>

namespace emu {

inline void put(const void *bytes, size_t size) {
    if (fwrite(bytes, 1, size, stdout) != size) _exit(4);
}
inline bool get(void *bytes, size_t size) { return fread(bytes, 1, size, stdin) == size; }
inline u32 number() {
    u32 n;
    if (!get(&n, 4)) _exit(4);
    return n;
}

[[noreturn]] inline void tell(const char *text) {
    const u8 bad = 1;
    const u32 size = u32(strlen(text));
    put(&bad, 1), put(&size, 4), put(text, size);
    fflush(stdout);
    _exit(3);
}
[[noreturn]] inline void fail(const char *format, ...) {
    char text[500], all[600];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    snprintf(all, sizeof all, "block (%u, %u, %u): %s", blockIdx.x, blockIdx.y, blockIdx.z, text);
    tell(all);
}

// A buffer that ends (up to the 16 bytes its address is a multiple of) at a page nobody may touch.
struct Buffer {
    u8 *pages, *data;
    size_t size, room;
    static constexpr size_t PAGE = 4096;
    static constexpr u8 CANARY = 0xa5;
    Buffer(size_t bytes, size_t skip) : size(bytes) {
        const size_t rounded = (bytes + skip + 15) / 16 * 16;
        room = (rounded + 64 + PAGE - 1) / PAGE * PAGE;
        pages = static_cast<u8 *>(mmap(nullptr, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (pages == MAP_FAILED || mprotect(pages + PAGE, room, PROT_READ | PROT_WRITE)) tell("no memory for a buffer");
        memset(pages + PAGE, CANARY, room);
        data = pages + PAGE + room - rounded + skip;
    }
    void check(size_t number) {
        for (u8 *p = pages + PAGE; p < pages + PAGE + room; p++)
            if ((p < data || p >= data + size) && *p != CANARY)
                fail("argument %zu was written at byte %td of %zu", number, p - data, size);
    }
    ~Buffer() { munmap(pages, room + 2 * PAGE); }
};

struct Argument {
    std::vector<u8> value;
    std::shared_ptr<Buffer> buffer;
    bool owner = false;
};
inline std::vector<Argument> arguments;

template <class T> T argument(size_t n) {
    if (n >= arguments.size() || arguments[n].value.size() != sizeof(T)) tell("an argument has another size than the kernel wants");
    T value;
    memcpy(&value, arguments[n].value.data(), sizeof(T));
    return value;
}
template <class... A> struct Caller {
    static inline void (*kernel)(A...);
    template <size_t... N> static void with(std::index_sequence<N...>) { kernel(argument<A>(N)...); }
    static void call() {
        if (arguments.size() != sizeof...(A)) tell("the kernel wants another number of arguments");
        with(std::index_sequence_for<A...>());
    }
};
template <class... A> void prepare(void (*kernel)(A...)) {
    Caller<A...>::kernel = kernel;
    body = Caller<A...>::call;
}
struct Entry {
    const char *name;
    void (*prepare)();
};

inline void read_argument() {
    Argument a;
    const u32 kind = number();
    const u8 *pointer = nullptr;
    if (kind == 0) {
        a.value.resize(number());
        if (!get(a.value.data(), a.value.size())) _exit(4);
        arguments.push_back(a);
        return;
    }
    if (kind == 1) {
        const u32 skip = number(), size = number();
        a.buffer = std::make_shared<Buffer>(size, skip);
        a.owner = true;
        if (!get(a.buffer->data, size)) _exit(4);
        pointer = a.buffer->data;
    } else if (kind == 2) {
        a.buffer = arguments.at(number()).buffer;
        pointer = a.buffer->data + number();
    }
    a.value.resize(8);
    memcpy(a.value.data(), &pointer, 8);
    arguments.push_back(a);
}

inline void launch(dim3 grid, int count, Order order) {
    if (count % 32 || count > MOST_THREADS) tell("a block is a number of whole warps, at most 32");
    size_t most = launched.bytes.size();
    gridDim = grid, blockDim = {u32(count), 1, 1};
    std::vector<int> blocks(size_t(grid.x) * grid.y * grid.z);
    order.arrange(blocks);
    for (int n : blocks) {
        blockIdx = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
        run_block(count, order);
    }
    for (Memory *memory : declared) most += memory->bytes.size();
    if (most > 99 * 1024) tell("a block wants more shared memory than 99 KiB");
}

inline int serve(const Entry *entries, size_t count) {
    // A failed access ends up here, on a stack of its own.
    static u8 stack[64 * 1024];
    stack_t other = {};
    other.ss_sp = stack, other.ss_size = sizeof stack;
    sigaltstack(&other, nullptr);
    struct sigaction action = {};
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t *, void *) { fail("thread %d reaches outside a buffer", current); };
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    fibres.resize(MOST_THREADS);
    for (Fibre &f : fibres)
        f.stack = static_cast<char *>(mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    u32 length;
    while (get(&length, 4)) {
        std::string name(length, 0);
        if (!get(name.data(), length)) return 4;
        const dim3 grid = {number(), number(), number()};
        const u32 threads = number(), bytes = number(), order = number();
        launched = Memory(bytes);
        arguments.clear();
        for (u32 n = number(); n > 0; n--) read_argument();
        body = nullptr;
        for (size_t i = 0; i < count; i++)
            if (name == entries[i].name) entries[i].prepare();
        if (!body) tell("there is no such kernel");
        launch(grid, int(threads), Order{order});
        const u8 good = 0;
        for (size_t n = 0; n < arguments.size(); n++)
            if (arguments[n].owner) arguments[n].buffer->check(n);
        put(&good, 1);
        for (Argument &a : arguments)
            if (a.owner) put(a.buffer->data, a.buffer->size);
        fflush(stdout);
    }
    return 0;
}

} // namespace emu
