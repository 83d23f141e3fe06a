// Gradient accumulators in 64-bit fixed point, norms of blocks, and the AdamW step. All of it has the CPU's bits.

const int SUM_THREADS = 256;
const i64 POISON = static_cast<i64>(0x8000000000000000ull);

// Sum that stays POISON once it was, or when it overflows.
DEVICE i64 add_fixed(i64 a, i64 b) {
    const i64 sum = static_cast<i64>(static_cast<u64>(a) + static_cast<u64>(b));
    const bool overflow = ((a ^ sum) & (b ^ sum)) < 0;
    return overflow || a == POISON || b == POISON ? POISON : sum;
}

// x in units of 1/scale (a power of two), ties to even; POISON for what doesn't fit.
DEVICE i64 to_fixed(float x, float scale) {
    const float y = rintf(x * scale);
    return fabsf(y) < 9223372036854775808.0f ? static_cast<i64>(y) : POISON;
}

// What turns an accumulator into a mean: value * unit / tokens, in double.
DEVICE float mean_of(i64 value, double unit, double tokens) {
    if (value == POISON) return __uint_as_float(0x7fc00000u);
    return static_cast<float>(static_cast<double>(value) * unit / tokens);
}

// Four accumulators, 16 bytes at a time where they lie so.
struct Four {
    i64 v[4];
};
DEVICE Four load_four(const i64 *from, int count, bool wide) {
    Four f = {{0, 0, 0, 0}};
    if (wide) {
        const uint4 a = load16(from), b = load16(from + 2);
        f.v[0] = static_cast<i64>(static_cast<u64>(a.y) << 32 | a.x);
        f.v[1] = static_cast<i64>(static_cast<u64>(a.w) << 32 | a.z);
        f.v[2] = static_cast<i64>(static_cast<u64>(b.y) << 32 | b.x);
        f.v[3] = static_cast<i64>(static_cast<u64>(b.w) << 32 | b.z);
        return f;
    }
    for (int l = 0; l < 4; l++)
        if (l < count) f.v[l] = from[l];
    return f;
}
DEVICE uint4 two(i64 a, i64 b) {
    const u64 x = static_cast<u64>(a), y = static_cast<u64>(b);
    return make_uint4(static_cast<u32>(x), static_cast<u32>(x >> 32), static_cast<u32>(y), static_cast<u32>(y >> 32));
}
DEVICE void store_four(i64 *to, const Four &f, int count, bool wide) {
    if (wide) {
        store16(to, two(f.v[0], f.v[1]));
        store16(to + 2, two(f.v[2], f.v[3]));
        return;
    }
    for (int l = 0; l < 4; l++)
        if (l < count) to[l] = f.v[l];
}

// The four elements of this thread: where they start, and how many there are.
DEVICE u64 my_four(u64 len, int &count) {
    const u64 at = (static_cast<u64>(blockIdx.x) * SUM_THREADS + threadIdx.x) * 4;
    count = at >= len ? 0 : len - at < 4 ? static_cast<int>(len - at) : 4;
    return at;
}

KERNEL(SUM_THREADS) accumulate_f32(i64 *sums, const float *gradient, u64 len, float scale) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool full = count == 4;
    const Pack<float> g = load(gradient + at, count, full && aligned(gradient));
    Four f = load_four(sums + at, count, full && aligned(sums));
    for (int l = 0; l < 4; l++) f.v[l] = add_fixed(f.v[l], to_fixed(g.v[l], scale));
    store_four(sums + at, f, count, full && aligned(sums));
}
KERNEL(SUM_THREADS) accumulate_bf16(i64 *sums, const bf16 *gradient, u64 len, float scale) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool wide = count == 4 && aligned(sums);
    Four f = load_four(sums + at, count, wide);
    for (int l = 0; l < 4; l++)
        if (l < count) f.v[l] = add_fixed(f.v[l], to_fixed(widen(gradient[at + l]), scale));
    store_four(sums + at, f, count, wide);
}

// Another rank's accumulators.
KERNEL(SUM_THREADS) add_sums(i64 *sums, const i64 *others, u64 len) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool wide = count == 4 && aligned(sums) && aligned(others);
    Four f = load_four(sums + at, count, wide);
    const Four o = load_four(others + at, count, wide);
    for (int l = 0; l < 4; l++) f.v[l] = add_fixed(f.v[l], o.v[l]);
    store_four(sums + at, f, count, wide);
}

// Gradients of rows of an embedding. Group g says: the token, where its rows begin in `rows`, how many they are. A group's rows are
// summed in order, then added once. Blocks: x over groups, y over columns.
template <class T>
DEVICE void accumulate_rows(i64 *sums, const T *gradient, const u32 *rows, const u32 *groups, int width, float scale) {
    const int i = blockIdx.y * SUM_THREADS + threadIdx.x;
    if (i >= width) return;
    const u32 token = groups[3 * blockIdx.x], first = groups[3 * blockIdx.x + 1], count = groups[3 * blockIdx.x + 2];
    float sum = 0.0f;
    for (u32 n = first; n < first + count; n++) sum += widen(gradient[static_cast<u64>(rows[n]) * width + i]);
    i64 *at = sums + static_cast<u64>(token) * width + i;
    *at = add_fixed(*at, to_fixed(sum, scale));
}
KERNEL(SUM_THREADS)
accumulate_rows_f32(i64 *sums, const float *gradient, const u32 *rows, const u32 *groups, int width, float scale) {
    accumulate_rows(sums, gradient, rows, groups, width, scale);
}
KERNEL(SUM_THREADS)
accumulate_rows_bf16(i64 *sums, const bf16 *gradient, const u32 *rows, const u32 *groups, int width, float scale) {
    accumulate_rows(sums, gradient, rows, groups, width, scale);
}

KERNEL(SUM_THREADS) mean(const i64 *sums, float *out, u64 len, double unit, double tokens) {
    int count;
    const u64 at = my_four(len, count);
    for (int l = 0; l < count; l++) out[at + l] = mean_of(sums[at + l], unit, tokens);
}

// Squares of the mean gradient over blocks of `block` elements: 16 lanes a block, each adding every 16th element, then a tree, as on the CPU.
KERNEL(SUM_THREADS)
block_squares(const i64 *sums, double *squares, u64 len, u64 block, double unit, double tokens) {
    const u64 n = static_cast<u64>(blockIdx.x) * (SUM_THREADS / 16) + threadIdx.x / 16;
    const int lane = threadIdx.x % 16;
    const u64 first = n * block, last = first + block < len ? first + block : len;
    double sum = 0.0;
    for (u64 i = first + lane; i < last; i += 16) {
        const double g = static_cast<double>(mean_of(sums[i], unit, tokens));
        sum += g * g;
    }
    for (int far = 8; far > 0; far /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, far);
    if (lane == 0 && first < len) squares[n] = sum;
}

struct Factors {
    float keep, lr, beta1, rest1, beta2, rest2, correct1, correct2, eps, clip;
};

// One AdamW step (Loshchilov & Hutter 2019) in one pass: reads the accumulators and zeroes them, reads weights and moments (from where they
// were, which may be where they go) and writes them, and where asked for the weights rounded to bf16.
KERNEL(SUM_THREADS)
adamw(const float *weights_from, const float *avg_from, const float *square_from, float *weights, float *avg,
      float *square, bf16 *rounded, i64 *sums, u64 len, double unit, double tokens, Factors f) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool full = count == 4;
    const bool wide = full && aligned(weights_from) && aligned(avg_from) && aligned(square_from) && aligned(weights) &&
                      aligned(avg) && aligned(square);
    Pack<float> w = load(weights_from + at, count, wide), m = load(avg_from + at, count, wide);
    Pack<float> v = load(square_from + at, count, wide);
    Four s = load_four(sums + at, count, full && aligned(sums));
#pragma unroll
    for (int l = 0; l < 4; l++) {
        const float g = mean_of(s.v[l], unit, tokens) * f.clip;
        m.v[l] = f.beta1 * m.v[l] + f.rest1 * g;
        v.v[l] = f.beta2 * v.v[l] + f.rest2 * (g * g);
        const float step = f.lr * (m.v[l] * f.correct1) / (sqrtf(v.v[l] * f.correct2) + f.eps);
        w.v[l] = w.v[l] * f.keep - step;
        s.v[l] = 0;
    }
    store(weights + at, w, count, wide);
    store(avg + at, m, count, wide);
    store(square + at, v, count, wide);
    store_four(sums + at, s, count, full && aligned(sums));
    if (rounded != nullptr)
        for (int l = 0; l < count; l++) rounded[at + l] = narrow<bf16>(w.v[l]);
}
