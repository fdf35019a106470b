// SPDX-License-Identifier: MIT
#pragma once
/// Weights on their way to an executor: as they are where it works in host memory, a copy in its own memory otherwise.
#include <memory>
#include <type_traits>
#include <vector>

#include "weights.hpp"

namespace dsv4 {

/// The weights as an executor's kernels take them.  In host memory these are the caller's own, which must outlive
/// this; a copy elsewhere belongs to this object and to its copies.
template <execution E>
class prepared_weights {
 public:
  prepared_weights(E& e, const model_weights<>& w, [[maybe_unused]] const config& c) {
    if constexpr (host_execution<E>) {
      tree_ = &w;
    } else {
      const auto there = std::make_shared<uploaded>();
      there->tree = map_weights<storage_of<E>>(
          w, c, [&](const weight_info&, const auto& from, auto& to) { there->upload(e, from, to); });
      tree_ = &there->tree;
      owned_ = there;
    }
  }

  const model_weights<storage_of<E>>& tree() const { return *tree_; }

 private:
  using memory = mem_of<E>;

  /// A tree whose matrices lie in `bytes`.
  struct uploaded {
    model_weights<storage_of<E>> tree;
    std::vector<tensor<std::byte, 1, memory>> bytes;

    const std::byte* copy_of(E& e, const std::byte* data, index_t size) {
      if (!data) return nullptr;
      copy(e, view<const std::byte, 1>(data, size), bytes.emplace_back(size).all());
      return bytes.back().data();
    }
    void upload(E& e, const weight_matrix& from, basic_weight_matrix<memory>& to) {
      const index_t tiles = (from.rows + from.tile_rows - 1) / from.tile_rows * from.scale_cols();
      to = {from.type,       copy_of(e, from.data, from.rows * from.row_bytes()),
            from.rows,       from.cols,
            from.scale_type, copy_of(e, from.scale, tiles * bits_of(from.scale_type) / 8),
            from.tile_rows,  from.tile_cols};
    }
    void upload(E& e, const expert_table& from, basic_expert_table<memory>& to) {
      to = {from.type, copy_of(e, from.data, from.rows * from.k * bits_of(from.type) / 8), from.rows, from.k};
    }
    template <int R>
    void upload(E& e, const tensor<float, R>& from, tensor<float, R, memory>& to) {
      to = std::apply([](auto... n) { return tensor<float, R, memory>(n...); }, from.all().extents());
      copy(e, from.all(), to.all());
    }
  };

  const model_weights<storage_of<E>>* tree_ = nullptr;
  std::shared_ptr<const uploaded> owned_;
};

/// The weights of a model for `e`: identity in host memory, upload to any other.
template <execution E>
prepared_weights<E> prepare(E& e, const model_weights<>& w, const config& c) {
  return {e, w, c};
}

}  // namespace dsv4
