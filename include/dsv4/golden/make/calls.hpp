// SPDX-License-Identifier: MIT
#pragma once
/// The calls of a recording, and how to run them: a manifest's list of calls and its ids are all that a
/// second run (another executor, grafts, a mutated model) needs to produce the same values again.
#include <functional>

#include "../../model/transformer.hpp"
#include "../bundle/manifest.hpp"

namespace dsv4::golden {

/// Tokens of a batch of sequences, and how they are split into calls.
struct run_plan {
  std::vector<std::vector<std::int32_t>> ids;  ///< per sequence
  index_t decode = 0;                          ///< single-token calls at the end of every sequence
  std::vector<index_t> chunks;  ///< lengths of the calls before them, the last repeats; empty: one prefill
  bool mtp = false;             ///< run the MTP module on every pair before the decode steps
};

/// One prefill (or chunks), MTP after each of these, then single tokens.
/// @throws contract_violation no sequence, or one without a token before its decode steps
inline std::vector<call_info> calls_of(const run_plan& plan) {
  expects(!plan.ids.empty(), "calls_of: no sequences");
  std::vector<call_info> calls;
  const auto length = [&](std::size_t s) { return static_cast<index_t>(plan.ids[s].size()); };
  const auto step = [&] { return static_cast<index_t>(calls.size()); };
  std::vector<index_t> at(plan.ids.size(), 0);
  for (std::size_t s = 0; s < plan.ids.size(); ++s)
    expects(length(s) > plan.decode, "calls_of: every sequence needs a token before its decode steps");
  for (std::size_t n = 0;; ++n) {
    call_info call{step(), n == 0 ? call_kind::prefill : call_kind::chunk, {}}, mtp{0, call_kind::mtp, {}};
    for (std::size_t s = 0; s < plan.ids.size(); ++s) {
      const index_t left = length(s) - plan.decode - at[s];
      const index_t t =
          plan.chunks.empty() ? left : std::min(left, plan.chunks[std::min(n, plan.chunks.size() - 1)]);
      if (t <= 0) continue;
      call.parts.push_back({static_cast<index_t>(s), at[s], at[s] + t});
      if (const index_t pairs = std::min(t, length(s) - 1 - at[s]); pairs > 0)
        mtp.parts.push_back({static_cast<index_t>(s), at[s], at[s] + pairs});
      at[s] += t;
    }
    if (call.parts.empty()) break;
    calls.push_back(std::move(call));
    if (!plan.mtp || mtp.parts.empty()) continue;
    mtp.step = step();
    calls.push_back(std::move(mtp));
  }
  for (index_t d = 0; d < plan.decode; ++d) {
    call_info call{step(), call_kind::decode, {}};
    for (std::size_t s = 0; s < plan.ids.size(); ++s)
      call.parts.push_back({static_cast<index_t>(s), at[s] + d, at[s] + d + 1});
    calls.push_back(std::move(call));
  }
  return calls;
}

/// Rows of the largest call: a transformer that runs it must not split it (tokens_per_pass).
inline index_t largest_call(std::span<const call_info> calls) {
  index_t most = 1;
  for (const call_info& c : calls) {
    index_t n = 0;
    for (const call_part& p : c.parts) n += p.to - p.from;
    most = std::max(most, n);
  }
  return most;
}

/// Numbers events by the sequences of the run: a call's batch has no place for sequences that have ended.
struct renumbered {
  static constexpr bool on = true;
  any_tap to;
  const call_info* call;
  void operator()(tap_event e) {
    e.sequence = call->parts[usize(e.sequence)].sequence;
    to(static_cast<const tap_event&>(e));
  }
};

/// Runs the calls from fresh sequences; `begin(call)` is called before each, `tap` sees every value.
/// @throws contract_violation calls that do not follow each other, ids outside the vocabulary
template <numerics_policy P, execution E>
void run_calls(const config& c, const model_weights<>& weights, std::span<const call_info> calls,
               const std::vector<std::vector<std::int32_t>>& ids, any_tap tap,
               std::function<void(const call_info&)> begin, E e = {}) {
  using model = transformer<P, E>;
  const index_t most = largest_call(calls);
  model m(c, weights, e, most);
  std::vector<typename model::sequence_type> sequences;
  const bool mtp = std::any_of(calls.begin(), calls.end(),
                               [](const call_info& call) { return call.kind == call_kind::mtp; });
  std::vector<tensor<act_t<P>, 3>> streams;  // [t, n, d] of each sequence, for MTP
  for (const auto& s : ids) {
    const auto n = static_cast<index_t>(s.size());
    sequences.push_back(m.new_sequence(n));
    streams.emplace_back(mtp ? n : 0, c.hc_mult, c.hidden_size);
  }
  tensor<wide_t<E>, 2> logits(most, c.vocab_size);
  tensor<act_t<P>, 3> out_streams(mtp ? most : 0, c.hc_mult, c.hidden_size);
  for (const call_info& call : calls) {
    std::vector<typename model::input> inputs;
    std::vector<typename model::mtp_input_rows> pairs;
    index_t rows = 0;
    for (const call_part& p : call.parts) {
      expects_in(p.sequence, 0, static_cast<index_t>(ids.size()), "run_calls: sequence");
      auto& s = sequences[usize(p.sequence)];
      const std::span<const std::int32_t> own(ids[usize(p.sequence)]);
      const bool pair = call.kind == call_kind::mtp;
      expects_equal(p.from, pair ? s.mtp_length() : s.length(),
                    "run_calls: calls must follow each other; position");
      expects_in(p.to + pair, p.from + pair, static_cast<index_t>(own.size()) + 1,
                 "run_calls: end of a call");
      const auto part = own.subspan(usize(p.from + pair), usize(p.to - p.from));
      if (pair)
        pairs.push_back({&s, part, streams[usize(p.sequence)].all().rows(p.from, p.to)});
      else
        inputs.push_back({&s, part});
      rows += p.to - p.from;
    }
    begin(call);
    renumbered own{tap, &call};
    const auto out = logits.all().rows(0, rows);
    if (call.kind == call_kind::mtp) {
      m.forward_mtp(pairs, out, own);
      continue;
    }
    typename model::output to{out, {}};
    if (mtp) to.streams = out_streams.all().rows(0, rows);
    m.forward(inputs, to, own);
    if (!mtp) continue;
    index_t row = 0;
    for (const call_part& p : call.parts)
      for (index_t i = p.from; i < p.to; ++i, ++row)
        std::copy_n(out_streams[row].data(), out_streams[row].size(), streams[usize(p.sequence)][i].data());
  }
}

}  // namespace dsv4::golden
