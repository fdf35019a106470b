// SPDX-License-Identifier: MIT
#pragma once
/// Preconditions of public functions, checked once at the front; inner kernels assume them.
/// A failed check says both values, not only the expression.
///
/// An object that one caller at a time may use can tell when there are two: it has a one_caller, and each of its
/// functions begins with a scope of it.  That costs two atomic writes a call.
#include <array>
#include <atomic>
#include <limits>
#include <string>
#include <string_view>

#include "error.hpp"
#include "view.hpp"

namespace dsv4 {

/// @throws contract_violation with `what` unless `ok`.
inline void expects(bool ok, std::string_view what) {
  if (!ok) [[unlikely]]
    throw contract_violation(std::string(what));
}

/// Two sizes that must agree.  @throws contract_violation "what: found A, expected B".
inline void expects_equal(index_t found, index_t expected, std::string_view what) {
  if (found != expected) [[unlikely]]
    throw contract_violation(std::string(what) + ": found " + std::to_string(found) + ", expected " +
                             std::to_string(expected));
}

/// A value that must lie in [low, high).  @throws contract_violation.
inline void expects_in(index_t value, index_t low, index_t high, std::string_view what) {
  if (value < low || value >= high) [[unlikely]]
    throw contract_violation(std::string(what) + ": found " + std::to_string(value) + ", expected " +
                             std::to_string(low) + " <= value < " + std::to_string(high));
}

// Arithmetic on sizes that a caller or a file has named: it is checked before memory is taken.

/// a + b.  @throws contract_violation if it does not fit 64 bits.
inline index_t checked_add(index_t a, index_t b, std::string_view what) {
  index_t sum;
  if (__builtin_add_overflow(a, b, &sum)) [[unlikely]]
    throw contract_violation(std::string(what) + ": " + std::to_string(a) + " + " + std::to_string(b) +
                             " does not fit 64 bits");
  return sum;
}

/// Number of elements of an array of these extents.
/// @throws contract_violation if an extent is negative or the bytes, with room for alignment, do not fit 64 bits.
template <std::size_t R>
index_t checked_size(const std::array<index_t, R>& extents, index_t element_bytes, std::string_view what) {
  constexpr index_t alignment_room = 4096;  // a page: more than any allocator rounds up by
  index_t size = 1, bytes = element_bytes;
  bool fits = true;
  for (const index_t n : extents)
    fits = fits && n >= 0 && !__builtin_mul_overflow(size, n, &size) &&
           !__builtin_mul_overflow(bytes, n, &bytes);
  if (fits && bytes <= std::numeric_limits<index_t>::max() - alignment_room) [[likely]]
    return size;
  std::string shape;
  for (const index_t n : extents) shape += (shape.empty() ? "[" : ", ") + std::to_string(n);
  throw contract_violation(std::string(what) + ": " + shape + "] elements of " +
                           std::to_string(element_bytes) + " bytes are no possible size");
}

/// Who is using an object now: one call, or none.  A copy of the object is another object, which nobody uses yet.
class one_caller {
 public:
  one_caller() = default;
  one_caller(const one_caller&) noexcept {}
  one_caller& operator=(const one_caller&) noexcept { return *this; }

  /// From here to its end the object is in use.  @throws contract_violation if it already is; the other call goes on.
  class scope {
   public:
    scope(one_caller& who, std::string_view what) : who_(who) {
      if (!who_.enter()) [[unlikely]]
        throw contract_violation(std::string(what) +
                                 ": called while another call has not ended, by a second thread or by an "
                                 "observer; each thread needs an object of its own");
    }
    ~scope() { who_.leave(); }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

   private:
    one_caller& who_;
  };

  // For those who begin to use several objects.  Relaxed: it must order nothing, or it would hide a missing lock from
  // ThreadSanitizer.
  /// @returns whether nobody used it; then the caller does, until leave()
  bool enter() noexcept { return !busy_.exchange(true, std::memory_order_relaxed); }
  void leave() noexcept { busy_.store(false, std::memory_order_relaxed); }

 private:
  std::atomic<bool> busy_{false};
};

}  // namespace dsv4
