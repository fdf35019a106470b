// SPDX-License-Identifier: MIT
#pragma once
/// Records a bundle: runs a model over a plan of calls and writes every value (`dsv4 golden make`).
///
/// Beside the tensors, inputs.safetensors gets the choices of the run, joined over its calls, so that
/// another engine can be forced to the same ones:
///   forced.S.SCOPE.ffn.gate.indices   [tokens, k]           experts
///   forced.S.SCOPE.attn.entries       [tokens, index_topk]  compressed entries in the indexer's order, -1 empty
#include "../bundle/sinks.hpp"
#include "calls.hpp"

namespace dsv4::golden {

/// The choices that a policy leaves open, as the manifest tells them.
inline nlohmann::json numerics_json(bool official_policy, std::string_view accumulate) {
  using nlohmann::json;
  json j{{"policy", official_policy ? "official" : "float32"},
         {"accumulate", accumulate},
         {"activations", official_policy ? "bf16" : "f32"},
         {"rounding", "nearest-even, once, at every narrow store"},
         {"gate", "unquantised input"},
         {"topk_tie", "lowest-index"},
         {"softmax_block", 64},
         {"fma", false}};
  if (official_policy) {
    j["act_quant"] = {
        {"format", "e4m3"}, {"block", 128}, {"scale", "power of two, ceil"}, {"amax_floor", 1e-4}};
    j["kv_quant"] = {{"format", "e4m3"}, {"block", 64}, {"rotary channels", "bf16"}};
    j["indexer"] = {{"hadamard", true}, {"format", "e2m1"}, {"block", 32}};
    j["p_cast"] = "bf16";
  } else {
    j["act_quant"] = nullptr, j["kv_quant"] = nullptr;
    j["indexer"] = {{"hadamard", false}};
  }
  return j;
}

/// The choices of a run by absolute position.
class choice_collector {
 public:
  static constexpr bool on = true;
  choice_collector(const config& c, std::vector<index_t> tokens) : c_(c), tokens_(std::move(tokens)) {}

  void operator()(const tap_event& e) {
    const bool gate = e.where == site::gate_indices;
    const index_t ratio = ratio_of(e.scope, c_);
    if (!gate && !(e.where == site::attn_topk_idxs && kind_of_ratio(ratio) == attention_kind::csa)) return;
    const index_t width = gate ? e.shape[1] : c_.index_topk, n = tokens_[usize(e.sequence)];
    const std::string name =
        "forced." + std::to_string(e.sequence) + "." + (gate ? e.name() : e.scope.prefix() + "attn.entries");
    std::vector<std::int32_t>& into = found_.try_emplace(name, usize(n * width), -1).first->second;
    widths_[name] = width;
    const auto v = e.values<std::int32_t>();
    const index_t window = c_.sliding_window, offset = e.start == 0 ? e.tokens : window;
    for (index_t t = 0; t < e.tokens; ++t)
      for (index_t i = gate ? 0 : window; i < e.shape[1]; ++i) {
        const std::int32_t x = v[usize(t * e.shape[1] + i)];
        const index_t column = gate ? i : i - window;
        if (column < width && x >= 0)
          into[usize((e.start + t) * width + column)] = gate ? x : static_cast<std::int32_t>(x - offset);
      }
  }
  void write(bundle_writer& to) const {
    for (const auto& [name, values] : found_) {
      const index_t width = widths_.at(name);
      to.input(name, dtype::i32, {static_cast<index_t>(values.size()) / width, width}, values.data());
    }
  }

 private:
  const config& c_;
  std::vector<index_t> tokens_;
  std::map<std::string, std::vector<std::int32_t>> found_;
  std::map<std::string, index_t> widths_;
};

/// Hash of every row that enters the vocabulary product, by (scope, sequence, position): the last stored
/// activation of a token, equal for runs whose stored values have equal bits.  (Logits are wide: exec::cpu
/// sums one token alone in another order than several, model/transformer.hpp.)
class stored_row_hashes {
 public:
  static constexpr bool on = true;
  void operator()(const tap_event& e) {
    if (e.where != site::head_norm) return;
    const auto bytes = usize(e.size() / e.tokens * bits_of(e.type) / 8);
    for (index_t t = 0; t < e.tokens; ++t)
      rows[{scope_name(e.scope), e.sequence, e.start + t}] =
          sha256_of(static_cast<const std::byte*>(e.data) + usize(t) * bytes, bytes);
  }
  std::map<std::tuple<std::string, index_t, index_t>, sha256_digest> rows;
};

/// Tokens that are run and taken back, as speculation does, must leave nothing behind.
struct rewind_plan {
  index_t accepted = 0;  ///< tokens of each call
  index_t rejected = 0;  ///< other tokens run after it, then taken back; 0: no such run
};

/// The run again, without MTP, with rejected tokens after every call.
template <numerics_policy P, execution E>
void run_with_rewinds(const config& c, const model_weights<>& weights,
                      const std::vector<std::vector<std::int32_t>>& ids, const rewind_plan& plan,
                      stored_row_hashes& rows, E e = {}) {
  expects(plan.accepted > 0 && plan.rejected > 0, "run_with_rewinds: positive numbers of tokens");
  const index_t most = std::max(plan.accepted, plan.rejected);
  transformer<P, E> m(c, weights, e, most);
  tensor<wide_t<E>, 2> logits(most, c.vocab_size);
  for (std::size_t s = 0; s < ids.size(); ++s) {
    const auto n = static_cast<index_t>(ids[s].size());
    const call_info own{0, call_kind::chunk, {{static_cast<index_t>(s), 0, n}}};
    renumbered tap{rows, &own};
    no_tap nobody;
    auto sequence = m.new_sequence(n + plan.rejected, plan.rejected);
    for (index_t at = 0; at < n;) {
      const index_t t = std::min(plan.accepted, n - at);
      m.forward(sequence, std::span(ids[s]).subspan(usize(at), usize(t)), logits.all().rows(0, t), tap);
      at += t;
      std::vector<std::int32_t> wrong;
      for (index_t i = 0; i < plan.rejected; ++i)
        wrong.push_back(static_cast<std::int32_t>((ids[s][usize((at + i) % n)] + 1) % c.vocab_size));
      m.forward(sequence, wrong, logits.all().rows(0, plan.rejected), nobody);
      sequence.rewind(at);
    }
  }
}

struct record_options {
  std::function<bool(const std::string&)> wanted;  ///< which names; empty: all
  std::vector<index_t> equal_chunks;  ///< a second run in these lengths must store the same bits; empty: none
  rewind_plan equal_rewind = {};      ///< and one with tokens taken back
  std::function<void(const call_info&, index_t)> progress = {};  ///< before each call, with their number
};

/// Runs the plan and writes its values; the caller has set about() (name, created_by, oracle, numerics,
/// model, weights) and calls finish().  @throws internal_error if a run in chunks gives other bits
template <numerics_policy P, execution E>
index_t record(const config& c, const model_weights<>& weights, const run_plan& plan, bundle_writer& to,
               const record_options& o = {}, E e = {}) {
  const std::vector<call_info> calls = calls_of(plan);
  to.ids(plan.ids);
  input_info& input = to.about().input;
  input.prefill = calls[0].parts[0].to;
  input.decode_steps = plan.decode;
  input.chunking = plan.chunks;
  input.mtp = plan.mtp;

  bundle_sink values(to, o.wanted);
  choice_collector choices(c, input.tokens);
  stored_row_hashes rows;
  fan_out all(values, choices, rows);
  const auto count = static_cast<index_t>(calls.size());
  run_calls<P>(
      c, weights, calls, plan.ids, all,
      [&](const call_info& call) {
        if (o.progress) o.progress(call, count);
        values.begin_call(call.kind, call.parts);
      },
      e);
  choices.write(to);

  // Unquantised values of exec::cpu are equal only to 1e-15 in other chunks: nothing to promise there.
  constexpr bool promised = P::quantised || !std::is_same_v<E, exec::cpu>;
  if (promised && !o.equal_chunks.empty()) {
    run_plan other = plan;
    other.chunks = o.equal_chunks;
    stored_row_hashes again;
    run_calls<P>(c, weights, calls_of(other), plan.ids, again, [](const call_info&) {}, e);
    const bool equal = again.rows == rows.rows;
    to.about().equal_runs.push_back({"chunks", o.equal_chunks, equal});
    if (!equal)
      throw internal_error(
          "golden make: the same tokens in chunks give other stored values; a bug of this executor");
  }
  if (promised && o.equal_rewind.rejected > 0) {
    stored_row_hashes again;
    run_with_rewinds<P>(c, weights, plan.ids, o.equal_rewind, again, e);
    std::erase_if(rows.rows,
                  [](const auto& row) { return std::get<0>(row.first) != "head"; });  // that run has no MTP
    const bool equal = again.rows == rows.rows;
    to.about().equal_runs.push_back({"rewind", {o.equal_rewind.accepted, o.equal_rewind.rejected}, equal});
    if (!equal)
      throw internal_error(
          "golden make: tokens that were taken back leave something behind; a bug of this executor");
  }
  return values.recorded();
}

}  // namespace dsv4::golden
