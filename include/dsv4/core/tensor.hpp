// SPDX-License-Identifier: MIT
#pragma once
/// Owners of memory: `tensor` (one array with a shape) and `workspace` (scratch that is taken and
/// given back in stack order, so that a decode step allocates nothing once the sizes are known).
/// Both live in a memory space; sizes are checked before memory is taken.
#include <memory>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "memory.hpp"

namespace dsv4 {

namespace detail {
struct aligned_delete {
  void operator()(void* p) const { memory_space<mem::host>::release(p, 0); }
};
template <class T>
using aligned_array = std::unique_ptr<T[], aligned_delete>;

/// Host memory, uninitialised, aligned.  @throws std::bad_alloc
template <class T>
aligned_array<T> allocate(std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (count > (~std::size_t{0} - alignment) / sizeof(T)) throw std::bad_alloc();
  return aligned_array<T>(static_cast<T*>(memory_space<mem::host>::allocate(count * sizeof(T))));
}

/// Bytes of a memory space, owned.
template <class Mem>
class bytes_of {
 public:
  bytes_of() = default;
  explicit bytes_of(std::size_t size) : data_(memory_space<Mem>::allocate(size)), size_(size) {}
  bytes_of(bytes_of&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  bytes_of& operator=(bytes_of o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~bytes_of() {
    if (data_) memory_space<Mem>::release(data_, size_);
  }
  void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};
}  // namespace detail

/// An owning array of rank R.  Its elements begin as zeros; copying it copies them.
/// @throws contract_violation for extents that are negative or whose bytes do not fit 64 bits; std::bad_alloc
template <class T, int R, class Mem = mem::host>
class tensor {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  tensor() = default;
  template <class... N>
    requires(sizeof...(N) == R && (std::is_convertible_v<N, index_t> && ...))
  explicit tensor(N... n)
      : n_{static_cast<index_t>(n)...},
        memory_(static_cast<std::size_t>(checked_size(n_, sizeof(T), "tensor")) * sizeof(T)) {
    memory_space<Mem>::zero(memory_.data(), memory_.size());
  }
  tensor(const tensor& o) : n_(o.n_) {
    if (!o.memory_.data()) return;
    memory_ = detail::bytes_of<Mem>(o.memory_.size());
    memory_space<Mem>::copy(memory_.data(), o.memory_.data(), memory_.size());
  }
  tensor(tensor&& o) noexcept : n_(std::exchange(o.n_, {})), memory_(std::move(o.memory_)) {}
  tensor& operator=(tensor o) noexcept {
    std::swap(n_, o.n_);
    std::swap(memory_, o.memory_);
    return *this;
  }

  operator view<T, R, Mem>() { return {data(), n_}; }
  operator view<const T, R, Mem>() const { return {data(), n_}; }
  view<T, R, Mem> all() { return *this; }
  view<const T, R, Mem> all() const { return *this; }
  decltype(auto) operator[](index_t i) { return all()[i]; }
  decltype(auto) operator[](index_t i) const { return all()[i]; }
  template <class... I>
  T& operator()(I... i) {
    return all()(i...);
  }
  template <class... I>
  const T& operator()(I... i) const {
    return all()(i...);
  }
  index_t extent(int axis) const { return n_[static_cast<std::size_t>(axis)]; }
  index_t size() const {
    index_t s = 1;
    for (index_t n : n_) s *= n;
    return s;
  }
  bool empty() const { return size() == 0; }
  T* data() { return static_cast<T*>(memory_.data()); }
  const T* data() const { return static_cast<const T*>(memory_.data()); }

 private:
  typename view<T, R>::shape n_{};
  detail::bytes_of<Mem> memory_;
};

/// The elements of `v` for the host: v itself where the executor works in host memory, else a copy of it in `room`,
/// which is made anew when its extents differ.
template <execution E, class T, int R>
view<const T, R> on_host(E& e, const view<const T, R, mem_of<E>>& v, [[maybe_unused]] tensor<T, R>& room) {
  if constexpr (host_execution<E>) {
    return v;
  } else {
    if (room.all().extents() != v.extents())
      room = std::apply([](auto... n) { return tensor<T, R>(n...); }, v.extents());
    copy(e, v, room.all());
    return room;
  }
}

/// Scratch memory for one call after another.  `take` hands out uninitialised views; a `scope`
/// gives back, when it ends, what was taken since it began.  Memory grows in blocks that are kept:
/// the second call of the same size allocates nothing.
template <class Mem>
class basic_workspace {
 public:
  class scope {
   public:
    explicit scope(basic_workspace& w) : w_(w), block_(w.block_), used_(w.used_) {}
    ~scope() {
      w_.block_ = block_;
      w_.used_ = used_;
    }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

   private:
    basic_workspace& w_;
    std::size_t block_, used_;
  };

  /// An uninitialised view of the given extents, alive until the enclosing scope ends.
  /// @throws contract_violation for extents that no memory has; std::bad_alloc
  template <class T, class... N>
  view<T, static_cast<int>(sizeof...(N)), Mem> take(N... n) {
    const std::array<index_t, sizeof...(N)> extents{static_cast<index_t>(n)...};
    const auto bytes = static_cast<std::size_t>(checked_size(extents, sizeof(T), "workspace")) * sizeof(T);
    return {static_cast<T*>(bytes_((bytes + alignment - 1) / alignment * alignment)), extents};
  }

 private:
  void* bytes_(std::size_t bytes) {
    // Next block that still has room; blocks double so that their number stays small.
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size()) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      const std::size_t last = blocks_.empty() ? std::size_t{1} << 16 : blocks_.back().size();
      blocks_.emplace_back(std::max(bytes, 2 * last));
      used_ = 0;
    }
    void* p = static_cast<std::byte*>(blocks_[block_].data()) + used_;
    used_ += bytes;
    return p;
  }

  std::vector<detail::bytes_of<Mem>> blocks_;
  std::size_t block_ = 0, used_ = 0;
};

/// The same as w.take<T>(n...), for templates.
template <class T, class Mem, class... N>
view<T, static_cast<int>(sizeof...(N)), Mem> take(basic_workspace<Mem>& w, N... n) {
  return w.template take<T>(n...);
}

/// Scratch of the host, and scratch in the memory of an executor.
using workspace = basic_workspace<mem::host>;
template <class E>
using scratch_of = basic_workspace<mem_of<E>>;

/// An uninitialised list of n descriptors (views, extents) in host scratch: what a launch is told about each sequence.
template <class T>
std::span<T> take_list(workspace& w, std::size_t n) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {w.take<T>(static_cast<index_t>(n)).data(), n};
}

}  // namespace dsv4
