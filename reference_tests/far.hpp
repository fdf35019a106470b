// SPDX-License-Identifier: MIT
#pragma once
/// exec::far: an executor whose memory the host cannot touch.  Its space is mem::device: the pages that its tensors
/// and views point to are protected, always.  Its kernels, and nobody else, reach the same pages through a second
/// mapping, and there they are the kernels of exec::ref.  A model that runs on it shows that the library needs nothing
/// of an executor's memory but the executor's own kernels and copy().
#include <sys/mman.h>
#include <unistd.h>

#include <concepts>
#include <map>
#include <new>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "dsv4/gen/state_identity.hpp"
#include "dsv4/model/kernels.hpp"

namespace dsv4 {

namespace exec {
struct far {
  using memory = mem::device;
  using wide = double;
};
}  // namespace exec

template <>
inline constexpr const char* executor_name<exec::far> = "far";

/// The pages: one file without a name, mapped twice.  Memory is taken from its beginning; what is given back is handed
/// out again by size.
class far_pages {
 public:
  static far_pages& all() {
    static far_pages pages;
    return pages;
  }
  void* allocate(std::size_t bytes) {
    const std::size_t size = whole(bytes);
    if (auto& free = free_[size]; !free.empty()) {
      void* p = free.back();
      free.pop_back();
      return p;
    }
    if (size > reserved - used_) throw std::bad_alloc();
    used_ += size;
    return protected_ + used_ - size;
  }
  void release(void* p, std::size_t bytes) noexcept { free_[whole(bytes)].push_back(p); }

  /// Where a kernel finds what the rest of the program knows by the protected address p.
  template <class T>
  T* reach(T* p) const {
    if (!p) return nullptr;
    const auto at = reinterpret_cast<const std::byte*>(p) - protected_;
    if (at < 0 || static_cast<std::size_t>(at) > used_)
      throw std::logic_error("far: not an address of this space");
    return reinterpret_cast<T*>(const_cast<std::byte*>(open_ + at));
  }

 private:
  static constexpr std::size_t page = 4096, reserved = std::size_t{1} << 32;

  static std::size_t whole(std::size_t bytes) { return std::max((bytes + page - 1) / page * page, page); }

  far_pages() {
    const int file = memfd_create("far", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, static_cast<off_t>(reserved)) != 0)
      throw std::runtime_error("far: memfd_create failed");
    const auto map = [&](int how) {
      void* p = mmap(nullptr, reserved, how, MAP_SHARED | MAP_NORESERVE, file, 0);
      if (p == MAP_FAILED) throw std::runtime_error("far: mmap failed");
      return static_cast<std::byte*>(p);
    };
    protected_ = map(PROT_NONE);
    open_ = map(PROT_READ | PROT_WRITE);
    close(file);
  }

  std::byte *protected_, *open_;
  std::size_t used_ = 0;
  std::map<std::size_t, std::vector<void*>> free_;
};

template <>
struct memory_space<mem::device> {
  static void* allocate(std::size_t bytes) { return far_pages::all().allocate(bytes); }
  static void release(void* p, std::size_t bytes) noexcept { far_pages::all().release(p, bytes); }
  static void zero(void* p, std::size_t bytes) {
    std::memset(far_pages::all().reach(static_cast<std::byte*>(p)), 0, bytes);
  }
  static void copy(void* to, const void* from, std::size_t bytes) {
    const far_pages& pages = far_pages::all();
    std::memcpy(pages.reach(static_cast<std::byte*>(to)), pages.reach(static_cast<const std::byte*>(from)),
                bytes);
  }
};

/// near(x): an argument of a kernel with its views of device memory as views that the host reads.  Lists of
/// descriptors become lists of such.
namespace far_arguments {

using device = mem::device;

template <class T>
const T& near(const T& x) {
  return x;
}
template <class T, int R>
view<T, R> near(const view<T, R, device>& x) {
  return {far_pages::all().reach(x.data()), x.extents()};
}
template <class T, int R>
view<const T, R> near(const tensor<T, R, device>& x) {
  return near(x.all());
}
inline rotary_angles near(const basic_rotary_angles<device>& x) { return {near(x.cos), near(x.sin)}; }
inline quantised_activations near(const basic_quantised_activations<device>& x) {
  return {near(x.code), near(x.scale)};
}
inline weight_matrix near(const basic_weight_matrix<device>& x) {
  const far_pages& pages = far_pages::all();
  return {x.type,       pages.reach(x.data),  x.rows,      x.cols,
          x.scale_type, pages.reach(x.scale), x.tile_rows, x.tile_cols};
}
inline expert_table near(const basic_expert_table<device>& x) {
  return {x.type, far_pages::all().reach(x.data), x.rows, x.k};
}
inline expert_weights<> near(const expert_weights<storage::in_memory<device>>& x) {
  return {near(x.w1), near(x.w3), near(x.w2)};
}
template <class T>
ring_rows<T> near(const ring_rows<T, device>& x) {
  return {near(x.ring), x.start, near(x.fresh)};
}
template <class T>
ring_append<T> near(const ring_append<T, device>& x) {
  return {x.begin, x.end, x.start, near(x.ring)};
}
template <class A>
attention_slots<A> near(const attention_slots<A, device>& x) {
  return {x.start, x.window, near(x.recent), near(x.entries), near(x.chosen)};
}
template <class A>
index_queries<A> near(const index_queries<A, device>& x) {
  return {near(x.q), near(x.weights)};
}
template <class A>
index_part<A> near(const index_part<A, device>& x) {
  return {near(x.keys), near(x.scores), near(x.chosen)};
}
template <class W>
pool_part<W> near(const pool_part<W, device>& x) {
  return {{near(x.rows.kv), near(x.rows.score)}, x.from, x.begin, x.end};
}
template <class W>
routing<W> near(const routing<W, device>& x) {
  return {near(x.indices), near(x.weights)};
}
template <class W>
hyper_mix<W> near(const hyper_mix<W, device>& x) {
  return {near(x.post), near(x.comb), near(x.pre)};
}
inline hyper_split<> near(const hyper_split<device>& x) {
  return {near(x.scale), near(x.base), x.iterations, x.eps};
}
template <class T>
auto near(const std::span<T>& list) {
  std::vector<std::remove_cvref_t<decltype(near(list.front()))>> all;
  for (const T& x : list) all.push_back(near(x));
  return all;
}
template <class T>
auto near(const std::vector<T>& list) {
  return near(std::span<const T>(list));
}

template <class T>
const T& argument(const T& x) {
  return x;
}
template <class T>
std::span<const T> argument(const std::vector<T>& x) {
  return x;
}

/// The kernel K of exec::ref, on the pages of far.
template <template <class> class K>
struct borrowed {
  template <class... Args>
  static void run(exec::far&, const Args&... args) {
    exec::ref ref;
    [&](const auto&... held) { K<exec::ref>::run(ref, argument(held)...); }(near(args)...);
  }
};

}  // namespace far_arguments

namespace kernel {

template <>
struct scope<exec::far> : scope<exec::ref> {
  template <class F>
  static void run(exec::far&, F&& f) {
    f();
  }
};
template <>
struct copy<exec::far> {
  template <class T, int R, class From, class To>
  static void run(exec::far&, view<const T, R, From> from, view<T, R, To> to) {
    std::copy_n(far_arguments::near(from).data(), from.size(), far_arguments::near(to).data());
  }
};
template <>
struct choose_experts<exec::far> {
  static void run(exec::far&, basic_workspace<mem::device>&, view<const double, 2, mem::device> biased,
                  const basic_expert_table<mem::device>& table, view<const std::int32_t, 1, mem::device> ids,
                  view<std::int32_t, 2, mem::device> indices) {
    using namespace far_arguments;
    exec::ref ref;
    workspace scratch;
    choose_experts<exec::ref>::run(ref, scratch, near(biased), near(table), near(ids), near(indices));
  }
};
template <>
struct experts<exec::far> {
  template <numerics_policy P>
  static void run(exec::far&, basic_workspace<mem::device>&, view<act_t<P>, 2, mem::device> x,
                  const routing<double, mem::device>& route,
                  const std::vector<expert_weights<storage::in_memory<mem::device>>>& all, double limit,
                  view<double, 2, mem::device> routed) {
    using namespace far_arguments;
    exec::ref ref;
    workspace scratch;
    experts<exec::ref>::run<P>(ref, scratch, near(x), near(route), near(all), limit, near(routed));
  }
};

#define DSV4_FAR_KERNEL(name)           \
  template <execution E>                \
    requires std::same_as<E, exec::far> \
  struct name<E> : far_arguments::borrowed<name> {};
DSV4_REFERENCE_KERNELS(DSV4_FAR_KERNEL)
DSV4_ROW_KERNELS(DSV4_FAR_KERNEL)
#undef DSV4_FAR_KERNEL

}  // namespace kernel
}  // namespace dsv4
