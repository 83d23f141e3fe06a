// Causal grouped-query attention by tiles on tensor cores, never storing the score matrix (Dao 2023, FlashAttention-2).
//
// Compiled once per HEAD_DIM, a multiple of 16 up to 128; narrower heads are filled up with zeros. A block has 4 warps, and a tile of OWN
// rows that it keeps: each warp has 16 of them and their accumulators in registers. Tiles of the other kind (keys where it owns queries,
// queries where it owns keys) pass by in shared memory. The backward pass is three kernels, so that every gradient has one owner and
// one order of addition: row sums (delta), keys and values, queries. That computes the scores twice, and needs no atomics.
//
// bf16: products of bf16 with float sums. float: each operand split into two tf32 numbers, three products, about float's precision.

const int WARPS = 4;
const int THREADS = 32 * WARPS;
const int OWN = 16 * WARPS;
const float LOG2E = 1.44269504f;
const float LN2 = 0.69314718f;

// What a type does on tensor cores. A product's operand A is [16, STEP], B is [STEP, 8], C is [16, 8]; of C a lane holds rows g and g + 8
// (g = lane / 4), columns 2 (lane % 4) and the next.
template <class T> struct Tensor;

template <> struct Tensor<bf16> {
    typedef u16 Cell;
    static const int STEP = 16;
    static const int OTHER = 32;
    // Cells between rows of a tile: 16 bytes more than a row, so that eight rows lie in different banks.
    static const int LINE = HEAD_DIM + 8;
    struct A {
        u32 r[4];
    };
    struct B {
        u32 r[2];
    };
    static METHOD Cell cell(bf16 x) { return x.bits; }
    // tile[row .. row + 16, column .. column + 16]
    static METHOD A rows(Shared<u16> tile, int row, int column) {
        const int lane = threadIdx.x % 32;
        A a;
        load_matrices(a.r, tile, (row + lane % 16) * LINE + column + lane / 16 * 8);
        return a;
    }
    // B[k, n] = tile[row + n, column + k]
    static METHOD B across(Shared<u16> tile, int row, int column) {
        const int lane = threadIdx.x % 16;
        B b;
        load_matrices(b.r, tile, (row + lane % 8) * LINE + column + lane / 8 * 8);
        return b;
    }
    // B[k, n] = tile[row + k, column + n], k as in `from_sums`
    static METHOD B along(Shared<u16> tile, int row, int column) {
        B b;
        load_matrices_transposed(b.r, tile, (row + threadIdx.x % 16) * LINE + column);
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
    static METHOD void multiply(float (&c)[4], const A &a, const B &b) { mma_bf16(c, a.r, b.r); }
};

template <> struct Tensor<float> {
    typedef float Cell;
    static const int STEP = 8;
    static const int OTHER = 16;
    static const int LINE = HEAD_DIM + 4;
    struct A {
        float r[4];
    };
    struct B {
        float r[2];
    };
    static METHOD Cell cell(float x) { return x; }
    static METHOD A rows(Shared<float> tile, int row, int column) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const int at = (row + g) * LINE + column + t;
        return A{{tile.get(at), tile.get(at + 8 * LINE), tile.get(at + 4), tile.get(at + 8 * LINE + 4)}};
    }
    static METHOD B across(Shared<float> tile, int row, int column) {
        const int at = (row + threadIdx.x % 32 / 4) * LINE + column + threadIdx.x % 4;
        return B{{tile.get(at), tile.get(at + 4)}};
    }
    // The sum over k may run in any order that A and B share: `from_sums` takes columns 2t and 2t + 1 as t and t + 4.
    static METHOD B along(Shared<float> tile, int row, int column) {
        const int at = (row + 2 * (threadIdx.x % 4)) * LINE + column + threadIdx.x % 32 / 4;
        return B{{tile.get(at), tile.get(at + LINE)}};
    }
    template <int TILES> static METHOD A from_sums(const float (&c)[TILES][4], int step) {
        return A{{c[step][0], c[step][2], c[step][1], c[step][3]}};
    }
    // Small times large terms first; small times small is below float's precision.
    static METHOD void multiply(float (&c)[4], const A &a, const B &b) {
        float high_a[4], low_a[4], high_b[2], low_b[2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            high_a[i] = to_tf32(a.r[i]);
            low_a[i] = to_tf32(a.r[i] - high_a[i]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            high_b[i] = to_tf32(b.r[i]);
            low_b[i] = to_tf32(b.r[i] - high_b[i]);
        }
        mma_tf32(c, low_a, high_b);
        mma_tf32(c, high_a, low_b);
        mma_tf32(c, high_a, high_b);
    }
};

// Shapes as the launch gives them. Rows are tokens; query head h uses key/value head h * kv_heads / heads.
struct Shape {
    int seq_len, heads, kv_heads, head_dim;
    float scale;
};

DEVICE int stride_of(Shape s) { return (s.heads + 2 * s.kv_heads) * s.head_dim; }
DEVICE int key_column(Shape s, int kv) { return (s.heads + kv) * s.head_dim; }
DEVICE int value_column(Shape s, int kv) { return (s.heads + s.kv_heads + kv) * s.head_dim; }

// Copies `count` rows (at least 0 of them) of a head into a tile of `rows` rows, zeros beyond and to the right.
template <class T>
DEVICE void load_tile(Shared<typename Tensor<T>::Cell> tile, int rows, const T *from, u64 stride, int count, int head_dim) {
    const int N = Pack<T>::N, PACKS = HEAD_DIM / N;
    const bool wide = aligned(from) && stride % N == 0 && head_dim % N == 0;
    for (int n = threadIdx.x; n < rows * PACKS; n += THREADS) {
        const int row = n / PACKS, column = n % PACKS * N, at = row * Tensor<T>::LINE + column;
        const T *source = from + row * stride + column;
        if (wide) {
            tile.set16(at, row < count && column < head_dim ? load16(source) : make_uint4(0, 0, 0, 0));
            continue;
        }
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

// c[16, OTHER] += own[row .. row + 16, :] other[0 .. OTHER, :]^T
template <class T>
DEVICE void scores(float (&c)[Tensor<T>::OTHER / 8][4], Shared<typename Tensor<T>::Cell> own, int row,
                   Shared<typename Tensor<T>::Cell> other) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM; k += Tensor<T>::STEP) {
        const typename Tensor<T>::A a = Tensor<T>::rows(own, row, k);
#pragma unroll
        for (int j = 0; j < Tensor<T>::OTHER / 8; j++) Tensor<T>::multiply(c[j], a, Tensor<T>::across(other, 8 * j, k));
    }
}

// c[16, HEAD_DIM] += p[16, OTHER] other[0 .. OTHER, :]
template <class T>
DEVICE void mix(float (&c)[HEAD_DIM / 8][4], const float (&p)[Tensor<T>::OTHER / 8][4],
                Shared<typename Tensor<T>::Cell> other) {
#pragma unroll
    for (int k = 0; k < Tensor<T>::OTHER / Tensor<T>::STEP; k++) {
        const typename Tensor<T>::A a = Tensor<T>::from_sums(p, k);
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++)
            Tensor<T>::multiply(c[j], a, Tensor<T>::along(other, k * Tensor<T>::STEP, 8 * j));
    }
}

// Writes rows g and g + 8 of a warp's [16, HEAD_DIM] sums, times a factor a row, to rows `first + ...` below `end`.
template <class T>
DEVICE void write_rows(const float (&c)[HEAD_DIM / 8][4], const float (&factor)[2], T *to, u64 stride, int first, int end, int head_dim) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + g + 8 * h;
        if (row >= end) continue;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int column = 8 * j + 2 * t + i;
                if (column < head_dim) to[row * stride + column] = narrow<T>(c[j][2 * h + i] * factor[h]);
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

// Blocks: x over tiles of queries (the last first: it has most to do), y over query heads, z over sequences.
template <class T> DEVICE void forward(const T *qkv, T *out, float *lse, Shape s) {
    typedef Tensor<T> U;
    const int TILES = U::OTHER / 8;
    const int TILE_BYTES = U::LINE * sizeof(T);
    const Shared<typename U::Cell> q = launch_shared<typename U::Cell>(0);
    const Shared<typename U::Cell> k = launch_shared<typename U::Cell>(OWN * TILE_BYTES);
    const Shared<typename U::Cell> v = launch_shared<typename U::Cell>((OWN + U::OTHER) * TILE_BYTES);
    const int head = blockIdx.y, kv = head * s.kv_heads / s.heads, stride = stride_of(s);
    const int first = (gridDim.x - 1 - blockIdx.x) * OWN, warp_row = threadIdx.x / 32 * 16;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const T *sequence = qkv + static_cast<u64>(blockIdx.z) * s.seq_len * stride;
    load_tile(q, OWN, sequence + static_cast<u64>(first) * stride + head * s.head_dim, stride, s.seq_len - first, s.head_dim);
    const float scale = s.scale * LOG2E, NONE = __uint_as_float(0xff800000u);
    float o[HEAD_DIM / 8][4], top[2] = {NONE, NONE}, total[2] = {0.0f, 0.0f};
    clear(o);
    const int end = first + OWN < s.seq_len ? first + OWN : s.seq_len;
    for (int from = 0; from < end; from += U::OTHER) {
        __syncthreads();
        const T *rows = sequence + static_cast<u64>(from) * stride;
        load_tile(k, U::OTHER, rows + key_column(s, kv), stride, s.seq_len - from, s.head_dim);
        load_tile(v, U::OTHER, rows + value_column(s, kv), stride, s.seq_len - from, s.head_dim);
        __syncthreads();
        float p[TILES][4];
        clear(p);
        scores<T>(p, q, warp_row, k);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + warp_row + g + 8 * h;
            float high = top[h];
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int key = from + 8 * j + 2 * t + i;
                    float &x = p[j][2 * h + i];
                    x = key <= row ? x * scale : NONE;
                    high = x > high ? x : high;
                }
            // Key 0 is in the first tile, so that every row has a greatest score from there on.
            high = over_row(high, true);
            const float shrink = exp2_fast(top[h] - high);
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &x = p[j][2 * h + i];
                    x = exp2_fast(x - high);
                    sum += x;
                }
            total[h] = total[h] * shrink + over_row(sum, false);
            top[h] = high;
#pragma unroll
            for (int j = 0; j < HEAD_DIM / 8; j++) {
                o[j][2 * h] *= shrink;
                o[j][2 * h + 1] *= shrink;
            }
        }
        mix<T>(o, p, v);
    }
    const float inverse[2] = {1.0f / total[0], 1.0f / total[1]};
    const u64 width = static_cast<u64>(s.heads) * s.head_dim;
    write_rows(o, inverse, out + static_cast<u64>(blockIdx.z) * s.seq_len * width + head * s.head_dim, width,
               first + warp_row, s.seq_len, s.head_dim);
    float *logs = lse + (static_cast<u64>(blockIdx.z) * s.heads + head) * s.seq_len;
    for (int h = 0; h < 2; h++) {
        const int row = first + warp_row + g + 8 * h;
        if (t == 0 && row < s.seq_len)
            logs[row] = top[h] * LN2 + static_cast<float>(log(static_cast<double>(total[h])));
    }
}

// delta[sequence, head, row] = out . dout, one warp a row and head.
template <class T> DEVICE void row_sums(const T *out, const T *dout, float *delta, Shape s, int rows) {
    const u64 n = static_cast<u64>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const bool mine = n < static_cast<u64>(rows) * s.heads;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; mine && i < s.head_dim; i += 32)
        sum += widen(out[n * s.head_dim + i]) * widen(dout[n * s.head_dim + i]);
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
    const int TILES = U::OTHER / 8;
    const int TILE_BYTES = U::LINE * sizeof(T);
    const Shared<typename U::Cell> k = launch_shared<typename U::Cell>(0);
    const Shared<typename U::Cell> v = launch_shared<typename U::Cell>(OWN * TILE_BYTES);
    const Shared<typename U::Cell> q = launch_shared<typename U::Cell>(2 * OWN * TILE_BYTES);
    const Shared<typename U::Cell> d = launch_shared<typename U::Cell>((2 * OWN + U::OTHER) * TILE_BYTES);
    SHARED(float, logs, U::OTHER);
    SHARED(float, deltas, U::OTHER);
    const int kv = blockIdx.y, group = s.heads / s.kv_heads, stride = stride_of(s);
    const int first = blockIdx.x * OWN, warp_row = threadIdx.x / 32 * 16;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const u64 sequence = static_cast<u64>(blockIdx.z) * s.seq_len, width = static_cast<u64>(s.heads) * s.head_dim;
    const T *keys = qkv + (sequence + first) * stride;
    load_tile(k, OWN, keys + key_column(s, kv), stride, s.seq_len - first, s.head_dim);
    load_tile(v, OWN, keys + value_column(s, kv), stride, s.seq_len - first, s.head_dim);
    float dk[HEAD_DIM / 8][4], dv[HEAD_DIM / 8][4];
    clear(dk);
    clear(dv);
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        const u64 line = (static_cast<u64>(blockIdx.z) * s.heads + head) * s.seq_len;
        for (int from = first; from < s.seq_len; from += U::OTHER) {
            __syncthreads();
            load_tile(q, U::OTHER, qkv + (sequence + from) * stride + head * s.head_dim, stride, s.seq_len - from, s.head_dim);
            load_tile(d, U::OTHER, dout + (sequence + from) * width + head * s.head_dim, width, s.seq_len - from, s.head_dim);
            for (int i = threadIdx.x; i < U::OTHER; i += THREADS) {
                logs.set(i, from + i < s.seq_len ? lse[line + from + i] * LOG2E : 0.0f);
                deltas.set(i, from + i < s.seq_len ? delta[line + from + i] : 0.0f);
            }
            __syncthreads();
            float p[TILES][4], ds[TILES][4];
            clear(p);
            clear(ds);
            scores<T>(p, k, warp_row, q);
            scores<T>(ds, v, warp_row, d);
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int column = 8 * j + 2 * t + i % 2, query = from + column, key = first + warp_row + g + i / 2 * 8;
                    const bool seen = key <= query && query < s.seq_len;
                    p[j][i] = seen ? exp2_fast(p[j][i] * (s.scale * LOG2E) - logs.get(column)) : 0.0f;
                    ds[j][i] = p[j][i] * (ds[j][i] - deltas.get(column)) * s.scale;
                }
            mix<T>(dv, p, d);
            mix<T>(dk, ds, q);
        }
    }
    const float one[2] = {1.0f, 1.0f};
    T *to = dqkv + sequence * stride;
    write_rows(dk, one, to + key_column(s, kv), stride, first + warp_row, s.seq_len, s.head_dim);
    write_rows(dv, one, to + value_column(s, kv), stride, first + warp_row, s.seq_len, s.head_dim);
}

// Gradients of queries. Blocks as in the forward pass.
template <class T>
DEVICE void backward_queries(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv, Shape s) {
    typedef Tensor<T> U;
    const int TILES = U::OTHER / 8;
    const int TILE_BYTES = U::LINE * sizeof(T);
    const Shared<typename U::Cell> q = launch_shared<typename U::Cell>(0);
    const Shared<typename U::Cell> d = launch_shared<typename U::Cell>(OWN * TILE_BYTES);
    const Shared<typename U::Cell> k = launch_shared<typename U::Cell>(2 * OWN * TILE_BYTES);
    const Shared<typename U::Cell> v = launch_shared<typename U::Cell>((2 * OWN + U::OTHER) * TILE_BYTES);
    const int head = blockIdx.y, kv = head * s.kv_heads / s.heads, stride = stride_of(s);
    const int first = (gridDim.x - 1 - blockIdx.x) * OWN, warp_row = threadIdx.x / 32 * 16;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const u64 sequence = static_cast<u64>(blockIdx.z) * s.seq_len, width = static_cast<u64>(s.heads) * s.head_dim;
    load_tile(q, OWN, qkv + (sequence + first) * stride + head * s.head_dim, stride, s.seq_len - first, s.head_dim);
    load_tile(d, OWN, dout + (sequence + first) * width + head * s.head_dim, width, s.seq_len - first, s.head_dim);
    float log[2], mean[2], dq[HEAD_DIM / 8][4];
    clear(dq);
    for (int h = 0; h < 2; h++) {
        const int row = first + warp_row + g + 8 * h;
        const u64 at = (static_cast<u64>(blockIdx.z) * s.heads + head) * s.seq_len + row;
        log[h] = row < s.seq_len ? lse[at] * LOG2E : 0.0f;
        mean[h] = row < s.seq_len ? delta[at] : 0.0f;
    }
    const int end = first + OWN < s.seq_len ? first + OWN : s.seq_len;
    for (int from = 0; from < end; from += U::OTHER) {
        __syncthreads();
        const T *rows = qkv + (sequence + from) * stride;
        load_tile(k, U::OTHER, rows + key_column(s, kv), stride, s.seq_len - from, s.head_dim);
        load_tile(v, U::OTHER, rows + value_column(s, kv), stride, s.seq_len - from, s.head_dim);
        __syncthreads();
        float p[TILES][4], ds[TILES][4];
        clear(p);
        clear(ds);
        scores<T>(p, q, warp_row, k);
        scores<T>(ds, d, warp_row, v);
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = from + 8 * j + 2 * t + i % 2, row = first + warp_row + g + i / 2 * 8;
                const bool seen = key <= row && row < s.seq_len;
                const float x = seen ? exp2_fast(p[j][i] * (s.scale * LOG2E) - log[i / 2]) : 0.0f;
                ds[j][i] = x * (ds[j][i] - mean[i / 2]) * s.scale;
            }
        mix<T>(dq, ds, k);
    }
    const float one[2] = {1.0f, 1.0f};
    write_rows(dq, one, dqkv + sequence * stride + head * s.head_dim, stride, first + warp_row, s.seq_len, s.head_dim);
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
