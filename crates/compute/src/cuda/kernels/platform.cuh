// What a GPU offers, as the kernels name it. The emulator in the crate's tests has the same names with loops behind them, so this file is
// the only part of the kernels that runs on a GPU alone.
//
// No header of the CUDA toolkit is included: NVRTC needs none for this, and a user's machine may have none.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

// An array in the memory of a block. `get16` and `set16` move 16 bytes and want an index whose address is a multiple of 16.
template <class T> struct Shared {
    T *data;
    METHOD T get(int at) const { return data[at]; }
    METHOD void set(int at, T value) const { data[at] = value; }
    METHOD uint4 get16(int at) const { return *reinterpret_cast<const uint4 *>(data + at); }
    METHOD void set16(int at, uint4 value) const { *reinterpret_cast<uint4 *>(data + at) = value; }
};

#define SHARED(T, name, count)                                                                                         \
    __shared__ __align__(16) T name##_memory[count];                                                                  \
    const Shared<T> name = {name##_memory}

// Memory whose size the launch gives; `bytes` is a multiple of 16.
extern __shared__ uint4 launch_memory[];
template <class T> DEVICE Shared<T> launch_shared(int bytes) {
    return Shared<T>{reinterpret_cast<T *>(reinterpret_cast<u8 *>(launch_memory) + bytes)};
}

DEVICE uint4 load16(const void *from) { return *reinterpret_cast<const uint4 *>(from); }
DEVICE void store16(void *to, uint4 value) { *reinterpret_cast<uint4 *>(to) = value; }

// Rounds to the nearest bf16, ties to even; a NaN becomes 0x7fff.
DEVICE u16 bf16_bits(float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
// Two of them in a word.
DEVICE u32 bf16_pair(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// 2 to the power of x, relative error about 2e-7 (2 ulp), subnormals flushed.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The 19-bit float that tensor cores multiply, nearest to x.
DEVICE float to_tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return __uint_as_float(y);
}

// d[16,8] += a[16,16] b[16,8] over a warp, bf16 with float sums. Which elements a lane holds: PTX ISA, mma.m16n8k16.
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d[16,8] += a[16,8] b[8,8] over a warp, tf32 with float sums: PTX ISA, mma.m16n8k8.
DEVICE void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
                   "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

DEVICE u32 shared_address(const u16 *pointer) {
    u64 address;
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(reinterpret_cast<u64>(pointer)));
    return static_cast<u32>(address);
}

// Four (two) 8x8 matrices of 16-bit elements: lane l names the first element of row l % 8 of matrix l / 8 and gets elements
// [lane / 4][2 (lane % 4)] and the next of each; transposed: [2 (lane % 4)][lane / 4] and the one below. With two matrices the addresses
// of lanes 16 to 31 don't matter. PTX ISA, ldmatrix.
DEVICE void load_matrices(u32 (&r)[4], Shared<u16> tile, int at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(tile.data + at))
                 : "memory");
}
DEVICE void load_matrices(u32 (&r)[2], Shared<u16> tile, int at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(tile.data + at))
                 : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[2], Shared<u16> tile, int at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(tile.data + at))
                 : "memory");
}
