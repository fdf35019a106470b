// SPDX-License-Identifier: MIT
#pragma once
/// Any operator of the model with one known mistake in it, from the remembered inputs of the right one:
///
///   operator_memory memory(config);
///   mistaken<official> wrong(config, weights, memory, ids);
///   at each event, before memory.remember(event):
///     if (auto v = wrong(mistake::weight_after_w2, event)) …   // what a port with this mistake would store
/// Nothing comes back where the mistake has no place, changes nothing by its nature, or an input is unknown.
/// Here: hyper connections and mixture of experts; mistaken_attention.hpp has the rest, mistaken_context.hpp what both need.
#include "../../op/embedding.hpp"
#include "mistaken_attention.hpp"

namespace dsv4::golden {

template <numerics_policy P>
class mistaken {
 public:
  using A = act_t<P>;
  mistaken(const config& c, const model_weights<>& w, const operator_memory& memory,
           const std::vector<std::vector<std::int32_t>>& ids)
      : x_{c, w, memory, &ids}, attention_(x_) {}

  maybe_values operator()(mistake m, const tap_event& e) {
    const bool head = e.scope.where == tap_scope::part::head || e.scope.where == tap_scope::part::mtp_head;
    if (head) return std::nullopt;
    const block_weights<>& w = x_.block(e.scope);
    switch (e.where) {
      case site::hc_attn_pre:
      case site::hc_attn_post:
      case site::hc_attn_comb:
        return split(m, e, w.hc_attn, site::hc_attn_mixes, e.where == site::hc_attn_pre,
                     e.where == site::hc_attn_post);
      case site::hc_ffn_pre:
      case site::hc_ffn_post:
      case site::hc_ffn_comb:
        return split(m, e, w.hc_ffn, site::hc_ffn_mixes, e.where == site::hc_ffn_pre,
                     e.where == site::hc_ffn_post);
      case site::mid: return written(m, e, site::attn_out, site::hc_attn_post, site::hc_attn_comb);
      case site::out: return written(m, e, site::ffn_out, site::hc_ffn_post, site::hc_ffn_comb);
      case site::gate_scores: return gate_scores(m, e, w.ffn.gate);
      case site::gate_biased:
        return m == mistake::bias_missing && w.ffn.gate.bias.extent(0) ? wide(e, site::gate_scores)
                                                                       : std::nullopt;
      case site::gate_indices: return gate_indices(m, e, w.ffn.gate);
      case site::gate_weights: return gate_weights(m, e);
      case site::ffn_routed: return routed(m, e, w.ffn);
      case site::ffn_shared: {
        auto x = x_.input(e, site::ffn_norm);
        if (x.empty() || !of_expert(m) || m == mistake::weight_after_w2) return std::nullopt;
        return x_.out(expert_output(m, x, w.ffn.shared, {}));
      }
      case site::ffn_out: {
        if (m != mistake::shared_missing) return std::nullopt;
        auto v = wide(e, site::ffn_routed);
        if (v)
          for (double& y : *v) y = rounded<A>(y);
        return v;
      }
      default: return attention_(m, e);
    }
  }

 private:
  maybe_values wide(const tap_event& e, site from) const {
    const value_rows* v = x_.memory.latest(from, e.sequence);
    if (!v || !v->has(e.start, e.start + e.tokens)) return std::nullopt;
    return v->v;
  }

  maybe_values split(mistake m, const tap_event& e, const hyper_connection_weights<>& w, site from, bool pre,
                     bool post) {
    const auto mixes = wide(e, from);
    if (!mixes) return std::nullopt;
    const config& c = x_.c;
    const index_t n = c.hc_mult, rows = e.tokens;
    const bool comb = !pre && !post;
    const bool mine = (pre && m == mistake::pre_without_eps) ||
                      (post && (m == mistake::post_with_eps || m == mistake::post_not_doubled)) ||
                      (comb && (m == mistake::sinkhorn_rows_first || m == mistake::sinkhorn_one_iteration ||
                                m == mistake::comb_transposed));
    if (!mine) return std::nullopt;
    tensor<double, 2> packed(rows, c.hc_mixes()), a(rows, n), b(rows, n);
    tensor<double, 3> k(rows, n, n);
    std::copy(mixes->begin(), mixes->end(), packed.data());
    kernel::hc_split<exec::ref>::run(
        x_.e, packed,
        {w.scale, w.base, m == mistake::sinkhorn_one_iteration ? 1 : c.hc_sinkhorn_iters, c.hc_eps},
        {b, k, a});
    if (pre) {
      for (index_t i = 0; i < a.size(); ++i) a.data()[i] -= c.hc_eps;
      return x_.out(a);
    }
    if (post) {
      for (index_t i = 0; i < b.size(); ++i)
        b.data()[i] = m == mistake::post_with_eps ? b.data()[i] + c.hc_eps : b.data()[i] / 2;
      return x_.out(b);
    }
    const auto transpose = [&] {
      for (index_t t = 0; t < rows; ++t)
        for (index_t i = 0; i < n; ++i)
          for (index_t j = 0; j < i; ++j) std::swap(k(t, i, j), k(t, j, i));
    };
    if (m == mistake::comb_transposed) transpose();
    if (m == mistake::sinkhorn_rows_first) {
      // Balancing the transposed logits begins with the other axis.
      for (index_t t = 0; t < rows; ++t)
        for (index_t i = 0; i < n; ++i)
          for (index_t j = 0; j < n; ++j) {
            const index_t at = 2 * n + n * i + j;
            k(t, j, i) = packed(t, at) * double(w.scale[2]) + double(w.base[at]);
          }
      for (index_t t = 0; t < rows; ++t) sinkhorn<double>(k.all()[t], c.hc_sinkhorn_iters, c.hc_eps);
      transpose();
    }
    return x_.out(k);
  }

  /// h' from the streams before; the mistake: comb transposed.
  maybe_values written(mistake m, const tap_event& e, site out, site post, site comb) {
    const index_t n = x_.c.hc_mult, d = x_.c.hidden_size, t = e.tokens;
    if (m != mistake::comb_transposed) return std::nullopt;
    auto y = x_.input(e, out);
    const auto p = wide(e, post), k = wide(e, comb);
    const auto h = streams_before(e);
    if (y.empty() || !p || !k || !h) return std::nullopt;
    hyper_mix<double> mix;
    tensor<double, 2> posts(t, n);
    tensor<double, 3> combs(t, n, n);
    std::copy(p->begin(), p->end(), posts.data());
    for (index_t i = 0; i < t; ++i)
      for (index_t a = 0; a < n; ++a)
        for (index_t b = 0; b < n; ++b) combs(i, a, b) = (*k)[usize((i * n + b) * n + a)];
    mix.post = posts, mix.comb = combs;
    tensor<A, 3> streams(t, n, d);
    for (index_t i = 0; i < streams.size(); ++i) streams.data()[i] = store<A>((*h)[usize(i)]);
    hc_post(x_.e, y.all(), mix, streams.all());
    return x_.out(streams);
  }
  maybe_values streams_before(const tap_event& e) {
    if (e.where == site::out) return wide(e, site::mid);
    const index_t n = x_.c.hc_mult, d = x_.c.hidden_size;
    if (e.scope.where != tap_scope::part::layer) return std::nullopt;
    if (e.scope.number > 0) {
      const value_rows* v = x_.memory.streams({tap_scope::part::layer, e.scope.number - 1}, e.sequence);
      if (!v || !v->has(e.start, e.start + e.tokens)) return std::nullopt;
      return v->v;
    }
    // Layer 0: the embeddings.
    const auto& ids = (*x_.ids)[usize(e.sequence)];
    tensor<A, 2> row(e.tokens, d);
    tensor<A, 3> h(e.tokens, n, d);
    embed(x_.e, {ids.data() + e.start, e.tokens}, x_.w.embed, row.all());
    copy_to_streams(x_.e, row.all(), h.all());
    return x_.out(h);
  }

  maybe_values gate_scores(mistake m, const tap_event& e, const gate_weights<>& w) {
    auto x = x_.input(e, site::ffn_norm);
    const bool mine = m == mistake::gate_bf16 || (P::quantised && m == mistake::gate_quantised) ||
                      m == mistake::gate_sigmoid;
    if (x.empty() || !mine) return std::nullopt;
    if (m == mistake::gate_quantised) act_quant_in_place(x_.e, x.all(), x.extent(1), fp8_tile);
    tensor<double, 2> s(e.tokens, w.weight.rows), biased(e.tokens, w.weight.rows);
    linear(x_.e, x.all(), w.weight, s.all());
    for (index_t i = 0; i < s.size(); ++i) {
      double& v = s.data()[i];
      if (m == mistake::gate_bf16) v = rounded<bf16>(v);
      if (m == mistake::gate_sigmoid) v = sigmoid(v);
    }
    if (m != mistake::gate_sigmoid) kernel::gate_scores<exec::ref>::run(x_.e, s.all(), {}, biased.all());
    return x_.out(s);
  }
  maybe_values gate_indices(mistake m, const tap_event& e, const gate_weights<>& w) {
    const index_t k = e.shape[1];
    std::vector<double> out(usize(e.size()));
    if (m == mistake::hash_of_previous_token && w.tid2eid.present()) {
      const auto& ids = (*x_.ids)[usize(e.sequence)];
      for (index_t t = 0; t < e.tokens; ++t) {
        const std::int32_t id = ids[usize(std::max<index_t>(0, e.start + t - 1))];
        for (index_t j = 0; j < k; ++j) out[usize(t * k + j)] = double(w.tid2eid.at(id, j));
      }
      return out;
    }
    const bool learned = m == mistake::hash_layer_learned && w.tid2eid.present();
    const bool unbiased = m == mistake::bias_missing && !w.tid2eid.present();
    if (!learned && !unbiased) return std::nullopt;
    const auto scores = wide(e, site::gate_scores);
    if (!scores) return std::nullopt;
    const index_t experts = x_.c.n_routed_experts;
    std::vector<std::int32_t> order(usize(experts)), chosen(usize(k));
    for (index_t t = 0; t < e.tokens; ++t) {
      top_k(std::span<const double>(scores->data() + t * experts, usize(experts)), std::span(order),
            std::span(chosen));
      for (index_t j = 0; j < k; ++j) out[usize(t * k + j)] = chosen[usize(j)];
    }
    return out;
  }
  maybe_values gate_weights(mistake m, const tap_event& e) {
    const bool biased = m == mistake::bias_in_weights;
    if (!biased && m != mistake::weights_not_normalised && m != mistake::route_scale_missing &&
        m != mistake::weights_uniform)
      return std::nullopt;
    const auto s = wide(e, biased ? site::gate_biased : site::gate_scores),
               chosen = wide(e, site::gate_indices);
    if (!s || !chosen) return std::nullopt;
    const index_t k = e.shape[1], experts = x_.c.n_routed_experts;
    std::vector<double> out(usize(e.size()));
    for (index_t t = 0; t < e.tokens; ++t) {
      const auto score = [&](index_t j) {
        return m == mistake::weights_uniform
                   ? 1.0
                   : (*s)[usize(t * experts + index_t((*chosen)[usize(t * k + j)]))];
      };
      double sum = 0;
      for (index_t j = 0; j < k; ++j) sum += score(j);
      if (m == mistake::weights_not_normalised) sum = 1;
      for (index_t j = 0; j < k; ++j)
        out[usize(t * k + j)] =
            score(j) / sum * (m == mistake::route_scale_missing ? 1 : x_.c.routed_scaling_factor);
    }
    return out;
  }

  static bool of_expert(mistake m) {
    return m == mistake::weight_after_w2 || m == mistake::clamp_missing || m == mistake::gate_clamped_below ||
           m == mistake::clamp_after_silu || (P::quantised && m == mistake::act_quant_missing);
  }
  tensor<A, 2> expert_output(mistake m, const tensor<A, 2>& x, const expert_weights<>& w,
                             const std::vector<double>& weight) {
    const index_t t = x.extent(0);
    auto a = x_.product(x, w.w1, m), u = x_.product(x, w.w3, m);
    if (m == mistake::gate_clamped_below)
      for (index_t i = 0; i < a.size(); ++i)
        a.data()[i] = store<A>(std::max(widen<double>(a.data()[i]), -x_.c.swiglu_limit));
    const double limit =
        m == mistake::clamp_missing ? std::numeric_limits<double>::infinity() : x_.c.swiglu_limit;
    const bool after = m == mistake::weight_after_w2;
    const view<const double, 1> before(weight.data(), after ? 0 : static_cast<index_t>(weight.size()));
    if (m == mistake::clamp_after_silu) {
      for (index_t i = 0; i < t; ++i)
        for (index_t j = 0; j < a.extent(1); ++j) {
          const double g = widen<double>(a(i, j)), v = widen<double>(u(i, j));
          a(i, j) = store<A>(std::min(silu(g), limit) * std::clamp(v, -limit, limit) *
                             (before.extent(0) ? before[i] : 1.0));
        }
    } else {
      swiglu(x_.e, a.all(), u.all(), before, limit, a.all());
    }
    auto y = x_.product(std::move(a), w.w2, m);
    if (after)
      for (index_t i = 0; i < t; ++i)
        for (index_t d = 0; d < y.extent(1); ++d)
          y(i, d) = store<A>(widen<double>(y(i, d)) * weight[usize(i)]);
    return y;
  }
  maybe_values routed(mistake m, const tap_event& e, const moe_weights<>& w) {
    auto x = x_.input(e, site::ffn_norm);
    const auto chosen = wide(e, site::gate_indices), weights = wide(e, site::gate_weights);
    if (!of_expert(m) || x.empty() || !chosen || !weights) return std::nullopt;
    const index_t k = x_.c.num_experts_per_tok, d = x.extent(1);
    std::vector<double> out(usize(e.size()), 0.0);
    for (index_t id = 0; id < x_.c.n_routed_experts; ++id) {
      std::vector<index_t> tokens;
      std::vector<double> weight;
      for (index_t t = 0; t < e.tokens; ++t)
        for (index_t j = 0; j < k; ++j)
          if (index_t((*chosen)[usize(t * k + j)]) == id)
            tokens.push_back(t), weight.push_back((*weights)[usize(t * k + j)]);
      if (tokens.empty()) continue;
      tensor<A, 2> own(static_cast<index_t>(tokens.size()), d);
      for (std::size_t i = 0; i < tokens.size(); ++i)
        std::copy_n(x[tokens[i]].data(), d, own[static_cast<index_t>(i)].data());
      const auto y = expert_output(m, own, w.experts[usize(id)], weight);
      for (std::size_t i = 0; i < tokens.size(); ++i)
        for (index_t c = 0; c < d; ++c)
          out[usize(tokens[i] * d + c)] += widen<double>(y(static_cast<index_t>(i), c));
    }
    return out;
  }

  mistaken_context<P> x_;
  mistaken_attention<P> attention_;
};

}  // namespace dsv4::golden
