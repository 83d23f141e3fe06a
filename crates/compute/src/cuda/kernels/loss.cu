// Cross entropy: one block a row, two passes over its logits. The first keeps a running greatest value and the sum of exponentials against
// it; the second writes the gradient where the logits were. Probabilities are stored nowhere. A row that fits into launch memory stays there
// between the passes.

const int LOSS_WARPS = 32;
const int LOSS_THREADS = 32 * LOSS_WARPS;

DEVICE float exp_fast(float x) { return exp2_fast(x * 1.44269504f); }

// A greatest value and the sum of exponentials against it. An empty one has sum 0.
struct Exps {
    float top, sum;
};

DEVICE Exps joined(Exps a, Exps b) {
    if (b.sum == 0.0f) return a;
    if (a.sum == 0.0f) return b;
    const float top = b.top > a.top ? b.top : a.top;
    return Exps{top, a.sum * exp_fast(a.top - top) + b.sum * exp_fast(b.top - top)};
}

// Joins over a block: a tree inside a warp, lower lanes first, then warps in order. The same bits for every thread.
DEVICE Exps joined_over_block(Exps x, Shared<float> tops, Shared<float> sums) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int far = 16; far > 0; far /= 2) {
        const Exps other = {__shfl_xor_sync(ALL_LANES, x.top, far), __shfl_xor_sync(ALL_LANES, x.sum, far)};
        x = (lane & far) == 0 ? joined(x, other) : joined(other, x);
    }
    if (lane == 0) {
        tops.set(threadIdx.x / 32, x.top);
        sums.set(threadIdx.x / 32, x.sum);
    }
    __syncthreads();
    Exps all = {tops.get(0), sums.get(0)};
#pragma unroll
    for (int w = 1; w < LOSS_WARPS; w++) all = joined(all, Exps{tops.get(w), sums.get(w)});
    return all;
}

// losses[row] = -log softmax(logits)[target]; with `gradient`, logits become its gradient. `fits`: launch memory has room for a row.
template <class T>
DEVICE void cross_entropy(T *logits, const u32 *targets, double *losses, int width, int gradient, int fits) {
    SHARED(float, tops, LOSS_WARPS);
    SHARED(float, sums, LOSS_WARPS);
    const int N = Pack<T>::N;
    const bool wide = wide_rows(logits, width), keep = wide && fits != 0;
    const Shared<T> kept = launch_shared<T>(0);
    T *row = logits + static_cast<u64>(blockIdx.x) * width;
    const int target = targets[blockIdx.x];
    const float at_target = widen(row[target]);
    // Each thread reads what it copied itself.
    if (keep)
#pragma unroll 4
        for (int i = threadIdx.x * N; i < width; i += LOSS_THREADS * N) kept.set16(i, load16(row + i));
    Exps mine = {0.0f, 0.0f};
    for (int i = threadIdx.x * N; i < width; i += LOSS_THREADS * N) {
        Pack<T> p;
        if (keep)
            unpack(p, kept.get16(i));
        else
            p = load(row + i, width - i, wide);
        float top = p.v[0];
#pragma unroll
        for (int l = 1; l < N; l++)
            if (i + l < width) top = p.v[l] > top ? p.v[l] : top;
        if (mine.sum != 0.0f && mine.top > top) top = mine.top;
        float sum = mine.sum == 0.0f ? 0.0f : mine.sum * exp_fast(mine.top - top);
#pragma unroll
        for (int l = 0; l < N; l++)
            if (i + l < width) sum += exp_fast(p.v[l] - top);
        mine = Exps{top, sum};
    }
    // After the barrier in here nobody reads the row's old values but for its own packs.
    const Exps all = joined_over_block(mine, tops, sums);
    if (threadIdx.x == 0)
        losses[blockIdx.x] = static_cast<double>(all.top) + log(static_cast<double>(all.sum)) - static_cast<double>(at_target);
    if (!gradient) return;
    const float inverse = 1.0f / all.sum;
    for (int i = threadIdx.x * N; i < width; i += LOSS_THREADS * N) {
        Pack<T> p;
        if (keep)
            unpack(p, kept.get16(i));
        else
            p = load(row + i, width - i, wide);
#pragma unroll
        for (int l = 0; l < N; l++) p.v[l] = exp_fast(p.v[l] - all.top) * inverse - (i + l == target ? 1.0f : 0.0f);
        store(row + i, p, width - i, wide);
    }
}

KERNEL(LOSS_THREADS) cross_entropy_f32(float *logits, const u32 *targets, double *losses, int width, int gradient, int fits) {
    cross_entropy(logits, targets, losses, width, gradient, fits);
}
KERNEL(LOSS_THREADS) cross_entropy_bf16(bf16 *logits, const u32 *targets, double *losses, int width, int gradient, int fits) {
    cross_entropy(logits, targets, losses, width, gradient, fits);
}
