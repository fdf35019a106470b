// SPDX-License-Identifier: MIT
#pragma once
/// What a kernel may use besides plain CUDA C++.  Every function has two bodies: the PTX instruction, under nvcc, and what
/// the instruction means, under g++ and clang, where kernels run on the host machine (cuda/host).  A kernel includes this
/// header and nothing of CUDA's, and its text has no #if.
///
/// What differs from usual CUDA, so that the host can check it:
///   shared memory   one struct per kernel, shared_memory<S>(), never a __shared__ variable (which could be neither
///                   poisoned nor bounded)
///   flags           load_acquire, store_release, add_release, never a volatile load
///   launch          launch(stream, shape, kernel, arguments...), never <<< >>>
/// Kernels get their operands as views that have elements (cuda/arguments.hpp).
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

// DSV4_DEVICE    a function that kernels call
// DSV4_KERNEL    a kernel in a header that is no template
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define DSV4_DEVICE __device__ __forceinline__
#define DSV4_KERNEL static __global__
#define DSV4_CALLED_HERE
#else
#include "host/cuda_names.hpp"
#include "host/instructions.hpp"
#define DSV4_DEVICE inline
#define DSV4_KERNEL inline
#define DSV4_CALLED_HERE , ::dsv4::host_machine::where at = ::dsv4::host_machine::where::current()
#endif

#include <dsv4/core/error.hpp>
#include <dsv4/core/view.hpp>

namespace dsv4::gpu {

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned all_lanes = ~0u;

// ---- shared memory

/// The block's shared memory as one S.  It begins undefined (NaN bytes on the host).
template <class S>
DSV4_DEVICE S* shared_memory() {
  static_assert(std::is_trivially_destructible_v<S>);
#if defined(__CUDACC__)
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<S*>(dynamic_shared_memory);
#else
  return static_cast<S*>(host_machine::shared_memory(sizeof(S), "the kernel's struct"));
#endif
}

// ---- order between blocks

/// What was written before a store_release or add_release of the value seen is visible after this.
DSV4_DEVICE unsigned load_acquire(const unsigned* p DSV4_CALLED_HERE) {
#if defined(__CUDACC__)
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
#else
  return host_machine::load(p, std::memory_order_acquire, "load_acquire", at);
#endif
}
DSV4_DEVICE void store_release(unsigned* p, unsigned v) {
#if defined(__CUDACC__)
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#else
  host_machine::store(p, v, std::memory_order_release);
#endif
}
/// *p += v, returning the old value.
DSV4_DEVICE unsigned add_release(unsigned* p, unsigned v) {
#if defined(__CUDACC__)
  unsigned old;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
  return old;
#else
  return host_machine::add(p, v, std::memory_order_acq_rel);
#endif
}

// ---- asynchronous copies, global to shared

/// 16 bytes, both addresses multiples of 16.  They have arrived, for this thread, after a wait for their group; for the
/// others after a barrier on top.
DSV4_DEVICE void copy_async_16(void* to_shared, const void* from DSV4_CALLED_HERE) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
               "l"(from)
               : "memory");
#else
  host_machine::copy_async(to_shared, from, 16, at);
#endif
}
/// Closes the group of this thread's copies since the last one.
DSV4_DEVICE void copy_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  host_machine::copy_async_commit();
#endif
}
/// Waits until all but the latest `pending` groups have arrived.
template <int pending>
DSV4_DEVICE void copy_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
  host_machine::copy_async_wait(pending);
#endif
}

// ---- tensor cores

/// Four 8 x 8 matrices of 16-bit elements: lane 8 m + r gives the address of row r of matrix m, and gets of every matrix
/// the elements (lane / 4, 2 (lane % 4) + 0..1).
DSV4_DEVICE void load_matrix_x4(unsigned (&r)[4], const void* row_in_shared DSV4_CALLED_HERE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row_in_shared)))
               : "memory");
#else
  host_machine::load_matrices(r, row_in_shared, at);
#endif
}
/// Two of them; lanes 0 to 15 give addresses.
DSV4_DEVICE void load_matrix_x2(unsigned (&r)[2], const void* row_in_shared DSV4_CALLED_HERE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row_in_shared)))
               : "memory");
#else
  host_machine::load_matrices(r, row_in_shared, at);
#endif
}
/// D[16,8] += A[16,16] B[16,8], bf16 in, float out; where a lane's elements stand: host/instructions.hpp, multiply.
DSV4_DEVICE void multiply_bf16(float (&d)[4], const unsigned (&a)[4],
                               const unsigned (&b)[2] DSV4_CALLED_HERE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  host_machine::multiply<16>(d, a, b, host_machine::value_of_bf16, "multiply_bf16", at);
#endif
}
/// D[16,8] += A[16,32] B[32,8], e4m3 in, float out (sm_89 and later).
DSV4_DEVICE void multiply_e4m3(float (&d)[4], const unsigned (&a)[4],
                               const unsigned (&b)[2] DSV4_CALLED_HERE) {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();  // a kernel for sm_80 turns e4m3 into bf16 instead, which is exact
#endif
#else
  host_machine::multiply<32>(d, a, b, host_machine::value_of_e4m3, "multiply_e4m3", at);
#endif
}

// ---- launches

/// An order of launches and copies.  The host machine has one: everything is done when a launch returns.
struct stream {
#if defined(__CUDACC__)
  cudaStream_t handle = nullptr;
#endif
};
struct shape {
  dim3 grid, block;
  std::size_t shared = 0;    // bytes
  bool cooperative = false;  // all blocks run together and may wait for one another
};

#if defined(__CUDACC__)
/// @throws internal_error the message of CUDA
inline void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw internal_error(std::string(what) + ": " + cudaGetErrorString(e));
}
#endif

/// kernel(a...) on n.grid x n.block threads.  An empty grid is no launch.  @throws internal_error, on the host
/// host_machine::fault
template <class... P, class... A>
void launch(const stream& s, const shape& n, void (*kernel)(P...), A&&... a) {
  if (n.grid.x == 0 || n.grid.y == 0 || n.grid.z == 0) return;
#if defined(__CUDACC__)
  constexpr std::size_t without_asking = 48 << 10;
  if (n.shared > without_asking)
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n.shared)),
        "launch: shared memory");
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t c{n.grid, n.block, n.shared, s.handle, &cooperative, n.cooperative ? 1u : 0u};
  check(cudaLaunchKernelEx(&c, kernel, static_cast<P>(a)...), "launch");
#else
  (void)s;
  host_machine::the_machine().launch(kernel, n.grid, n.block, static_cast<unsigned>(n.shared), n.cooperative,
                                     static_cast<A&&>(a)...);
#endif
}

// ---- one thread for every item

inline constexpr unsigned threads_per_block = 128;

/// A grid with a thread for each of n items; threads past the end have nothing to do (item() >= n).
inline shape one_thread_each(index_t n, unsigned threads = threads_per_block) {
  return {static_cast<unsigned>((n + threads - 1) / threads), threads};
}
/// The number of the calling thread in such a grid.
DSV4_DEVICE index_t item() { return static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace dsv4::gpu
