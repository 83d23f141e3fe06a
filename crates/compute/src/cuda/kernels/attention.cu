// Causal grouped-query attention by tiles on tensor cores, never storing the score matrix (Dao 2023, FlashAttention-2).
//
// Compiled once per HEAD_DIM, a multiple of 16 up to 128; narrower heads are filled up with zeros. A block has 4 warps, and a tile of OWN
// rows that it keeps: each warp has 16 of them and their accumulators in registers. Tiles of the other kind (keys where it owns queries,
// queries where it owns keys) pass by in shared memory, the next one on its way while one is worked on. The backward pass is three
// kernels, so that every gradient has one owner and one order of addition: row sums (delta), keys and values, queries. That computes the
// scores twice, and needs no atomics.
//
// bf16: products of bf16 with float sums. float: each operand split into two tf32 numbers, three products, about float's precision.

const int WARPS = 4;
const int THREADS = 32 * WARPS;
const int OWN = 16 * WARPS;
const float LOG2E = 1.44269504f;
const float LN2 = 0.69314718f;

// What a type does on tensor cores. A product's operand A is [16, STEP], B is [STEP, 8], C is [16, 8]; of C a lane holds rows g and g + 8
// (g = lane / 4), columns 2 (lane % 4) and the next. B comes in pairs, for 16 columns.
template <class T> struct Tensor;

template <> struct Tensor<bf16> {
    typedef u16 Cell;
    static const int STEP = 16;
    // Rows of a tile that passes by: as many as registers allow.
    static const int OTHER = 64;
    static const int OTHER_BACK = HEAD_DIM <= 64 ? 64 : 32;
    // Tiles of a kind in shared memory: one at work, one on its way.
    static const int STAGES = 2;
    // Cells between rows of a tile: 16 bytes more than a row, so that eight rows lie in different banks.
    static const int LINE = HEAD_DIM + 8;
    struct A {
        u32 r[4];
    };
    struct Pair {
        u32 r[4];
    };
    static METHOD Cell cell(bf16 x) { return x.bits; }
    // tile[row .. row + 16, column .. column + 16]
    static METHOD A rows(Shared<u16> tile, int row, int column) {
        const int lane = threadIdx.x % 32;
        A a;
        load_matrices(a.r, tile, (row + lane % 16) * LINE + column + lane / 16 * 8);
        return a;
    }
    // B[k, n] = tile[row + n, column + k], n below 16
    static METHOD Pair across(Shared<u16> tile, int row, int column) {
        const int lane = threadIdx.x % 32;
        Pair b;
        load_matrices(b.r, tile, (row + lane / 16 * 8 + lane % 8) * LINE + column + lane / 8 % 2 * 8);
        return b;
    }
    // B[k, n] = tile[row + k, column + n], n below 16, k as in `from_sums`
    static METHOD Pair along(Shared<u16> tile, int row, int column) {
        const int lane = threadIdx.x % 32;
        Pair b;
        load_matrices_transposed(b.r, tile, (row + lane % 16) * LINE + column + lane / 16 * 8);
        return b;
    }
    // A whose columns are those of C's tiles 2 step and 2 step + 1.
    template <int TILES> static METHOD A from_sums(const float (&c)[TILES][4], int step) {
        A a;
        a.r[0] = bf16_pair(c[2 * step][0], c[2 * step][1]);
        a.r[1] = bf16_pair(c[2 * step][2], c[2 * step][3]);
        a.r[2] = bf16_pair(c[2 * step + 1][0], c[2 * step + 1][1]);
        a.r[3] = bf16_pair(c[2 * step + 1][2], c[2 * step + 1][3]);
        return a;
    }
    static METHOD void multiply(float (&low)[4], float (&high)[4], const A &a, const Pair &b) {
        const u32 first[2] = {b.r[0], b.r[1]}, second[2] = {b.r[2], b.r[3]};
        mma_bf16(low, a.r, first);
        mma_bf16(high, a.r, second);
    }
};

template <> struct Tensor<float> {
    typedef float Cell;
    static const int STEP = 8;
    static const int OTHER = 16;
    static const int OTHER_BACK = 16;
    static const int STAGES = 1;
    static const int LINE = HEAD_DIM + 4;
    struct A {
        float r[4];
    };
    struct Pair {
        float r[4];
    };
    static METHOD Cell cell(float x) { return x; }
    static METHOD A rows(Shared<float> tile, int row, int column) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const int at = (row + g) * LINE + column + t;
        return A{{tile.get(at), tile.get(at + 8 * LINE), tile.get(at + 4), tile.get(at + 8 * LINE + 4)}};
    }
    static METHOD Pair across(Shared<float> tile, int row, int column) {
        const int at = (row + threadIdx.x % 32 / 4) * LINE + column + threadIdx.x % 4;
        return Pair{{tile.get(at), tile.get(at + 4), tile.get(at + 8 * LINE), tile.get(at + 8 * LINE + 4)}};
    }
    // The sum over k may run in any order that A and B share: `from_sums` takes columns 2t and 2t + 1 as t and t + 4.
    static METHOD Pair along(Shared<float> tile, int row, int column) {
        const int at = (row + 2 * (threadIdx.x % 4)) * LINE + column + threadIdx.x % 32 / 4;
        return Pair{{tile.get(at), tile.get(at + LINE), tile.get(at + 8), tile.get(at + LINE + 8)}};
    }
    template <int TILES> static METHOD A from_sums(const float (&c)[TILES][4], int step) {
        return A{{c[step][0], c[step][2], c[step][1], c[step][3]}};
    }
    // Small times large terms first; small times small is below float's precision.
    static METHOD void one(float (&c)[4], const A &a, float b0, float b1) {
        const float b[2] = {b0, b1};
        float high_a[4], low_a[4], high_b[2], low_b[2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            high_a[i] = to_tf32(a.r[i]);
            low_a[i] = to_tf32(a.r[i] - high_a[i]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            high_b[i] = to_tf32(b[i]);
            low_b[i] = to_tf32(b[i] - high_b[i]);
        }
        mma_tf32(c, low_a, high_b);
        mma_tf32(c, high_a, low_b);
        mma_tf32(c, high_a, high_b);
    }
    static METHOD void multiply(float (&low)[4], float (&high)[4], const A &a, const Pair &b) {
        one(low, a, b.r[0], b.r[1]);
        one(high, a, b.r[2], b.r[3]);
    }
};

// Shapes as the launch gives them. Rows are tokens; query head h uses key/value head h * kv_heads / heads. The scale is above 0.
struct Shape {
    int seq_len, heads, kv_heads, head_dim;
    float scale;
};

DEVICE int stride_of(Shape s) { return (s.heads + 2 * s.kv_heads) * s.head_dim; }
DEVICE int key_column(Shape s, int kv) { return (s.heads + kv) * s.head_dim; }
DEVICE int value_column(Shape s, int kv) { return (s.heads + s.kv_heads + kv) * s.head_dim; }

// Whether rows of heads begin at multiples of 16 bytes and consist of full packs, so that they can be copied later.
template <class T> DEVICE bool wide_heads(const T *from, u64 stride, int head_dim) {
    const int N = Pack<T>::N;
    return aligned(from) && stride % N == 0 && head_dim % N == 0;
}

// Begins to copy `count` rows (at least 0 of them) of a head into `rows` rows of a tile from `first` on, zeros beyond and to the right. The copies
// belong to the group that is open; where rows aren't `wide` they are made at once. A thread's packs lie in one column where packs of a row
// divide the threads: then its addresses differ by one step.
template <class T>
DEVICE void load_tile(Shared<typename Tensor<T>::Cell> tile, int first, int rows, const T *from, u64 stride, int count, int head_dim, bool wide) {
    const int N = Pack<T>::N, PACKS = HEAD_DIM / N;
    if (wide && THREADS % PACKS == 0) {
        const int STEP = THREADS / PACKS, column = threadIdx.x % PACKS * N;
        int row = threadIdx.x / PACKS, at = (first + row) * Tensor<T>::LINE + column;
        const T *source = from + row * stride + column;
        const bool inside = column < head_dim;
        for (; row < rows; row += STEP) {
            const bool there = inside && row < count;
            copy16_later(tile, at, there ? source : from, there);
            at += STEP * Tensor<T>::LINE;
            source += STEP * stride;
        }
        return;
    }
    for (int n = threadIdx.x; n < rows * PACKS; n += THREADS) {
        const int row = n / PACKS, column = n % PACKS * N, at = (first + row) * Tensor<T>::LINE + column;
        if (wide) {
            const bool there = row < count && column < head_dim;
            copy16_later(tile, at, there ? from + row * stride + column : from, there);
            continue;
        }
        const T *source = from + row * stride + column;
        for (int l = 0; l < N; l++)
            tile.set(at + l, row < count && column + l < head_dim ? Tensor<T>::cell(source[l]) : Tensor<T>::cell(narrow<T>(0.0f)));
    }
}

template <int TILES> DEVICE void clear(float (&c)[TILES][4]) {
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[j][i] = 0.0f;
}

// c[16, 8 TILES] += own[row .. row + 16, :] other[first .. first + 8 TILES, :]^T
template <class T, int TILES>
DEVICE void scores(float (&c)[TILES][4], Shared<typename Tensor<T>::Cell> own, int row, Shared<typename Tensor<T>::Cell> other, int first) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM; k += Tensor<T>::STEP) {
        const typename Tensor<T>::A a = Tensor<T>::rows(own, row, k);
#pragma unroll
        for (int j = 0; j < TILES; j += 2) Tensor<T>::multiply(c[j], c[j + 1], a, Tensor<T>::across(other, first + 8 * j, k));
    }
}

// c[16, HEAD_DIM] += p[16, 8 TILES] other[first .. first + 8 TILES, :]
template <class T, int TILES>
DEVICE void mix(float (&c)[HEAD_DIM / 8][4], const float (&p)[TILES][4], Shared<typename Tensor<T>::Cell> other, int first) {
#pragma unroll
    for (int k = 0; k < 8 * TILES / Tensor<T>::STEP; k++) {
        const typename Tensor<T>::A a = Tensor<T>::from_sums(p, k);
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j += 2)
            Tensor<T>::multiply(c[j], c[j + 1], a, Tensor<T>::along(other, first + k * Tensor<T>::STEP, 8 * j));
    }
}

DEVICE void store_two(bf16 *to, float low, float high) { store4(to, bf16_pair(low, high)); }
DEVICE void store_two(float *to, float low, float high) {
    to[0] = low;
    to[1] = high;
}

// Writes rows g and g + 8 of a warp's [16, HEAD_DIM] sums, times a factor a row, to rows `first + ...` below `end`.
template <class T>
DEVICE void write_rows(const float (&c)[HEAD_DIM / 8][4], const float (&factor)[2], T *to, u64 stride, int first, int end, int head_dim) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const bool two = (reinterpret_cast<u64>(to) & 3) == 0 && stride % 2 == 0 && head_dim % 2 == 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + g + 8 * h;
        if (row >= end) continue;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++) {
            const int column = 8 * j + 2 * t;
            const float low = c[j][2 * h] * factor[h], high = c[j][2 * h + 1] * factor[h];
            T *place = to + row * stride + column;
            if (two && column < head_dim) {
                store_two(place, low, high);
                continue;
            }
            if (column < head_dim) place[0] = narrow<T>(low);
            if (column + 1 < head_dim) place[1] = narrow<T>(high);
        }
    }
}

// Greatest and sum over the four lanes that share a row.
DEVICE float over_row(float x, bool greatest) {
#pragma unroll
    for (int far = 1; far < 4; far *= 2) {
        const float y = __shfl_xor_sync(ALL_LANES, x, far);
        x = !greatest ? x + y : y > x ? y : x;
    }
    return x;
}

// What the softmax of a warp's rows g and g + 8 is at so far: greatest score (before the scale), sum of exponentials against it.
struct Softmax {
    float top[2], total[2];
};

// Turns scores of keys `from ..` into exponentials against the greatest score so far, and shrinks what was summed against an older one.
template <int TILES>
DEVICE void exponentiate(float (&p)[TILES][4], float (&o)[HEAD_DIM / 8][4], Softmax &soft, float scale, int row, int from) {
    const int t = threadIdx.x % 4;
    const float NONE = __uint_as_float(0xff800000u);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        // Only tiles that reach beyond the warp's first row have keys to hide.
        if (from + 8 * TILES > row + 1)
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int key = from + 8 * j + 2 * t + i;
                    float &x = p[j][2 * h + i];
                    x = key <= row + 8 * h ? x : NONE;
                }
        float high = soft.top[h];
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) high = fmaxf(high, p[j][2 * h + i]);
        // Key 0 is in the first tile, so that every row has a greatest score from there on.
        high = over_row(high, true);
        const float shrink = exp2_fast((soft.top[h] - high) * scale), against = -high * scale;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &x = p[j][2 * h + i];
                x = exp2_fast(fmaf(x, scale, against));
                sum += x;
            }
        soft.total[h] = soft.total[h] * shrink + sum;
        soft.top[h] = high;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++) {
            o[j][2 * h] *= shrink;
            o[j][2 * h + 1] *= shrink;
        }
    }
}

// Blocks: x over tiles of queries (the last first: it has most to do), y over query heads, z over sequences.
template <class T> DEVICE void forward(const T *qkv, T *out, float *lse, Shape s) {
    typedef Tensor<T> U;
    const int OTHER = U::OTHER, TILES = OTHER / 8;
    const int TILE_BYTES = U::LINE * sizeof(T);
    const Shared<typename U::Cell> q = launch_shared<typename U::Cell>(0);
    const Shared<typename U::Cell> k = launch_shared<typename U::Cell>(OWN * TILE_BYTES);
    const Shared<typename U::Cell> v = launch_shared<typename U::Cell>((OWN + U::STAGES * OTHER) * TILE_BYTES);
    const int head = blockIdx.y, kv = head * s.kv_heads / s.heads, stride = stride_of(s);
    const int first = (gridDim.x - 1 - blockIdx.x) * OWN, warp_row = threadIdx.x / 32 * 16;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const T *sequence = qkv + static_cast<u64>(blockIdx.z) * s.seq_len * stride;
    const int end = first + OWN < s.seq_len ? first + OWN : s.seq_len, count = (end + OTHER - 1) / OTHER;
    const bool wide = wide_heads(qkv, stride, s.head_dim);
    auto pass = [&](int n) {
        const T *rows = sequence + static_cast<u64>(n) * OTHER * stride;
        const int at = n % U::STAGES * OTHER, left = s.seq_len - n * OTHER;
        load_tile(k, at, OTHER, rows + key_column(s, kv), stride, left, s.head_dim, wide);
        load_tile(v, at, OTHER, rows + value_column(s, kv), stride, left, s.head_dim, wide);
    };
    load_tile(q, 0, OWN, sequence + static_cast<u64>(first) * stride + head * s.head_dim, stride, s.seq_len - first, s.head_dim, wide);
    if (U::STAGES > 1) pass(0);
    close_copies();
    const float scale = s.scale * LOG2E, NONE = __uint_as_float(0xff800000u);
    Softmax soft = {{NONE, NONE}, {0.0f, 0.0f}};
    float o[HEAD_DIM / 8][4];
    clear(o);
    for (int n = 0; n < count; n++) {
        const int next = n + U::STAGES - 1;
        if (next < count) pass(next);
        close_copies();
        wait_for_copies<U::STAGES - 1>();
        __syncthreads();
        const int at = n % U::STAGES * OTHER;
        float p[TILES][4];
        clear(p);
        scores<T>(p, q, warp_row, k, at);
        exponentiate(p, o, soft, scale, first + warp_row + g, n * OTHER);
        mix<T>(o, p, v, at);
        __syncthreads();
    }
    wait_for_copies<0>();
    float inverse[2];
    for (int h = 0; h < 2; h++) {
        soft.total[h] = over_row(soft.total[h], false);
        inverse[h] = 1.0f / soft.total[h];
    }
    const u64 width = static_cast<u64>(s.heads) * s.head_dim;
    write_rows(o, inverse, out + static_cast<u64>(blockIdx.z) * s.seq_len * width + head * s.head_dim, width,
               first + warp_row, s.seq_len, s.head_dim);
    float *logs = lse + (static_cast<u64>(blockIdx.z) * s.heads + head) * s.seq_len;
    for (int h = 0; h < 2; h++) {
        const int row = first + warp_row + g + 8 * h;
        if (t == 0 && row < s.seq_len)
            logs[row] = soft.top[h] * scale * LN2 + static_cast<float>(log(static_cast<double>(soft.total[h])));
    }
}

// Two elements, widened; `two`: there are two, at a multiple of their size.
struct Two {
    float v[2];
};
DEVICE Two load_two(const bf16 *from, int count, bool two) {
    if (!two) return Two{{widen(from[0]), count > 1 ? widen(from[1]) : 0.0f}};
    const u32 both = load4(from);
    return Two{{__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)}};
}
DEVICE Two load_two(const float *from, int count, bool) { return Two{{from[0], count > 1 ? from[1] : 0.0f}}; }

// delta[sequence, head, row] = out . dout, one warp a row and head.
template <class T> DEVICE void row_sums(const T *out, const T *dout, float *delta, Shape s, int rows) {
    const u64 n = static_cast<u64>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const bool mine = n < static_cast<u64>(rows) * s.heads;
    const bool two = s.head_dim % 2 == 0 && (reinterpret_cast<u64>(out) & 3) == 0 && (reinterpret_cast<u64>(dout) & 3) == 0;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32 * 2; mine && i < s.head_dim; i += 64) {
        const u64 at = n * s.head_dim + i;
        const int count = s.head_dim - i < 2 ? 1 : 2;
        const Two a = load_two(out + at, count, two), b = load_two(dout + at, count, two);
        sum += a.v[0] * b.v[0] + a.v[1] * b.v[1];
    }
    for (int far = 16; far > 0; far /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, far);
    const u64 row = n / s.heads, head = n % s.heads;
    if (mine && threadIdx.x % 32 == 0)
        delta[(row / s.seq_len * s.heads + head) * s.seq_len + row % s.seq_len] = sum;
}

// Gradients of keys and values. Blocks: x over tiles of keys, y over key/value heads, z over sequences. The queries of all heads that use
// this one pass by in order.
template <class T>
DEVICE void backward_keys(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv, Shape s) {
    typedef Tensor<T> U;
    const int OTHER = U::OTHER_BACK, TILES = OTHER / 8;
    const int TILE_BYTES = U::LINE * sizeof(T);
    const Shared<typename U::Cell> k = launch_shared<typename U::Cell>(0);
    const Shared<typename U::Cell> v = launch_shared<typename U::Cell>(OWN * TILE_BYTES);
    const Shared<typename U::Cell> q = launch_shared<typename U::Cell>(2 * OWN * TILE_BYTES);
    const Shared<typename U::Cell> d = launch_shared<typename U::Cell>((2 * OWN + U::STAGES * OTHER) * TILE_BYTES);
    SHARED(float, logs, U::STAGES * OTHER);
    SHARED(float, deltas, U::STAGES * OTHER);
    const int kv = blockIdx.y, group = s.heads / s.kv_heads, stride = stride_of(s);
    const int first = blockIdx.x * OWN, warp_row = threadIdx.x / 32 * 16;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const u64 sequence = static_cast<u64>(blockIdx.z) * s.seq_len, width = static_cast<u64>(s.heads) * s.head_dim;
    const int a_head = (s.seq_len - first + OTHER - 1) / OTHER, count = group * a_head;
    const bool wide = wide_heads(qkv, stride, s.head_dim), wide_d = wide_heads(dout, width, s.head_dim);
    auto pass = [&](int n) {
        const int head = kv * group + n / a_head, from = first + n % a_head * OTHER, at = n % U::STAGES * OTHER;
        const u64 line = (static_cast<u64>(blockIdx.z) * s.heads + head) * s.seq_len;
        load_tile(q, at, OTHER, qkv + (sequence + from) * stride + head * s.head_dim, stride, s.seq_len - from, s.head_dim, wide);
        load_tile(d, at, OTHER, dout + (sequence + from) * width + head * s.head_dim, width, s.seq_len - from, s.head_dim, wide_d);
        for (int i = threadIdx.x; i < OTHER; i += THREADS) {
            logs.set(at + i, from + i < s.seq_len ? lse[line + from + i] * LOG2E : 0.0f);
            deltas.set(at + i, from + i < s.seq_len ? delta[line + from + i] : 0.0f);
        }
    };
    const T *keys = qkv + (sequence + first) * stride;
    load_tile(k, 0, OWN, keys + key_column(s, kv), stride, s.seq_len - first, s.head_dim, wide);
    load_tile(v, 0, OWN, keys + value_column(s, kv), stride, s.seq_len - first, s.head_dim, wide);
    if (U::STAGES > 1) pass(0);
    close_copies();
    const float scale = s.scale * LOG2E;
    float dk[HEAD_DIM / 8][4], dv[HEAD_DIM / 8][4];
    clear(dk);
    clear(dv);
    for (int n = 0; n < count; n++) {
        const int next = n + U::STAGES - 1;
        if (next < count) pass(next);
        close_copies();
        wait_for_copies<U::STAGES - 1>();
        __syncthreads();
        const int from = first + n % a_head * OTHER, at = n % U::STAGES * OTHER;
        float p[TILES][4], ds[TILES][4];
        clear(p);
        clear(ds);
        scores<T>(p, k, warp_row, q, at);
        scores<T>(ds, v, warp_row, d, at);
        // Only tiles that reach the warp's keys, or the end, have pairs to hide.
        const bool part = from < first + warp_row + 15 || from + OTHER > s.seq_len;
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = 8 * j + 2 * t + i % 2, query = from + column, key = first + warp_row + g + i / 2 * 8;
                p[j][i] = exp2_fast(fmaf(p[j][i], scale, -logs.get(at + column)));
                if (part) p[j][i] = key <= query && query < s.seq_len ? p[j][i] : 0.0f;
                ds[j][i] = p[j][i] * (ds[j][i] - deltas.get(at + column));
            }
        mix<T>(dv, p, d, at);
        mix<T>(dk, ds, q, at);
        __syncthreads();
    }
    wait_for_copies<0>();
    const float one[2] = {1.0f, 1.0f}, factor[2] = {s.scale, s.scale};
    T *to = dqkv + sequence * stride;
    write_rows(dk, factor, to + key_column(s, kv), stride, first + warp_row, s.seq_len, s.head_dim);
    write_rows(dv, one, to + value_column(s, kv), stride, first + warp_row, s.seq_len, s.head_dim);
}

// Gradients of queries. Blocks as in the forward pass.
template <class T>
DEVICE void backward_queries(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv, Shape s) {
    typedef Tensor<T> U;
    const int OTHER = U::OTHER_BACK, TILES = OTHER / 8;
    const int TILE_BYTES = U::LINE * sizeof(T);
    const Shared<typename U::Cell> q = launch_shared<typename U::Cell>(0);
    const Shared<typename U::Cell> d = launch_shared<typename U::Cell>(OWN * TILE_BYTES);
    const Shared<typename U::Cell> k = launch_shared<typename U::Cell>(2 * OWN * TILE_BYTES);
    const Shared<typename U::Cell> v = launch_shared<typename U::Cell>((2 * OWN + U::STAGES * OTHER) * TILE_BYTES);
    const int head = blockIdx.y, kv = head * s.kv_heads / s.heads, stride = stride_of(s);
    const int first = (gridDim.x - 1 - blockIdx.x) * OWN, warp_row = threadIdx.x / 32 * 16;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const u64 sequence = static_cast<u64>(blockIdx.z) * s.seq_len, width = static_cast<u64>(s.heads) * s.head_dim;
    const int end = first + OWN < s.seq_len ? first + OWN : s.seq_len, count = (end + OTHER - 1) / OTHER;
    const bool wide = wide_heads(qkv, stride, s.head_dim), wide_d = wide_heads(dout, width, s.head_dim);
    auto pass = [&](int n) {
        const T *rows = qkv + (sequence + n * OTHER) * stride;
        const int at = n % U::STAGES * OTHER, left = s.seq_len - n * OTHER;
        load_tile(k, at, OTHER, rows + key_column(s, kv), stride, left, s.head_dim, wide);
        load_tile(v, at, OTHER, rows + value_column(s, kv), stride, left, s.head_dim, wide);
    };
    load_tile(q, 0, OWN, qkv + (sequence + first) * stride + head * s.head_dim, stride, s.seq_len - first, s.head_dim, wide);
    load_tile(d, 0, OWN, dout + (sequence + first) * width + head * s.head_dim, width, s.seq_len - first, s.head_dim, wide_d);
    if (U::STAGES > 1) pass(0);
    close_copies();
    const float scale = s.scale * LOG2E;
    float log[2], mean[2], dq[HEAD_DIM / 8][4];
    clear(dq);
    for (int h = 0; h < 2; h++) {
        const int row = first + warp_row + g + 8 * h;
        const u64 at = (static_cast<u64>(blockIdx.z) * s.heads + head) * s.seq_len + row;
        log[h] = row < s.seq_len ? lse[at] * LOG2E : 0.0f;
        mean[h] = row < s.seq_len ? delta[at] : 0.0f;
    }
    for (int n = 0; n < count; n++) {
        const int next = n + U::STAGES - 1;
        if (next < count) pass(next);
        close_copies();
        wait_for_copies<U::STAGES - 1>();
        __syncthreads();
        const int from = n * OTHER, at = n % U::STAGES * OTHER;
        float p[TILES][4], ds[TILES][4];
        clear(p);
        clear(ds);
        scores<T>(p, q, warp_row, k, at);
        scores<T>(ds, d, warp_row, v, at);
        const bool part = from + OTHER > first + warp_row + 1 || first + warp_row + 16 > s.seq_len;
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = from + 8 * j + 2 * t + i % 2, row = first + warp_row + g + i / 2 * 8;
                float x = exp2_fast(fmaf(p[j][i], scale, -log[i / 2]));
                if (part) x = key <= row && row < s.seq_len ? x : 0.0f;
                ds[j][i] = x * (ds[j][i] - mean[i / 2]);
            }
        mix<T>(dq, ds, k, at);
        __syncthreads();
    }
    wait_for_copies<0>();
    const float factor[2] = {s.scale, s.scale};
    write_rows(dq, factor, dqkv + sequence * stride + head * s.head_dim, stride, first + warp_row, s.seq_len, s.head_dim);
}

#define FOR_EACH_TYPE(T, name)                                                                                         \
    KERNEL(THREADS) attention_forward_##name(const T *qkv, T *out, float *lse, Shape s) { forward(qkv, out, lse, s); } \
    KERNEL(THREADS) attention_row_sums_##name(const T *out, const T *dout, float *delta, Shape s, int rows) {          \
        row_sums(out, dout, delta, s, rows);                                                                           \
    }                                                                                                                  \
    KERNEL(THREADS)                                                                                                    \
    attention_backward_keys_##name(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv,         \
                                   Shape s) {                                                                          \
        backward_keys(qkv, dout, lse, delta, dqkv, s);                                                                 \
    }                                                                                                                  \
    KERNEL(THREADS)                                                                                                    \
    attention_backward_queries_##name(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv,      \
                                      Shape s) {                                                                       \
        backward_queries(qkv, dout, lse, delta, dqkv, s);                                                              \
    }

FOR_EACH_TYPE(float, f32)
FOR_EACH_TYPE(bf16, bf16)
