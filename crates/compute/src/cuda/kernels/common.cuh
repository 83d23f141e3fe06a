// What all kernels share: element types, packs of 16 bytes, the exponential, sums over a block in a fixed order.
//
// Arithmetic is what is written: sources are compiled without contraction of products and sums, and say fmaf where one is meant. Where a
// kernel does what the CPU does element by element, it gives the CPU's bits.

const u32 ALL_LANES = 0xffffffffu;

struct bf16 {
    u16 bits;
};

DEVICE float widen(float x) { return x; }
DEVICE float widen(bf16 x) { return __uint_as_float(static_cast<u32>(x.bits) << 16); }

template <class T> DEVICE T narrow(float x);
template <> METHOD float narrow<float>(float x) { return x; }
template <> METHOD bf16 narrow<bf16>(float x) { return bf16{bf16_bits(x)}; }

// Elements of 16 bytes, widened.
template <class T> struct Pack {
    static const int N = 16 / sizeof(T);
    float v[N];
};

DEVICE void unpack(Pack<float> &p, uint4 q) {
    p.v[0] = __uint_as_float(q.x);
    p.v[1] = __uint_as_float(q.y);
    p.v[2] = __uint_as_float(q.z);
    p.v[3] = __uint_as_float(q.w);
}
DEVICE void unpack(Pack<bf16> &p, uint4 q) {
    const u32 words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        p.v[2 * i] = __uint_as_float(words[i] << 16);
        p.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
DEVICE uint4 packed(const Pack<float> &p) {
    return make_uint4(__float_as_uint(p.v[0]), __float_as_uint(p.v[1]), __float_as_uint(p.v[2]), __float_as_uint(p.v[3]));
}
DEVICE uint4 packed(const Pack<bf16> &p) {
    return make_uint4(bf16_pair(p.v[0], p.v[1]), bf16_pair(p.v[2], p.v[3]), bf16_pair(p.v[4], p.v[5]),
                      bf16_pair(p.v[6], p.v[7]));
}

// `count` elements; the rest of the pack is 0. `wide`: the address is a multiple of 16 and the pack is full.
template <class T> DEVICE Pack<T> load(const T *from, int count, bool wide) {
    Pack<T> p;
    if (wide) {
        unpack(p, load16(from));
        return p;
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) p.v[i] = i < count ? widen(from[i]) : 0.0f;
    return p;
}
template <class T> DEVICE void store(T *to, const Pack<T> &p, int count, bool wide) {
    if (wide) {
        store16(to, packed(p));
        return;
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++)
        if (i < count) to[i] = narrow<T>(p.v[i]);
}

DEVICE bool aligned(const void *p) { return (reinterpret_cast<u64>(p) & 15) == 0; }
// Whether rows of `width` elements from here on consist of full packs at multiples of 16.
template <class T> DEVICE bool wide_rows(const T *p, int width) { return aligned(p) && width % Pack<T>::N == 0; }

// The same polynomial and the same order as on the CPU: the same bits.
DEVICE float exp_f32(float x) {
    const float MAGIC = 12582912.0f;
    x = x > 88.37626f ? 88.37626f : x;
    const bool small = x < -87.33654f;
    x = small ? -87.33654f : x;
    const float shifted = fmaf(x, 1.44269504f, MAGIC);
    const float n = shifted - MAGIC;
    float r = fmaf(n, -0.6933594f, x);
    r = fmaf(n, 2.1219444e-4f, r);
    float p = 1.9875691e-4f;
    p = fmaf(p, r, 1.3981999e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666665e-1f);
    p = fmaf(p, r, 5.0000003e-1f);
    const float y = (fmaf(p, r * r, r) + 1.0f) * __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u);
    return small ? 0.0f : y;
}

// The sum over a block of WARPS warps, the same bits for every thread: a tree inside a warp, then warps in order. `space` has WARPS
// elements and may be used again at once.
template <int WARPS> DEVICE float block_sum(float x, Shared<float> space) {
#pragma unroll
    for (int far = 16; far > 0; far /= 2) x += __shfl_xor_sync(ALL_LANES, x, far);
    if (threadIdx.x % 32 == 0) space.set(threadIdx.x / 32, x);
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += space.get(w);
    __syncthreads();
    return sum;
}
