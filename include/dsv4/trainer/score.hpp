// SPDX-License-Identifier: MIT
#pragma once
/// How well a finished model does on a text, through the inference engine: bits per byte, use of the experts, and how
/// often multi-token prediction says what the model itself says next.
/// axes     t position in a row · v vocabulary · n stream · d channel
/// oracle   one row in one call == forward() by hand (reference_tests/unit/train_quantise/score.cpp)
///
/// score_text reads the text in rows of `length` tokens, each a sequence of its own: begin-of-text token, then tokens of
/// the text; nothing is known of what stands before the row.  With `stride` < `length` rows overlap, and of a row only
/// the tokens that no earlier one has scored count: each has at least length - stride tokens before it.  stride = length - 1
/// are the rows of trainer/dataset.hpp.
#include <algorithm>
#include <functional>
#include <numbers>
#include <optional>
#include <span>
#include <vector>

#include "../gen/log_probability.hpp"
#include "../gen/speculative.hpp"
#include "../model/transformer.hpp"

namespace dsv4::trainer {

struct score_options {
  index_t length = 512;  ///< tokens that a row reads
  index_t stride = 0;    ///< new tokens of a row; 0: all
  std::optional<std::int32_t>
      begin;  ///< what every row begins with; without one a row's first token has no score
  std::function<void(index_t, index_t)> on_row;  ///< (tokens done, tokens in all)
};

/// Sums over the text.
struct text_score {
  double nats = 0;         ///< of the tokens that were scored
  index_t tokens = 0;      ///< so many
  double bits = 0;         ///< nats / ln 2
  index_t text_bytes = 0;  ///< that the scored tokens stand for
  double mtp_nats = 0;     ///< of MTP, for the token after the next
  index_t mtp_tokens = 0;
  index_t mtp_agrees = 0;                  ///< MTP's likeliest token is the model's own, one position later
  std::vector<std::vector<index_t>> load;  ///< [layer, then MTP block][expert] tokens routed

  double bits_per_byte() const { return text_bytes > 0 ? bits / static_cast<double>(text_bytes) : 0; }
  double mtp_agreement() const {
    return mtp_tokens > 0 ? static_cast<double>(mtp_agrees) / static_cast<double>(mtp_tokens) : 0;
  }
};

/// The busiest expert's tokens over the mean; 0 if nothing was routed.
inline double load_imbalance(std::span<const index_t> load) {
  index_t sum = 0, busiest = 0;
  for (const index_t n : load) sum += n, busiest = std::max(busiest, n);
  return sum > 0 ? static_cast<double>(busiest) * static_cast<double>(load.size()) / static_cast<double>(sum)
                 : 0;
}

namespace detail {

/// Counts the experts of positions from `first` on.
struct load_counter {
  static constexpr bool on = true;
  const config& c;
  std::vector<std::vector<index_t>>& load;
  index_t first = 0;

  void operator()(const tap_event& e) {
    if (e.where != site::gate_indices) return;
    const bool mtp = e.scope.where == tap_scope::part::mtp;
    std::vector<index_t>& one = load[usize(e.scope.number + (mtp ? c.num_hidden_layers : 0))];
    const index_t k = e.shape[1];
    const std::span<const std::int32_t> experts = e.values<std::int32_t>();
    for (index_t i = 0; i < e.size(); ++i)
      if (e.start + i / k >= first) ++one[usize(experts[usize(i)])];
  }
};

}  // namespace detail

/// bytes[id]: how much text a token stands for.
template <numerics_policy P, execution E>
text_score score_text(transformer<P, E>& model, std::span<const std::int32_t> ids,
                      std::span<const std::int32_t> bytes, const score_options& o) {
  using model_type = transformer<P, E>;
  using wide = wide_t<E>;
  const config& c = model.configuration();
  const index_t n = static_cast<index_t>(ids.size()), lead = o.begin ? 1 : 0,
                stride = o.stride > 0 ? o.stride : o.length;
  // contract
  expects(o.length >= 2 && stride <= o.length,
          "score_text: at least 2 tokens to a row, and a stride of at most its length");
  expects(static_cast<index_t>(bytes.size()) >= c.vocab_size, "score_text: bytes of every token id");

  text_score r;
  r.load.assign(usize(c.num_hidden_layers + c.num_nextn_predict_layers),
                std::vector<index_t>(usize(c.n_routed_experts)));
  tensor<wide, 2> logits(o.length, c.vocab_size), mtp_logits(model.has_mtp() ? o.length : 0, c.vocab_size);
  tensor<act_t<P>, 3> streams(model.has_mtp() ? o.length : 0, c.hc_mult, c.hidden_size);
  log_probabilities scores(0, c.vocab_size);
  const auto likeliest = [](view<const wide, 1> row) {
    return argmax(std::span<const wide>(row.begin(), row.end()));
  };

  for (index_t from = 0; from < n;) {
    // The row: tokens [first, end) of the text, of which [from, end) are new.
    const index_t end = std::min(n, from == 0 ? o.length : from + stride),
                  first = std::max(end - o.length, from == 0 ? 0 : from - (o.length - stride));
    std::vector<std::int32_t> row(ids.begin() + first, ids.begin() + end);
    if (o.begin) row.insert(row.begin(), *o.begin);
    const auto t = static_cast<index_t>(row.size()) - 1;  // its last token is only predicted
    // Position j predicts row[j + 1], token first + j + 1 - lead of the text; those before `fresh` have been scored.
    const index_t fresh = std::max<index_t>(0, from - first - 1 + lead);
    from = end;
    if (t == 0) continue;

    auto s = model.new_sequence(t);
    const std::span<const std::int32_t> inputs = std::span(row).first(usize(t));
    const typename model_type::input one{&s, inputs};
    detail::load_counter count{c, r.load, fresh};
    const auto read = streams.all().rows(0, model.has_mtp() ? t : 0);
    model.forward(std::span(&one, 1), {logits.all().rows(0, t), {}, read}, count);
    for (index_t j = fresh; j < t; ++j) {
      const std::int32_t target = row[usize(j) + 1];
      scores.read(view<const wide, 1>(logits[j]));
      r.nats -= scores[target];
      r.text_bytes += bytes[usize(target)];
      ++r.tokens;
    }
    if (model.has_mtp() && t > 1) {
      // Pair j, streams of position j and token j + 1, predicts token j + 2, as the model does at position j + 1.
      const typename model_type::mtp_input_rows pairs{&s, inputs.subspan(1), read.rows(0, t - 1)};
      model.forward_mtp(std::span(&pairs, 1), {mtp_logits.all().rows(0, t - 1), {}}, count);
      for (index_t j = std::max<index_t>(0, fresh - 1); j < t - 1; ++j) {
        scores.read(view<const wide, 1>(mtp_logits[j]));
        r.mtp_nats -= scores[row[usize(j) + 2]];
        r.mtp_agrees += likeliest(mtp_logits[j]) == likeliest(logits[j + 1]);
        ++r.mtp_tokens;
      }
    }
    if (o.on_row) o.on_row(end, n);
  }
  r.bits = r.nats / std::numbers::ln2;
  return r;
}

/// Greedy drafts of MTP at depth 1, judged by the model while it continues prompts greedily.
struct draft_score {
  index_t prompts = 0, proposed = 0, accepted = 0;
  double acceptance() const {
    return proposed > 0 ? static_cast<double>(accepted) / static_cast<double>(proposed) : 0;
  }
};

struct draft_options {
  index_t prompts = 16, prompt_tokens = 64, max_new = 64;
  std::optional<std::int32_t> begin;             ///< what every prompt begins with
  std::vector<std::int32_t> stop_ids;            ///< end a continuation
  std::function<void(index_t, index_t)> on_row;  ///< (prompts done, prompts in all)
};

/// Prompts are taken from `ids` at even distances.  @throws unsupported a model without MTP
template <numerics_policy P, execution E>
draft_score score_drafts(transformer<P, E>& model, std::span<const std::int32_t> ids,
                         const draft_options& o) {
  // contract
  const auto n = static_cast<index_t>(ids.size());
  expects(o.prompts > 0 && o.prompt_tokens > 0 && o.max_new > 1,
          "score_drafts: prompts of at least one token, continued by at least two");
  expects(o.prompt_tokens <= n, "score_drafts: a prompt of " + std::to_string(o.prompt_tokens) +
                                    " tokens from a text of " + std::to_string(n));

  draft_score r;
  constexpr index_t depth = 1;
  for (index_t p = 0; p < o.prompts; ++p) {
    const index_t at = p * (n - o.prompt_tokens) / o.prompts;
    std::vector<std::int32_t> prompt(ids.begin() + at, ids.begin() + at + o.prompt_tokens);
    if (o.begin) prompt.insert(prompt.begin(), *o.begin);
    const index_t longest = static_cast<index_t>(prompt.size()) + o.max_new;
    auto s = model.new_sequence(longest, depth);
    sampler greedy({}, model.configuration().vocab_size, longest);
    mtp_drafter<P, E> drafter(model, depth, depth);
    generate_options g;
    g.max_new = o.max_new;
    g.stop_ids = o.stop_ids;
    const speculative_generation generated =
        generate_speculative(model, s, std::span<const std::int32_t>(prompt), g, greedy, drafter, depth,
                             [](std::int32_t) { return true; });
    ++r.prompts;
    r.proposed += generated.drafts.proposed[0];
    r.accepted += generated.drafts.accepted[0];
    if (o.on_row) o.on_row(p + 1, o.prompts);
  }
  return r;
}

}  // namespace dsv4::trainer
