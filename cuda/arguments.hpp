// SPDX-License-Identifier: MIT
#pragma once
/// Operands as kernels take them: the same descriptors, with views that have elements.  Inside a kernel device memory is
/// what memory is.
#include <dsv4/attn/indexer.hpp>
#include <dsv4/attn/sparse_attention.hpp>
#include <dsv4/moe/gate.hpp>

namespace dsv4::gpu {

template <class T, int R>
view<T, R> argument(const view<T, R, mem::device>& x) {
  return in_kernel(x);
}
template <class T, int R>
view<const T, R> argument(const tensor<T, R, mem::device>& x) {
  return in_kernel(x.all());
}
inline weight_matrix argument(const basic_weight_matrix<mem::device>& w) {
  return {w.type, w.data, w.rows, w.cols, w.scale_type, w.scale, w.tile_rows, w.tile_cols};
}
inline quantised_activations argument(const basic_quantised_activations<mem::device>& x) {
  return {argument(x.code), argument(x.scale)};
}
inline expert_table argument(const basic_expert_table<mem::device>& x) {
  return {x.type, x.data, x.rows, x.k};
}
template <class T>
ring_rows<T> argument(const ring_rows<T, mem::device>& x) {
  return {argument(x.ring), x.start, argument(x.fresh)};
}
template <class W>
compressor_rows<W> argument(const compressor_rows<W, mem::device>& x) {
  return {argument(x.kv), argument(x.score)};
}
template <class A>
attention_slots<A> argument(const attention_slots<A, mem::device>& x) {
  return {x.start, x.window, argument(x.recent), argument(x.entries), argument(x.chosen)};
}

}  // namespace dsv4::gpu
