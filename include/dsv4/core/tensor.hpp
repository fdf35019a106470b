// SPDX-License-Identifier: MIT
#pragma once
/// Owners of memory: `tensor` (one array with a shape) and `workspace` (scratch that is taken and
/// given back in stack order, so that a decode step allocates nothing once the sizes are known).
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "view.hpp"

namespace dsv4 {

/// Rows start on a cache line: 64 bytes, the line of every CPU this library meets.
inline constexpr std::size_t alignment = 64;

namespace detail {
struct aligned_delete {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using aligned_array = std::unique_ptr<T[], aligned_delete>;

/// Uninitialised, aligned.  @throws std::bad_alloc
template <class T>
aligned_array<T> allocate(std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (count > (~std::size_t{0} - alignment) / sizeof(T)) throw std::bad_alloc();
  const std::size_t bytes = (count * sizeof(T) + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, bytes ? bytes : alignment);
  if (!p) throw std::bad_alloc();
  return aligned_array<T>(static_cast<T*>(p));
}
}  // namespace detail

/// An owning array of rank R, zero at birth, copied by value.
template <class T, int R>
class tensor {
 public:
  tensor() = default;
  template <class... N>
    requires(sizeof...(N) == R && (std::is_convertible_v<N, index_t> && ...))
  explicit tensor(N... n) : n_{static_cast<index_t>(n)...} {
    data_ = detail::allocate<T>(static_cast<std::size_t>(size()));
    std::fill_n(data_.get(), size(), T{});
  }
  tensor(const tensor& o) : n_(o.n_) {
    if (!o.data_) return;
    data_ = detail::allocate<T>(static_cast<std::size_t>(size()));
    std::copy_n(o.data_.get(), size(), data_.get());
  }
  tensor(tensor&& o) noexcept : n_(std::exchange(o.n_, {})), data_(std::move(o.data_)) {}
  tensor& operator=(tensor o) noexcept {
    std::swap(n_, o.n_);
    std::swap(data_, o.data_);
    return *this;
  }

  operator view<T, R>() { return {data_.get(), n_}; }
  operator view<const T, R>() const { return {data_.get(), n_}; }
  view<T, R> all() { return *this; }
  view<const T, R> all() const { return *this; }
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
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  std::array<index_t, R> n_{};
  detail::aligned_array<T> data_;
};

/// Scratch memory for one call after another.  `take` hands out uninitialised views; a `scope`
/// gives back, when it ends, what was taken since it began.  Memory grows in blocks that are kept:
/// the second call of the same size allocates nothing.
class workspace {
 public:
  class scope {
   public:
    explicit scope(workspace& w) : w_(w), block_(w.block_), used_(w.used_) {}
    ~scope() {
      w_.block_ = block_;
      w_.used_ = used_;
    }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

   private:
    workspace& w_;
    std::size_t block_, used_;
  };

  /// An uninitialised view of the given extents, alive until the enclosing scope ends.
  template <class T, class... N>
  view<T, static_cast<int>(sizeof...(N))> take(N... n) {
    view<T, static_cast<int>(sizeof...(N))> v(nullptr, n...);
    const auto bytes =
        (static_cast<std::size_t>(v.size()) * sizeof(T) + alignment - 1) / alignment * alignment;
    return {reinterpret_cast<T*>(bytes_(bytes)), v.extents()};
  }

 private:
  struct block {
    detail::aligned_array<std::byte> memory;
    std::size_t size;
  };

  std::byte* bytes_(std::size_t bytes) {
    // Next block that still has room; blocks double so that their number stays small.
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      const std::size_t last = blocks_.empty() ? std::size_t{1} << 16 : blocks_.back().size;
      const std::size_t size = std::max(bytes, 2 * last);
      blocks_.push_back({detail::allocate<std::byte>(size), size});
      used_ = 0;
    }
    std::byte* p = blocks_[block_].memory.get() + used_;
    used_ += bytes;
    return p;
  }

  std::vector<block> blocks_;
  std::size_t block_ = 0, used_ = 0;
};

}  // namespace dsv4
