// Gradient accumulators, norms of blocks, and the AdamW step. All of it has the CPU's bits.
//
// Accumulators S are 64-bit fixed point (i64: the order of sums doesn't show) or plain floats (float, kernels named plain).

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

// One more gradient, and another rank's accumulator.
DEVICE i64 with_gradient(i64 sum, float x, float scale) { return add_fixed(sum, to_fixed(x, scale)); }
DEVICE float with_gradient(float sum, float x, float) { return sum + x; }
DEVICE i64 with_sum(i64 sum, i64 other) { return add_fixed(sum, other); }
DEVICE float with_sum(float sum, float other) { return sum + other; }

// What turns an accumulator into a mean: value * unit / tokens, in double.
DEVICE float mean_of(i64 value, double unit, double tokens) {
    if (value == POISON) return __uint_as_float(0x7fc00000u);
    return static_cast<float>(static_cast<double>(value) * unit / tokens);
}
DEVICE float mean_of(float value, double, double tokens) {
    return static_cast<float>(static_cast<double>(value) / tokens);
}

// Four accumulators, 16 bytes at a time where they lie so.
template <class S> struct Four {
    S v[4];
};
DEVICE void unpack(Four<i64> &f, const i64 *from) {
    const uint4 a = load16(from), b = load16(from + 2);
    f.v[0] = static_cast<i64>(static_cast<u64>(a.y) << 32 | a.x);
    f.v[1] = static_cast<i64>(static_cast<u64>(a.w) << 32 | a.z);
    f.v[2] = static_cast<i64>(static_cast<u64>(b.y) << 32 | b.x);
    f.v[3] = static_cast<i64>(static_cast<u64>(b.w) << 32 | b.z);
}
DEVICE void unpack(Four<float> &f, const float *from) {
    const uint4 a = load16(from);
    f.v[0] = __uint_as_float(a.x);
    f.v[1] = __uint_as_float(a.y);
    f.v[2] = __uint_as_float(a.z);
    f.v[3] = __uint_as_float(a.w);
}
DEVICE uint4 two(i64 a, i64 b) {
    const u64 x = static_cast<u64>(a), y = static_cast<u64>(b);
    return make_uint4(static_cast<u32>(x), static_cast<u32>(x >> 32), static_cast<u32>(y), static_cast<u32>(y >> 32));
}
DEVICE void pack(i64 *to, const Four<i64> &f) {
    store16(to, two(f.v[0], f.v[1]));
    store16(to + 2, two(f.v[2], f.v[3]));
}
DEVICE void pack(float *to, const Four<float> &f) {
    store16(to, make_uint4(__float_as_uint(f.v[0]), __float_as_uint(f.v[1]), __float_as_uint(f.v[2]), __float_as_uint(f.v[3])));
}
template <class S> DEVICE Four<S> load_four(const S *from, int count, bool wide) {
    Four<S> f = {{0, 0, 0, 0}};
    if (wide) {
        unpack(f, from);
        return f;
    }
    for (int l = 0; l < 4; l++)
        if (l < count) f.v[l] = from[l];
    return f;
}
template <class S> DEVICE void store_four(S *to, const Four<S> &f, int count, bool wide) {
    if (wide) {
        pack(to, f);
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

// Four gradients, widened.
DEVICE Four<float> load_gradients(const float *from, int count) { return load_four(from, count, count == 4 && aligned(from)); }
DEVICE Four<float> load_gradients(const bf16 *from, int count) {
    Four<float> g = {{0, 0, 0, 0}};
    for (int l = 0; l < 4; l++)
        if (l < count) g.v[l] = widen(from[l]);
    return g;
}

template <class S, class T> DEVICE void accumulate(S *sums, const T *gradient, u64 len, float scale) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool wide = count == 4 && aligned(sums);
    const Four<float> g = load_gradients(gradient + at, count);
    Four<S> f = load_four(sums + at, count, wide);
    for (int l = 0; l < 4; l++) f.v[l] = with_gradient(f.v[l], g.v[l], scale);
    store_four(sums + at, f, count, wide);
}

// Another rank's accumulators.
template <class S> DEVICE void join_sums(S *sums, const S *others, u64 len) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool wide = count == 4 && aligned(sums) && aligned(others);
    Four<S> f = load_four(sums + at, count, wide);
    const Four<S> o = load_four(others + at, count, wide);
    for (int l = 0; l < 4; l++) f.v[l] = with_sum(f.v[l], o.v[l]);
    store_four(sums + at, f, count, wide);
}

// Gradients of rows of an embedding. Group g says: the token, where its rows begin in `rows`, how many they are. A group's rows are
// summed in order, then added once. Blocks: x over groups, y over columns.
template <class S, class T>
DEVICE void accumulate_rows(S *sums, const T *gradient, const u32 *rows, const u32 *groups, int width, float scale) {
    const int i = blockIdx.y * SUM_THREADS + threadIdx.x;
    if (i >= width) return;
    const u32 token = groups[3 * blockIdx.x], first = groups[3 * blockIdx.x + 1], count = groups[3 * blockIdx.x + 2];
    float sum = 0.0f;
    for (u32 n = first; n < first + count; n++) sum += widen(gradient[static_cast<u64>(rows[n]) * width + i]);
    S *at = sums + static_cast<u64>(token) * width + i;
    *at = with_gradient(*at, sum, scale);
}

template <class S> DEVICE void means(const S *sums, float *out, u64 len, double unit, double tokens) {
    int count;
    const u64 at = my_four(len, count);
    for (int l = 0; l < count; l++) out[at + l] = mean_of(sums[at + l], unit, tokens);
}

// Squares of the mean gradient over blocks of `block` elements: 16 lanes a block, each adding every 16th element, then a tree, as on the CPU.
template <class S> DEVICE void squares(const S *sums, double *squares, u64 len, u64 block, double unit, double tokens) {
    const u64 n = static_cast<u64>(blockIdx.x) * (SUM_THREADS / 16) + threadIdx.x / 16;
    const int lane = threadIdx.x % 16;
    const u64 first = n * block, last = first + block < len ? first + block : len;
    double sum = 0.0;
#pragma unroll 8
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
template <class S>
DEVICE void adamw_step(const float *weights_from, const float *avg_from, const float *square_from, float *weights, float *avg,
                  float *square, bf16 *rounded, S *sums, u64 len, double unit, double tokens, Factors f) {
    int count;
    const u64 at = my_four(len, count);
    if (count == 0) return;
    const bool full = count == 4;
    const bool wide = full && aligned(weights_from) && aligned(avg_from) && aligned(square_from) && aligned(weights) &&
                      aligned(avg) && aligned(square);
    Pack<float> w = load(weights_from + at, count, wide), m = load(avg_from + at, count, wide);
    Pack<float> v = load(square_from + at, count, wide);
    Four<S> s = load_four(sums + at, count, full && aligned(sums));
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

#define FOR_EACH_TYPE(S, T, name)                                                                                      \
    KERNEL(SUM_THREADS) accumulate_##name(S *sums, const T *gradient, u64 len, float scale) {                          \
        accumulate(sums, gradient, len, scale);                                                                        \
    }                                                                                                                  \
    KERNEL(SUM_THREADS)                                                                                                \
    accumulate_rows_##name(S *sums, const T *gradient, const u32 *rows, const u32 *groups, int width, float scale) {   \
        accumulate_rows(sums, gradient, rows, groups, width, scale);                                                   \
    }

#define FOR_EACH_SUM(S, name)                                                                                          \
    KERNEL(SUM_THREADS) add_sums##name(S *sums, const S *others, u64 len) { join_sums(sums, others, len); }             \
    KERNEL(SUM_THREADS) mean##name(const S *sums, float *out, u64 len, double unit, double tokens) {                   \
        means(sums, out, len, unit, tokens);                                                                           \
    }                                                                                                                  \
    KERNEL(SUM_THREADS)                                                                                                \
    block_squares##name(const S *sums, double *out, u64 len, u64 block, double unit, double tokens) {                  \
        squares(sums, out, len, block, unit, tokens);                                                                  \
    }                                                                                                                  \
    KERNEL(SUM_THREADS)                                                                                                \
    adamw##name(const float *weights_from, const float *avg_from, const float *square_from, float *weights,            \
                float *avg, float *square, bf16 *rounded, S *sums, u64 len, double unit, double tokens, Factors f) {   \
        adamw_step(weights_from, avg_from, square_from, weights, avg, square, rounded, sums, len, unit, tokens, f);         \
    }

FOR_EACH_TYPE(i64, float, f32)
FOR_EACH_TYPE(i64, bf16, bf16)
FOR_EACH_TYPE(float, float, plain_f32)
FOR_EACH_TYPE(float, bf16, plain_bf16)
FOR_EACH_SUM(i64, )
FOR_EACH_SUM(float, _plain)
