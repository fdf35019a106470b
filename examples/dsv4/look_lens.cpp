// SPDX-License-Identifier: MIT
#include "look_lens.hpp"

#include <dsv4/cpu/cpu.hpp>
#include <dsv4/mhc/head.hpp>

namespace cli {
namespace {

template <class A>
std::vector<double> logits_of(const dsv4::config& c, const dsv4::model_weights<>& w,
                              std::span<const float> streams, int threads) {
  using E = dsv4::exec::cpu;
  E e{};
  e.threads = threads;
  const index_t rows = static_cast<index_t>(streams.size()) / (c.hc_mult * c.hidden_size);
  dsv4::tensor<A, 3> h(rows, c.hc_mult, c.hidden_size);
  for (index_t i = 0; i < h.size(); ++i) h.data()[i] = dsv4::store<A>(streams[static_cast<std::size_t>(i)]);
  dsv4::tensor<double, 2> logits(rows, c.vocab_size);
  dsv4::scratch_of<E> scratch;
  dsv4::workspace host;
  dsv4::no_tap quiet;
  const dsv4::call_context<E, dsv4::no_tap> call{e, scratch, host, c, {e, quiet, {}, {}}};
  dsv4::head(call, h.all(), {&w.hc_head, w.norm, &w.head}, logits.all());
  return {logits.data(), logits.data() + logits.size()};
}

}  // namespace

std::vector<double> lens_logits(const dsv4::config& c, const dsv4::model_weights<>& w,
                                std::span<const float> streams, bool bf16, int threads) {
  return bf16 ? logits_of<dsv4::bf16>(c, w, streams, threads) : logits_of<float>(c, w, streams, threads);
}

}  // namespace cli
