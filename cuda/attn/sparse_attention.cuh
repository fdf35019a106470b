// SPDX-License-Identifier: MIT
#pragma once
/// attn/sparse_attention.hpp on a GPU: a block of threads for each head of each query.  A thread has a slot of the
/// softmax block while scores are made, and channels of the value while they are summed; all sums run in the order of the
/// specification.
#include <dsv4/attn/sparse_attention.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
inline constexpr unsigned attention_threads = static_cast<unsigned>(softmax_block);
/// Channels of a head that one thread can keep in registers: heads of up to 1024 channels (published: 512).
inline constexpr index_t channels_per_thread = 16;

template <class A>
struct attention_shared {
  double score[softmax_block];
  const A* row[softmax_block];  // null where the slot is empty
};

// einsum: h d, s d -> h s; softmax over s; h s, s d -> h d   (for each t)
template <class A>
__global__ void __launch_bounds__(attention_threads)
    sparse_attention(view<const A, 3> q /*[t,h,d]*/, attention_slots<A> slots,
                     view<const float, 1> sink /*[h]*/, double scale, view<A, 3> o /*[t,h,d]*/) {
  auto& s = *shared_memory<attention_shared<A>>();
  const index_t heads = q.extent(1), t = blockIdx.x / heads, h = blockIdx.x % heads;
  const index_t own = threadIdx.x, dims = q.extent(2), n = slots.slots();
  double m = -INFINITY, denominator = 0;  // running maximum and sum, the same in every thread
  double acc[channels_per_thread] = {};   // of channels own, own + attention_threads, ...
  for (index_t block = 0; block < n; block += softmax_block) {
    const index_t count = smaller(softmax_block, n - block);
    // Scores of the block's slots, a slot for each thread …
    if (own < count) {
      const A* const k = slots.row(t, block + own);
      s.row[own] = k;
      double dot = 0;
      for (index_t d = 0; k && d < dims; ++d) dot += widen<double>(q(t, h, d)) * widen<double>(k[d]);
      s.score[own] = dot * scale;
    }
    __syncthreads();
    // … and the new maximum, which every thread finds for itself.
    const double m_old = m;
    for (index_t i = 0; i < count; ++i)
      if (s.row[i]) m = larger(m, s.score[i]);
    if (m > -INFINITY) {
      // Earlier sums shrink by exp(m_old - m); then the block's own terms.
      const double shrink = std::exp(m_old - m);
      denominator *= shrink;
      for (double& a : acc) a *= shrink;
      for (index_t i = 0; i < count; ++i) {
        const A* const v = s.row[i];
        if (!v) continue;
        const double p = std::exp(s.score[i] - m);
        denominator += p;
        const double stored = rounded<A>(p);
        for (index_t c = 0; c * attention_threads + own < dims; ++c)
          acc[c] += stored * widen<double>(v[c * attention_threads + own]);
      }
    }
    __syncthreads();  // all have read the scores: the next block's may come
  }
  // The sink takes its share of the mass and gives nothing.
  denominator += std::exp(double(sink[h]) - m);
  for (index_t c = 0; c * attention_threads + own < dims; ++c)
    o(t, h, c * attention_threads + own) = store<A>(acc[c] / denominator);
}
}  // namespace gpu

namespace kernel {
template <>
struct sparse_attention<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 3, mem::device> q,
                  const attention_slots<A, mem::device>& slots, view<const float, 1, mem::device> sink,
                  double scale, view<A, 3, mem::device> o) {
    if (q.extent(2) > gpu::channels_per_thread * gpu::attention_threads)
      throw unsupported("sparse_attention: heads of " + std::to_string(q.extent(2)) +
                        " channels, exec::cuda takes " +
                        std::to_string(gpu::channels_per_thread * gpu::attention_threads));
    const auto blocks = static_cast<unsigned>(q.extent(0) * q.extent(1));
    gpu::launch(e.stream, {blocks, gpu::attention_threads, sizeof(gpu::attention_shared<A>)},
                gpu::sparse_attention<A>, gpu::argument(q), gpu::argument(slots), gpu::argument(sink), scale,
                gpu::argument(o));
  }
};

/// A launch for each sequence.
template <>
struct core_attention<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 3, mem::device> q, std::span<const segment> segments,
                  std::span<const attention_slots<A, mem::device>> slots,
                  view<const float, 1, mem::device> sink, double scale, view<A, 3, mem::device> o) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const segment& g = segments[i];
      sparse_attention<exec::cuda>::run(e, q.rows(g.begin, g.end), slots[i], sink, scale,
                                        o.rows(g.begin, g.end));
    }
  }
};
}  // namespace kernel

}  // namespace dsv4
