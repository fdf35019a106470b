// SPDX-License-Identifier: MIT
#pragma once
/// The whole model, forward and backward: one step's losses and the gradient of every parameter.
/// @paper{DSV4, section 2 and 4.2}
/// axes     t token · n stream · d channel · e expert · k choice
/// oracle   golden/transformers/seed0/grads.safetensors; finite differences
/// deviates none
///
/// Memory: the streams at the beginning of every block are kept; what is inside a block is computed again on the way
/// back (`recompute`, to the same bits) or kept for all blocks.  Numerics: float32<T>; nothing is quantised here but, on
/// request, the indexer's queries and keys.  Quantisation-aware training passes weights that were quantised before
/// (quantise.hpp).
#include <map>
#include <memory>

#include "../core/config_macros.hpp"
#include "block.hpp"
#include "cross_entropy.hpp"
#include "mtp.hpp"

namespace dsv4::train {

/// Experts of every token: per layer, then per MTP block, [t, k].
using route_choice = std::vector<tensor<std::int32_t, 2>>;

/// What a step found.  Losses are means over their tokens (queries, sequences), in nats; balance and index_kl are means
/// over the layers that have them (the MTP block not counted), and 0 without gradients, where they are not computed.
struct report {
  double loss = 0, mtp_loss = 0, balance = 0, index_kl = 0;
  index_t tokens = 0, mtp_tokens = 0;      ///< tokens that had a target
  std::vector<std::vector<index_t>> load;  ///< [layer, then MTP block][expert] tokens
  route_choice routes;
};

template <class T, execution E>
class network {
 public:
  /// @throws unsupported more than one MTP block (no published model has them)
  explicit network(const config& c, bool recompute = true) : c_(c), recompute_(recompute) {
    if (c.num_nextn_predict_layers > 1)
      throw unsupported("training: " + std::to_string(c.num_nextn_predict_layers) +
                        " MTP blocks; the published models have one");
  }
  network(const network&) = delete;
  network& operator=(const network&) = delete;

  /// Losses of one batch; their gradients are ADDED to `gradients` (null: losses only).
  /// `forced`: these experts instead of the gates' choice, as an earlier report gave them.
  /// @throws contract_violation the batch, the tables or the routes do not fit the configuration
  report run(E& e, const model_parameters<const T>& w, const routing_tables& tables, const batch& b,
             const objective& want, const model_parameters<T>* gradients,
             const route_choice* forced = nullptr);

 private:
  index_t blocks() const { return c_.num_hidden_layers + c_.num_nextn_predict_layers; }
  bool is_hash(index_t l) const { return l < c_.num_hidden_layers && c_.is_hash_layer(l); }

  void check_routing(const routing_tables& tables, const batch& b, const route_choice* forced) const {
    expects_equal(static_cast<index_t>(tables.bias.size()), blocks(),
                  "network: routing tables against layers and MTP blocks");
    expects_equal(static_cast<index_t>(tables.table.size()), blocks(),
                  "network: hash tables against layers and MTP blocks");
    if (forced)
      expects_equal(static_cast<index_t>(forced->size()), blocks(),
                    "network: forced routes against layers and MTP blocks");
    for (index_t l = 0; l < blocks(); ++l) {
      const auto at = usize(l);
      const std::string layer = " of layer " + std::to_string(l);
      if (forced) fits((*forced)[at], b.tokens(), "network: forced routes" + layer);
      if (is_hash(l))
        fits(tables.table[at], c_.vocab_size, "network: hash table" + layer);
      else
        expects_equal(tables.bias[at].extent(0), c_.n_routed_experts, "network: selection bias" + layer);
    }
  }
  /// Routes have the shape [rows, k] and name experts that exist.
  void fits(const tensor<std::int32_t, 2>& routes, index_t rows, const std::string& what) const {
    expects_equal(routes.extent(0), rows, what + ": rows");
    expects_equal(routes.extent(1), c_.num_experts_per_tok, what + ": choices");
    const auto [smallest, largest] = std::minmax_element(routes.all().begin(), routes.all().end());
    expects_in(*smallest, 0, c_.n_routed_experts, what + ": expert");
    expects_in(*largest, 0, c_.n_routed_experts, what + ": expert");
  }

  void step(E& e, const model_parameters<const T>& w, const routing_tables& tables, const batch& b,
            const objective& want, const model_parameters<T>* g, const route_choice* forced, report& r) {
    workspace::scope here(scratch_);
    const index_t tokens = b.tokens(), n = c_.hc_mult, d = c_.hidden_size;
    const auto count = [&](auto target) {
      index_t some = 0;
      for (index_t t = 0; t < tokens; ++t) some += target(t) >= 0;
      return some;
    };
    const auto target = [&](index_t t) { return b.targets[usize(t)]; };
    r.tokens = count(target);
    prepare_contexts(b);

    // Forward: the streams at the beginning of each block, and after the last.
    std::vector<view<T, 3>> h(usize(c_.num_hidden_layers) + 1);  // [layer] [t, n, d]
    for (auto& streams : h) streams = scratch_.take<T>(tokens, n, d);
    embed_streams<E, T>(e, b.ids, w.embed, h[0]);
    std::vector<block_saved<T>> kept;
    for (index_t l = 0; l < c_.num_hidden_layers; ++l) {
      const auto forward = [&] {
        auto s = block_saved<T>::take(scratch_, context(l));
        block(e, scratch_, context(l), want, w.layers[usize(l)], rule(tables, forced, l), h[usize(l)], s,
              h[usize(l) + 1]);
        remember_routes(s.ffn.gate, r);
        return s;
      };
      if (recompute_ || !g) {
        workspace::scope block(scratch_);
        forward();
      } else {
        kept.push_back(forward());
      }
    }

    // Read-out: the loss, and dh of the last streams.
    auto dh = g ? zeros<T>(e, scratch_, tokens, n, d) : view<T, 3>{};  // [t, n, d]
    const double per_token = r.tokens ? 1.0 / double(r.tokens) : 0;
    {
      const readout_parameters<const T> from{w.hc_head, w.norm, w.head};
      readout_parameters<T> to;
      if (g) to = {g->hc_head, g->norm, g->head};
      r.loss = per_token *
               readout_loss(e, scratch_, c_, h.back(), from, target, T(per_token), dh, g ? &to : nullptr);
    }
    if (!w.mtp.empty()) multi_token(e, w, tables, b, want, g, forced, h.back(), dh, r);
    if (!g) return;

    // Backward, from the last block to the first.
    const block_scales scales = scales_of(b, want);
    index_t queries = 0, csa_layers = 0, learned_layers = 0;
    for (index_t i = 0; i < b.samples(); ++i) queries += index_queries(b.length(i));
    for (index_t l = c_.num_hidden_layers; l-- > 0;) {
      workspace::scope inner(scratch_);
      block_saved<T> s;
      const view<T, 3> before =
          h[usize(l) + 1];  // [t, n, d] the streams after this block have been used: their place is free
      if (recompute_) {
        s = block_saved<T>::take(scratch_, context(l));
        block(e, scratch_, context(l), want, w.layers[usize(l)], rule(tables, forced, l), h[usize(l)], s,
              before);
      } else {
        s = kept[usize(l)];
      }
      const bool learned = !c_.is_hash_layer(l);
      const block_losses found = block_backward(e, scratch_, context(l), want, scales, dh, w.layers[usize(l)],
                                                learned, h[usize(l)], s, before, g->layers[usize(l)]);
      r.balance += found.balance / double(b.samples());
      r.index_kl += queries ? found.index_kl / double(queries) : 0;
      learned_layers += learned;
      csa_layers += c_.kind(l) == attention_kind::csa;
      dh = before;
    }
    if (learned_layers) r.balance /= double(learned_layers);
    if (csa_layers) r.index_kl /= double(csa_layers);
    embed_backward<E, T>(e, b.ids, dh, g->embed);
  }

  /// The module that predicts the token after the next from the last streams and the next token.
  void multi_token(E& e, const model_parameters<const T>& w, const routing_tables& tables, const batch& b,
                   const objective& want, const model_parameters<T>* g, const route_choice* forced,
                   view<T, 3> h /*[t,n,d]*/, view<T, 3> dh /*[t,n,d]*/, report& r) {
    workspace::scope here(scratch_);
    const index_t tokens = b.tokens(), n = c_.hc_mult, d = c_.hidden_size, l = c_.num_hidden_layers;
    // Of token i: the next token, and as target the one after it.  The last token of a sample may know neither.
    std::vector<std::int32_t> next(usize(tokens), 0), after(usize(tokens), -1);
    for (index_t i = 0; i < b.samples(); ++i)
      for (index_t t = b.begin(i); t < b.end(i); ++t) {
        const auto at = usize(t);
        next[at] = t + 1 < b.end(i) ? b.ids[at + 1] : std::max(b.targets[at], 0);
        if (t + 1 < b.end(i)) after[at] = b.targets[at + 1];
      }
    for (const std::int32_t id : after) r.mtp_tokens += id >= 0;
    const double per_token = r.mtp_tokens ? 1.0 / double(r.mtp_tokens) : 0;

    const mtp_parameters<const T>& m = w.mtp[0];
    const auto s = mtp_saved<T>::take(scratch_, tokens, n, d);
    auto x = scratch_.take<T>(tokens, n, d), out = scratch_.take<T>(tokens, n, d);  // [t, n, d]
    mtp_input(e, scratch_, c_, std::span<const std::int32_t>(next), w.embed, m, h, s, x);
    auto inside = block_saved<T>::take(scratch_, context(l));
    block(e, scratch_, context(l), want, m.block, rule(tables, forced, l), x, inside, out);
    remember_routes(inside.ffn.gate, r);

    const bool learn = g && want.mtp_weight != 0;
    auto dout = learn ? zeros<T>(e, scratch_, tokens, n, d) : view<T, 3>{};  // [t, n, d]
    const readout_parameters<const T> from{m.hc_head, m.norm, w.head};
    readout_parameters<T> to;
    if (learn) to = {g->mtp[0].hc_head, g->mtp[0].norm, g->head};
    r.mtp_loss = per_token * readout_loss(
                                 e, scratch_, c_, out, from, [&](index_t t) { return after[usize(t)]; },
                                 T(per_token * want.mtp_weight), dout, learn ? &to : nullptr);
    if (!learn) return;
    auto dx = scratch_.take<T>(tokens, n, d);  // [t, n, d]
    block_backward(e, scratch_, context(l), want, scales_of(b, want), dout, m.block, true, x, inside, dx,
                   g->mtp[0].block);
    mtp_input_backward(e, scratch_, dx, std::span<const std::int32_t>(next), m, h, s, dh, g->embed,
                       g->mtp[0]);
  }

  block_scales scales_of(const batch& b, const objective& want) const {
    index_t queries = 0;
    for (index_t i = 0; i < b.samples(); ++i) queries += index_queries(b.length(i));
    return {queries ? want.index_weight / double(queries) : 0, want.balance_weight / double(b.samples())};
  }

  route_rule rule(const routing_tables& tables, const route_choice* forced, index_t l) const {
    const auto at = usize(l);
    route_rule rule;
    if (forced) rule.forced = (*forced)[at].all();
    if (is_hash(l))
      rule.table = tables.table[at].all();
    else
      rule.bias = tables.bias[at].all();
    return rule;
  }
  void remember_routes(const gate_saved<T>& s, report& r) const {
    r.load.push_back(expert_load(c_, s, 0, s.indices.extent(0)));
    tensor<std::int32_t, 2> chosen(s.indices.extent(0), s.indices.extent(1));
    std::copy(s.indices.begin(), s.indices.end(), chosen.data());
    r.routes.push_back(std::move(chosen));
  }

  /// One context per compression ratio; cos and sin are kept from step to step.
  void prepare_contexts(const batch& b) {
    index_t longest = 0;
    for (index_t i = 0; i < b.samples(); ++i) longest = std::max(longest, b.length(i));
    contexts_.clear();
    for (index_t l = 0; l < blocks(); ++l)
      if (const index_t ratio = c_.ratio(l); !contexts_.contains(ratio)) {
        rotary_table& rotary = rotary_[ratio];
        if (rotary.length() < longest) rotary = rotary_table(c_, ratio, longest);
        contexts_.emplace(ratio, std::make_unique<layer_context>(c_, b, ratio, rotary));
      }
  }
  const layer_context& context(index_t l) const { return *contexts_.at(c_.ratio(l)); }

  config c_;
  bool recompute_;
  workspace scratch_;
  std::map<index_t, rotary_table> rotary_;                      // by compression ratio
  std::map<index_t, std::unique_ptr<layer_context>> contexts_;  // the same
};

// Defined outside the class, so that a program that links dsv4::compiled does not compile the step again.
template <class T, execution E>
report network<T, E>::run(E& e, const model_parameters<const T>& w, const routing_tables& tables,
                          const batch& b, const objective& want, const model_parameters<T>* gradients,
                          const route_choice* forced) {
  b.check(c_);
  check_routing(tables, b, forced);
  report r;
  kernel::scope<E>::run(e, [&] { step(e, w, tables, b, want, gradients, forced, r); });
  return r;
}
DSV4_COMPILED_TEMPLATE(class network<float, exec::cpu>)
DSV4_COMPILED_TEMPLATE(class network<float, exec::ref>)
DSV4_COMPILED_TEMPLATE(class network<double, exec::cpu>)
DSV4_COMPILED_TEMPLATE(class network<double, exec::ref>)

}  // namespace dsv4::train
