// SPDX-License-Identifier: MIT
#pragma once
/// moe/gate.hpp on a GPU: a thread for each affinity, a block for each token's choice, a thread for its weights.
#include <dsv4/moe/gate.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"
#include "../op/top_k.cuh"
#include "../reduce.hpp"

namespace dsv4 {

namespace gpu {
DSV4_KERNEL void gate_scores(view<double, 2> scores /*[t,e]*/, view<const float, 1> bias /*[e] or empty*/,
                             view<double, 2> biased /*[t,e]*/) {
  if (item() >= scores.size()) return;
  const index_t t = item() / scores.extent(1), e = item() % scores.extent(1);
  scores(t, e) = gate_affinity(scores(t, e));
  biased(t, e) = scores(t, e) + (bias.extent(0) ? double(bias[e]) : 0.0);
}

// Learned layers: the k largest biased affinities.
DSV4_KERNEL void choose_by_score(view<const double, 2> biased /*[t,e]*/,
                                 view<std::int32_t, 2> indices /*[t,k]*/) {
  const index_t t = blockIdx.x;
  choose_top_k(&biased(t, 0), biased.extent(1), &indices(t, 0), indices.extent(1));
}
// Hash layers: the row of the token in a table.
DSV4_KERNEL void choose_by_table(expert_table table /*[vocab,k]*/, view<const std::int32_t, 1> ids /*[t]*/,
                                 view<std::int32_t, 2> indices /*[t,k]*/) {
  if (item() >= indices.size()) return;
  const index_t t = item() / indices.extent(1), j = item() % indices.extent(1);
  indices(t, j) = static_cast<std::int32_t>(table.at(ids[t], j));
}

DSV4_KERNEL void route_weights(view<const double, 2> scores /*[t,e]*/,
                               view<const std::int32_t, 2> indices /*[t,k]*/, double factor,
                               view<double, 2> weights /*[t,k]*/) {
  const index_t t = item();
  if (t >= indices.extent(0)) return;
  double sum = 0;
  for (index_t j = 0; j < indices.extent(1); ++j) sum += scores(t, indices(t, j));
  for (index_t j = 0; j < indices.extent(1); ++j)
    weights(t, j) = gate_weight(scores(t, indices(t, j)), sum, factor);
}

}  // namespace gpu

namespace kernel {
template <>
struct gate_scores<exec::cuda> {
  static void run(exec::cuda& e, view<double, 2, mem::device> scores, view<const float, 1, mem::device> bias,
                  view<double, 2, mem::device> biased) {
    gpu::launch(e.stream, gpu::one_thread_each(scores.size()), gpu::gate_scores, gpu::argument(scores),
                gpu::argument(bias), gpu::argument(biased));
  }
};
template <>
struct choose_experts<exec::cuda> {
  static void run(exec::cuda& e, basic_workspace<mem::device>&, view<const double, 2, mem::device> biased,
                  const basic_expert_table<mem::device>& table, view<const std::int32_t, 1, mem::device> ids,
                  view<std::int32_t, 2, mem::device> indices) {
    if (table.present())
      gpu::launch(e.stream, gpu::one_thread_each(indices.size()), gpu::choose_by_table, gpu::argument(table),
                  gpu::argument(ids), gpu::argument(indices));
    else
      gpu::launch(e.stream, gpu::one_block_each(indices.extent(0)), gpu::choose_by_score,
                  gpu::argument(biased), gpu::argument(indices));
  }
};
template <>
struct route_weights<exec::cuda> {
  static void run(exec::cuda& e, view<const double, 2, mem::device> scores, double factor,
                  const routing<double, mem::device>& route) {
    gpu::launch(e.stream, gpu::one_thread_each(route.indices.extent(0)), gpu::route_weights,
                gpu::argument(scores), gpu::argument(route.indices), factor, gpu::argument(route.weights));
  }
};
/// On the host: it is asked for only where an observer is, which has copied more.
template <>
struct check_experts<exec::cuda> {
  static void run(exec::cuda& e, view<const std::int32_t, 2, mem::device> indices, index_t experts) {
    tensor<std::int32_t, 2> here(indices.extent(0), indices.extent(1));
    dsv4::copy(e, indices, here.all());
    exec::ref host;
    check_experts<exec::ref>::run(host, here.all(), experts);
  }
};
}  // namespace kernel

}  // namespace dsv4
