// SPDX-License-Identifier: MIT
#pragma once
/// exec::cuda: the exact executor of a GPU.  Its results have the stored bits of exec::ref: sums are double, formed in
/// the order of the specification where the result stays wide, with one store; ties are decided as there.  Kernels are
/// plain: one thread for each value that is stored, or one block for each row that is summed or ranked.
///
/// What may differ from the host: exp, log1p, sin and cos of CUDA are within one or two units of the last place of a
/// double and need not be the host library's; a store to bf16 hides that but for one value in some billions.
#include <cstdlib>
#include <cstring>
#include <new>

#include <dsv4/core/memory.hpp>

#include "device.hpp"

namespace dsv4 {

namespace exec {
/// Launches go to `stream`, in order.
struct cuda {
  using memory = mem::device;
  using wide = double;
  gpu::stream stream;
};
}  // namespace exec

/// Device memory; on the host machine, memory of the host that begins as NaN bytes and is as long as asked for, so that
/// AddressSanitizer sees its end.
template <>
struct memory_space<mem::device> {
#if defined(__CUDACC__)
  static void* allocate(std::size_t bytes) {
    void* p = nullptr;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) throw std::bad_alloc();
    return p;
  }
  static void release(void* p, std::size_t) noexcept { cudaFree(p); }
  static void zero(void* p, std::size_t bytes) { gpu::check(cudaMemset(p, 0, bytes), "zero"); }
  static void copy(void* to, const void* from, std::size_t bytes) {
    gpu::check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice), "copy");
  }
#else
  static constexpr std::size_t alignment = 256;  // of cudaMalloc
  static void* allocate(std::size_t bytes) {
    void* const p = std::aligned_alloc(alignment, bytes ? bytes : 1);
    if (!p) throw std::bad_alloc();
    std::memset(p, 0xFF, bytes);
    return p;
  }
  static void release(void* p, std::size_t) noexcept { std::free(p); }
  static void zero(void* p, std::size_t bytes) { std::memset(p, 0, bytes); }
  static void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
#endif
};

namespace kernel {
template <>
struct scope<exec::cuda> {
  template <class F>
  static void run(exec::cuda&, F&& f) {
    f();
  }
};

/// In order with the launches; when it returns, elements in host memory are there.
template <>
struct copy<exec::cuda> {
  template <class T, int R, class From, class To>
  static void run([[maybe_unused]] exec::cuda& e, view<const T, R, From> from, view<T, R, To> to) {
    const auto bytes = static_cast<std::size_t>(from.size()) * sizeof(T);
    if (bytes == 0) return;
#if defined(__CUDACC__)
    gpu::check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDefault, e.stream.handle), "copy");
    if (host_memory<From> || host_memory<To>) gpu::check(cudaStreamSynchronize(e.stream.handle), "copy");
#else
    std::memcpy(to.data(), from.data(), bytes);
#endif
  }
};
}  // namespace kernel

}  // namespace dsv4
