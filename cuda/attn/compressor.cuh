// SPDX-License-Identifier: MIT
#pragma once
/// attn/compressor.hpp on a GPU: a thread for each channel of an entry that closes.
#include <dsv4/attn/compressor.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
DSV4_KERNEL void add_ape(view<const float, 2> ape /*[ratio,d]*/, index_t start,
                         view<double, 2> score /*[t,d]*/) {
  if (item() >= score.size()) return;
  const index_t t = item() / score.extent(1), d = item() % score.extent(1);
  score(t, d) += double(ape((start + t) % ape.extent(0), d));
}

template <class A>
__global__ void compressor_pool(compressor_rows<double> rows /*[p,c d]*/, index_t ratio, index_t from,
                                view<A, 2> pooled /*[i,d]*/) {
  if (item() >= pooled.size()) return;
  const index_t width = pooled.extent(1), i = item() / width, d = item() % width;
  const bool overlap = kind_of_ratio(ratio) == attention_kind::csa;
  const index_t own = (from + i) * ratio;  // position of the block's first token
  const index_t begin = overlap && own > 0 ? own - ratio : own;
  const auto slots = [&](auto f) {
    for (index_t p = begin; p < own + ratio; ++p) {
      // The low half of the channels looks ahead from the previous block, the high half is the block's own.
      const index_t channel = overlap && p >= own ? d + width : d;
      f(rows.score.row(p)[channel], rows.kv.row(p)[channel]);
    }
  };
  pooled(i, d) = store<A>(softmax_mean<double>(slots).mean);
}
}  // namespace gpu

namespace kernel {
template <>
struct add_ape<exec::cuda> {
  static void run(exec::cuda& e, view<const float, 2, mem::device> ape, index_t start,
                  view<double, 2, mem::device> score) {
    gpu::launch(e.stream, gpu::one_thread_each(score.size()), gpu::add_ape, gpu::argument(ape), start,
                gpu::argument(score));
  }
};
template <>
struct compressor_pool<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, const compressor_rows<double, mem::device>& rows, index_t ratio,
                  index_t from, view<A, 2, mem::device> pooled) {
    gpu::launch(e.stream, gpu::one_thread_each(pooled.size()), gpu::compressor_pool<A>, gpu::argument(rows),
                ratio, from, gpu::argument(pooled));
  }
};

// Batches: a launch for each sequence.
template <>
struct add_ape_of_batch<exec::cuda> {
  static void run(exec::cuda& e, view<const float, 2, mem::device> ape, std::span<const segment> segments,
                  view<double, 2, mem::device> score) {
    for (const segment& g : segments) add_ape<exec::cuda>::run(e, ape, g.start, score.rows(g.begin, g.end));
  }
};
template <>
struct pool_of_batch<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, std::span<const pool_part<double, mem::device>> parts, index_t ratio,
                  view<A, 2, mem::device> pooled) {
    for (const pool_part<double, mem::device>& p : parts)
      compressor_pool<exec::cuda>::run(e, p.rows, ratio, p.from, pooled.rows(p.begin, p.end));
  }
};
}  // namespace kernel

}  // namespace dsv4
