// Operations row by row: norms, SwiGLU, rotary embedding, embedding rows; and plain sums and casts.
//
// One block a row (a group of rows where a gradient is summed over them), WARPS warps, each thread every ROW_THREADS-th pack of 16 bytes.
// No atomics; every sum has one order, fixed by the shape.

const int ROW_WARPS = 4;
const int ROW_THREADS = 32 * ROW_WARPS;
// Rows whose gradient of a norm's weight is summed by one block.
const int NORM_ROWS = 8;
const int PARTIAL_WARPS = 32;

// x + delta (where there is a delta, rounded and written to `sum`), the root of its mean square, and the normed row.
template <class T>
DEVICE void norm(const T *x, const T *delta, T *sum, const T *weight, T *y, float *rstd, int width, float eps) {
    SHARED(float, space, ROW_WARPS);
    const u64 at = static_cast<u64>(blockIdx.x) * width;
    const int N = Pack<T>::N;
    const bool wide = wide_rows(x, width) && wide_rows(weight, width) && wide_rows(y, width) &&
                      (delta == nullptr || (wide_rows(delta, width) && wide_rows(sum, width)));
    float square = 0.0f;
    for (int i = threadIdx.x * N; i < width; i += ROW_THREADS * N) {
        Pack<T> p = load(x + at + i, width - i, wide);
        if (delta != nullptr) {
            const Pack<T> d = load(delta + at + i, width - i, wide);
#pragma unroll
            for (int l = 0; l < N; l++) p.v[l] = widen(narrow<T>(p.v[l] + d.v[l]));
            store(sum + at + i, p, width - i, wide);
        }
#pragma unroll
        for (int l = 0; l < N; l++) square += p.v[l] * p.v[l];
    }
    const float inverse = 1.0f / static_cast<float>(width);
    const float r = 1.0f / sqrtf(block_sum<ROW_WARPS>(square, space) * inverse + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
    // Each thread reads what it wrote itself.
    const T *total = delta != nullptr ? sum : x;
    for (int i = threadIdx.x * N; i < width; i += ROW_THREADS * N) {
        Pack<T> p = load(total + at + i, width - i, wide);
        const Pack<T> w = load(weight + i, width - i, wide);
#pragma unroll
        for (int l = 0; l < N; l++) p.v[l] = p.v[l] * r * w.v[l];
        store(y + at + i, p, width - i, wide);
    }
}

// dx += gradient of x, dy becomes y, and a group's share of the weight's gradient: partial[group, width]. A warp has a row, and a row of launch
// memory for its share; elements of a lane lie 32 apart there, so that lanes use different banks.
template <class T>
DEVICE void norm_backward(const T *x, const T *weight, const float *rstd, T *dy, T *dx, float *partial, int rows, int width) {
    const int N = Pack<T>::N, SPAN = 32 * N;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, spans = (width + SPAN - 1) / SPAN;
    const float inverse = 1.0f / static_cast<float>(width);
    const bool wide = wide_rows(x, width) && wide_rows(weight, width) && wide_rows(dy, width) && wide_rows(dx, width);
    const Shared<float> shares = launch_shared<float>(0);
    const int mine = warp * spans * SPAN + lane;
    for (int n = 0; n < spans * N; n++) shares.set(mine + 32 * n, 0.0f);
    const int first = blockIdx.x * NORM_ROWS;
    const int last = first + NORM_ROWS < rows ? first + NORM_ROWS : rows;
    for (int row = first + warp; row < last; row += warps) {
        const u64 at = static_cast<u64>(row) * width;
        const float r = rstd[row];
        float dot = 0.0f;
#pragma unroll 4
        for (int i = lane * N; i < width; i += SPAN) {
            const Pack<T> px = load(x + at + i, width - i, wide), pw = load(weight + i, width - i, wide);
            const Pack<T> pd = load(dy + at + i, width - i, wide);
#pragma unroll
            for (int l = 0; l < N; l++) dot += pd.v[l] * pw.v[l] * px.v[l];
        }
#pragma unroll
        for (int far = 16; far > 0; far /= 2) dot += __shfl_xor_sync(ALL_LANES, dot, far);
        // d/dx of x r: r (g - x r² mean(g x)), g = dy weight
        const float pull = dot * inverse * r * r;
        int slot = mine;
#pragma unroll 2
        for (int i = lane * N; i < width; i += SPAN) {
            const Pack<T> px = load(x + at + i, width - i, wide), pw = load(weight + i, width - i, wide);
            Pack<T> pd = load(dy + at + i, width - i, wide), out = load(dx + at + i, width - i, wide);
#pragma unroll
            for (int l = 0; l < N; l++) {
                const float unit = px.v[l] * r;
                // Beyond the row's end this adds 0.
                shares.set(slot + 32 * l, shares.get(slot + 32 * l) + pd.v[l] * unit);
                out.v[l] += (pd.v[l] * pw.v[l] - px.v[l] * pull) * r;
                pd.v[l] = unit * pw.v[l];
            }
            store(dx + at + i, out, width - i, wide);
            store(dy + at + i, pd, width - i, wide);
            slot += SPAN;
        }
    }
    __syncthreads();
    float *part = partial + static_cast<u64>(blockIdx.x) * width;
    for (int span = warp; span < spans; span += warps)
#pragma unroll
        for (int l = 0; l < N; l++) {
            const int column = span * SPAN + lane * N + l;
            float sum = 0.0f;
            for (int w = 0; w < warps; w++) sum += shares.get((w * spans + span) * SPAN + 32 * l + lane);
            if (column < width) part[column] = sum;
        }
}

// The sum of the groups' rows: a warp every PARTIAL_WARPS-th group, a lane a column; then warps in order.
template <class T> DEVICE void sum_partials(const float *partial, T *out, int groups, int width) {
    SHARED(float, sums, 32 * PARTIAL_WARPS);
    const int i = blockIdx.x * 32 + threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f;
    if (i < width)
#pragma unroll 8
        for (int g = warp; g < groups; g += PARTIAL_WARPS) sum += partial[static_cast<u64>(g) * width + i];
    sums.set(threadIdx.x, sum);
    __syncthreads();
    if (warp > 0 || i >= width) return;
#pragma unroll
    for (int w = 1; w < PARTIAL_WARPS; w++) sum += sums.get(32 * w + threadIdx.x);
    out[i] = narrow<T>(sum);
}

// y = silu(gate) up, rows of gate ++ up.
template <class T> DEVICE void swiglu(const T *gate_up, T *y, int width) {
    const int N = Pack<T>::N;
    const bool wide = wide_rows(gate_up, width) && wide_rows(y, width);
    const u64 at = static_cast<u64>(blockIdx.x) * width;
    for (int i = threadIdx.x * N; i < width; i += ROW_THREADS * N) {
        Pack<T> g = load(gate_up + 2 * at + i, width - i, wide);
        const Pack<T> u = load(gate_up + 2 * at + width + i, width - i, wide);
#pragma unroll
        for (int l = 0; l < N; l++) g.v[l] = g.v[l] / (1.0f + exp_f32(-g.v[l])) * u.v[l];
        store(y + at + i, g, width - i, wide);
    }
}

// The gradients of gate and up, and y in the place of dy.
template <class T> DEVICE void swiglu_backward(const T *gate_up, T *dy, T *dgate_up, int width) {
    const int N = Pack<T>::N;
    const bool wide = wide_rows(gate_up, width) && wide_rows(dy, width) && wide_rows(dgate_up, width);
    const u64 at = static_cast<u64>(blockIdx.x) * width;
    for (int i = threadIdx.x * N; i < width; i += ROW_THREADS * N) {
        Pack<T> g = load(gate_up + 2 * at + i, width - i, wide), u = load(gate_up + 2 * at + width + i, width - i, wide);
        Pack<T> d = load(dy + at + i, width - i, wide);
#pragma unroll
        for (int l = 0; l < N; l++) {
            const float sigmoid = 1.0f / (1.0f + exp_f32(-g.v[l]));
            const float silu = g.v[l] * sigmoid;
            const float slope = sigmoid + silu * (1.0f - sigmoid);
            g.v[l] = d.v[l] * u.v[l] * slope;
            const float y = silu * u.v[l];
            u.v[l] = d.v[l] * silu;
            d.v[l] = y;
        }
        store(dgate_up + 2 * at + i, g, width - i, wide);
        store(dgate_up + 2 * at + width + i, u, width - i, wide);
        store(dy + at + i, d, width - i, wide);
    }
}

// Turns the first `heads` heads of a row of `stride` elements in place; halves are paired. `sign` -1 turns back.
template <class T>
DEVICE void rope(T *qkv, const float *cosine, const float *sine, int seq_len, int stride, int heads, int half, float sign) {
    const int N = Pack<T>::N;
    const bool wide = wide_rows(qkv, half) && stride % N == 0;
    const int position = blockIdx.x % seq_len, packs = (half + N - 1) / N;
    T *row = qkv + static_cast<u64>(blockIdx.x) * stride;
    for (int n = threadIdx.x; n < heads * packs; n += ROW_THREADS) {
        const int i = n % packs * N, count = half - i;
        T *low = row + n / packs * 2 * half + i;
        Pack<T> a = load(low, count, wide), b = load(low + half, count, wide);
#pragma unroll
        for (int l = 0; l < N; l++) {
            if (l >= count) continue;
            const float c = cosine[position * half + i + l], s = sine[position * half + i + l] * sign;
            const float x = a.v[l], y = b.v[l];
            a.v[l] = x * c - y * s;
            b.v[l] = y * c + x * s;
        }
        store(low, a, count, wide);
        store(low + half, b, count, wide);
    }
}

// Rows of a table by index.
template <class T> DEVICE void gather(const T *table, const u32 *tokens, T *out, int width) {
    const int N = Pack<T>::N;
    const bool wide = wide_rows(table, width) && wide_rows(out, width);
    const T *from = table + static_cast<u64>(tokens[blockIdx.x]) * width;
    T *to = out + static_cast<u64>(blockIdx.x) * width;
    for (int i = threadIdx.x * N; i < width; i += ROW_THREADS * N) {
        if (wide) {
            store16(to + i, load16(from + i));
            continue;
        }
        for (int l = 0; l < N && i + l < width; l++) to[i + l] = from[i + l];
    }
}

// dst += src.
template <class T> DEVICE void add(T *dst, const T *src, u64 len) {
    const int N = Pack<T>::N;
    const u64 at = (static_cast<u64>(blockIdx.x) * ROW_THREADS + threadIdx.x) * N;
    if (at >= len) return;
    const int count = len - at < N ? static_cast<int>(len - at) : N;
    const bool wide = aligned(dst) && aligned(src) && count == N;
    Pack<T> a = load(dst + at, count, wide);
    const Pack<T> b = load(src + at, count, wide);
#pragma unroll
    for (int l = 0; l < N; l++) a.v[l] += b.v[l];
    store(dst + at, a, count, wide);
}

#define FOR_EACH_TYPE(T, name)                                                                                         \
    KERNEL(ROW_THREADS)                                                                                                \
    norm_##name(const T *x, const T *delta, T *sum, const T *weight, T *y, float *rstd, int width, float eps) {        \
        norm(x, delta, sum, weight, y, rstd, width, eps);                                                              \
    }                                                                                                                  \
    KERNEL(ROW_THREADS)                                                                                                \
    norm_backward_##name(const T *x, const T *weight, const float *rstd, T *dy, T *dx, float *partial, int rows,       \
                         int width) {                                                                                  \
        norm_backward(x, weight, rstd, dy, dx, partial, rows, width);                                                  \
    }                                                                                                                  \
    KERNEL(32 * PARTIAL_WARPS) sum_partials_##name(const float *partial, T *out, int groups, int width) {              \
        sum_partials(partial, out, groups, width);                                                                     \
    }                                                                                                                  \
    KERNEL(ROW_THREADS) swiglu_##name(const T *gate_up, T *y, int width) { swiglu(gate_up, y, width); }                \
    KERNEL(ROW_THREADS) swiglu_backward_##name(const T *gate_up, T *dy, T *dgate_up, int width) {                      \
        swiglu_backward(gate_up, dy, dgate_up, width);                                                                 \
    }                                                                                                                  \
    KERNEL(ROW_THREADS)                                                                                                \
    rope_##name(T *qkv, const float *cosine, const float *sine, int seq_len, int stride, int heads, int half,          \
                float sign) {                                                                                          \
        rope(qkv, cosine, sine, seq_len, stride, heads, half, sign);                                                   \
    }                                                                                                                  \
    KERNEL(ROW_THREADS) gather_##name(const T *table, const u32 *tokens, T *out, int width) {                          \
        gather(table, tokens, out, width);                                                                             \
    }                                                                                                                  \
    KERNEL(ROW_THREADS) add_##name(T *dst, const T *src, u64 len) { add(dst, src, len); }

FOR_EACH_TYPE(float, f32)
FOR_EACH_TYPE(bf16, bf16)

// Eight elements a thread from one type to the other.
KERNEL(ROW_THREADS) cast_f32_bf16(const float *from, bf16 *to, u64 len) {
    const u64 at = (static_cast<u64>(blockIdx.x) * ROW_THREADS + threadIdx.x) * 8;
    if (at >= len) return;
    const int count = len - at < 8 ? static_cast<int>(len - at) : 8;
    const bool wide = aligned(from) && aligned(to) && count == 8;
    const Pack<float> low = load(from + at, count, wide), high = load(from + at + 4, count - 4, wide);
    Pack<bf16> p;
#pragma unroll
    for (int l = 0; l < 4; l++) {
        p.v[l] = low.v[l];
        p.v[l + 4] = high.v[l];
    }
    store(to + at, p, count, wide);
}
KERNEL(ROW_THREADS) cast_bf16_f32(const bf16 *from, float *to, u64 len) {
    const u64 at = (static_cast<u64>(blockIdx.x) * ROW_THREADS + threadIdx.x) * 8;
    if (at >= len) return;
    const int count = len - at < 8 ? static_cast<int>(len - at) : 8;
    const bool wide = aligned(from) && aligned(to) && count == 8;
    const Pack<bf16> p = load(from + at, count, wide);
    Pack<float> low, high;
#pragma unroll
    for (int l = 0; l < 4; l++) {
        low.v[l] = p.v[l];
        high.v[l] = p.v[l + 4];
    }
    store(to + at, low, count, wide);
    store(to + at + 4, high, count - 4, wide);
}
