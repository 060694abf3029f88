// The instructions behind tensor cores, in PTX: asynchronous copies, ldmatrix, mma.sync. From compute capability 8.0.
//
// C++ has no names for them. Which lane of a warp holds which number of a matrix is in the PTX manual, section
// "Warp-level matrix instructions", under mma.m16n8k16, mma.m16n8k8 (tf32) and ldmatrix.
#pragma once

#include "common.cuh"

namespace blackbelt {

#ifndef BLACKBELT_EMULATED  // the tests execute the kernels without a GPU, with the same functions in C++

__device__ inline unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];  // its size is given at the launch
  return memory;
}

__device__ inline unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }

// Copy 16 bytes from memory to shared memory, past the registers, while the thread goes on; zeros where not ``valid``.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

// The copies since the last call become a group …
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// … and this waits until at most PENDING groups of this thread are still on their way.
template <int PENDING>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

// Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8, and gets, of each matrix,
// the four bytes number l % 4 of row l / 4.
__device__ inline void load_matrices(unsigned (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same of the transposed matrices of 8 x 8 numbers of 16 bits.
__device__ inline void load_matrices_transposed(unsigned (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// float with the 10 bits of mantissa that tensor cores take, rounded to nearest (they would cut off).
__device__ inline unsigned to_tf32(unsigned bits) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// sums (16, 8) += a (16, depth) @ b (depth, 8), one instruction for the warp; depth 16, and 8 for tf32.
#define BLACKBELT_MMA(SHAPE, TYPES)                                                                              \
  asm volatile("mma.sync.aligned." SHAPE ".row.col." TYPES                                                       \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"                              \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <typename T>
__device__ inline void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
template <>
__device__ inline void multiply_add<float>(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  BLACKBELT_MMA("m16n8k8", "f32.tf32.tf32.f32");
}
template <>
__device__ inline void multiply_add<__half>(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  BLACKBELT_MMA("m16n8k16", "f32.f16.f16.f32");
}
template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  BLACKBELT_MMA("m16n8k16", "f32.bf16.bf16.f32");
}

#undef BLACKBELT_MMA
#endif

}  // namespace blackbelt
