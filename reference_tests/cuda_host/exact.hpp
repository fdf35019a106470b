// SPDX-License-Identifier: MIT
#pragma once
/// exec::cuda against exec::ref on the host machine: the same operands, the same bits, under every schedule.
#include <cstring>
#include <vector>

#include <dsv4/cuda.hpp>

#include "catch.hpp"
#include "operands.hpp"

namespace dsv4_test {

/// Rows that do not fill a block of threads, fill it but for one, pass it by one; and none.
inline constexpr index_t edge_rows[] = {0, 1, 31, 33};

/// A tensor as device memory: on the host machine it is.
template <class T, int R>
view<T, R, mem::device> on_device(tensor<T, R>& t) {
  return {t.data(), t.all().extents()};
}
template <class T, int R>
view<const T, R, mem::device> on_device(const tensor<T, R>& t) {
  return {t.data(), t.all().extents()};
}

/// A view of host memory likewise.
template <class T, int R>
view<T, R, mem::device> on_device(const view<T, R>& v) {
  return {v.data(), v.extents()};
}
inline basic_weight_matrix<mem::device> on_device(const weight_matrix& w) {
  return {w.type, w.data, w.rows, w.cols, w.scale_type, w.scale, w.tile_rows, w.tile_cols};
}

template <class T, int R>
bool same_bits(const tensor<T, R>& a, const tensor<T, R>& b) {
  return a.all().extents() == b.all().extents() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

/// f() under every schedule.
template <class F>
void under_schedules(F f) {
  for (const host_machine::schedule& s : host_machine::adversaries(1)) {
    host_machine::the_machine().how = s;
    INFO("schedule " << text(s));
    f();
  }
}

/// The bytes of a weight matrix at an address that is aligned to nothing, as those of a mapped file may be.
struct unaligned_weights {
  std::vector<std::byte> bytes;
  weight_matrix w;

  explicit unaligned_weights(const weight_matrix& from) : w(from) {
    const auto size = static_cast<std::size_t>(from.rows * from.row_bytes());
    bytes.resize(size + 1);
    std::memcpy(bytes.data() + 1, from.data, size);
    w.data = bytes.data() + 1;
  }
};

}  // namespace dsv4_test
