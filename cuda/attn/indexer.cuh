// SPDX-License-Identifier: MIT
#pragma once
/// attn/indexer.hpp on a GPU: a thread for each score, a block for each query's choice.
#include <dsv4/attn/indexer.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"
#include "../op/top_k.cuh"
#include "../reduce.hpp"

namespace dsv4 {

namespace gpu {
// einsum: t h d, s d -> t h s; relu; t h s, t h -> t s
template <class A>
__global__ void index_scores(view<const A, 3> q /*[t,h,d]*/, view<const A, 2> keys /*[s,d]*/,
                             view<const A, 2> weights /*[t,h]*/, view<A, 2> scores /*[t,s]*/) {
  if (item() >= scores.size()) return;
  const index_t t = item() / scores.extent(1), s = item() % scores.extent(1);
  double score = 0;
  for (index_t h = 0; h < q.extent(1); ++h) {
    double dot = 0;
    for (index_t d = 0; d < q.extent(2); ++d) dot += widen<double>(q(t, h, d)) * widen<double>(keys(s, d));
    const double relu = larger(rounded<A>(dot), 0.0);
    score += rounded<A>(relu * widen<double>(weights(t, h)));
  }
  scores(t, s) = store<A>(score);
}

// Visible entries compete; the others fill the end of the list as -1.
template <class A>
__global__ void __launch_bounds__(threads_of_sum)
    index_select(view<const A, 2> scores /*[t,s]*/, index_t start, index_t ratio,
                 view<std::int32_t, 2> chosen /*[t,k]*/) {
  const index_t t = blockIdx.x, k = chosen.extent(1);
  const index_t visible = smaller((start + t + 1) / ratio, scores.extent(1));
  choose_top_k(&scores(t, 0), visible, &chosen(t, 0), k);
  for (index_t j = visible + threadIdx.x; j < k; j += threads_of_sum) chosen(t, j) = -1;
}

// HCA: every closed entry in order.
DSV4_KERNEL void choose_all_visible(index_t start, index_t ratio, view<std::int32_t, 2> chosen /*[t,s]*/) {
  if (item() >= chosen.size()) return;
  const index_t t = item() / chosen.extent(1), s = item() % chosen.extent(1);
  chosen(t, s) = s < (start + t + 1) / ratio ? static_cast<std::int32_t>(s) : -1;
}
template <class A>
__global__ void scale_stored(view<A, 2> x, double factor) {
  if (item() < x.size()) x.data()[item()] = store<A>(widen<double>(x.data()[item()]) * factor);
}
}  // namespace gpu

namespace kernel {
template <>
struct index_scores<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 3, mem::device> q, view<const A, 2, mem::device> keys,
                  view<const A, 2, mem::device> weights, view<A, 2, mem::device> scores) {
    gpu::launch(e.stream, gpu::one_thread_each(scores.size()), gpu::index_scores<A>, gpu::argument(q),
                gpu::argument(keys), gpu::argument(weights), gpu::argument(scores));
  }
};
template <>
struct index_select<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> scores, index_t start, index_t ratio,
                  view<std::int32_t, 2, mem::device> chosen) {
    if (chosen.extent(1) == 0) return;
    gpu::launch(e.stream, gpu::one_block_each(scores.extent(0)), gpu::index_select<A>, gpu::argument(scores),
                start, ratio, gpu::argument(chosen));
  }
};
template <>
struct scale_stored<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<A, 2, mem::device> x, double factor) {
    gpu::launch(e.stream, gpu::one_thread_each(x.size()), gpu::scale_stored<A>, gpu::argument(x), factor);
  }
};

// Batches: a launch for each sequence.
template <>
struct index_scores_of_batch<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, const index_queries<A, mem::device>& queries,
                  std::span<const segment> segments, std::span<const index_part<A, mem::device>> parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const segment& g = segments[i];
      index_scores<exec::cuda>::run(
          e, view<const A, 3, mem::device>(queries.q.rows(g.begin, g.end)), parts[i].keys,
          view<const A, 2, mem::device>(queries.weights.rows(g.begin, g.end)), parts[i].scores);
    }
  }
};
template <>
struct index_select_of_batch<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, std::span<const segment> segments, index_t ratio,
                  std::span<const index_part<A, mem::device>> parts) {
    for (std::size_t i = 0; i < parts.size(); ++i)
      index_select<exec::cuda>::run(e, view<const A, 2, mem::device>(parts[i].scores), segments[i].start,
                                    ratio, parts[i].chosen);
  }
};
template <>
struct choose_all_visible<exec::cuda> {
  static void run(exec::cuda& e, std::span<const segment> segments, index_t ratio,
                  std::span<const view<std::int32_t, 2, mem::device>> chosen) {
    for (std::size_t i = 0; i < chosen.size(); ++i)
      gpu::launch(e.stream, gpu::one_thread_each(chosen[i].size()), gpu::choose_all_visible,
                  segments[i].start, ratio, gpu::argument(chosen[i]));
  }
};
}  // namespace kernel

}  // namespace dsv4
