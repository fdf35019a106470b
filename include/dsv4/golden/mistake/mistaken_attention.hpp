// SPDX-License-Identifier: MIT
#pragma once
/// Operators of attention, compressor and indexer computed with one known mistake, from the remembered
/// inputs of the right ones.  Composed of the library's own kernels; only what is mistaken is written here.
#include "mistaken_context.hpp"

namespace dsv4::golden {

template <numerics_policy P>
class mistaken_attention {
 public:
  using A = act_t<P>;
  explicit mistaken_attention(mistaken_context<P>& x) : x_(x) {}

  maybe_values operator()(mistake m, const tap_event& e) {
    const attention_weights<>& w = x_.block(e.scope).attn;
    switch (e.where) {
      case site::attn_qr: return normed(m, e, w.wq_a, w.q_norm);
      case site::attn_kv_norm: return normed(m, e, w.wkv, w.kv_norm);
      case site::attn_q_norm: return q_norm(m, e, w);
      case site::attn_q_rope:
        return turned(m, e, site::attn_q_norm, x_.c.num_attention_heads, rotation::forward);
      case site::attn_o_derot: return turned(m, e, site::attn_o, x_.c.num_attention_heads, rotation::inverse);
      case site::attn_kv: return kv(m, e);
      case site::indexer_q_had: return q_had(m, e, *w.indexer);
      case site::indexer_q: return m == mistake::fp4_missing ? copy(e, site::indexer_q_had) : std::nullopt;
      case site::compressor_pooled: return pooled(m, e, *w.compressor);
      case site::indexer_compressor_pooled: return pooled(m, e, w.indexer->compressor);
      case site::compressor_entry:
      case site::indexer_compressor_entry: return entry(m, e);
      case site::indexer_weights: return index_weights(m, e, *w.indexer);
      case site::indexer_scores: return scores(m, e);
      case site::attn_topk_idxs: return topk(m, e);
      case site::attn_o: return o(m, e, w);
      case site::attn_o_lora: return o_lora(m, e, w);
      case site::attn_out: {
        auto x = x_.input(e, site::attn_o_lora);
        if (x.empty() || !x_.product_can(m, w.wo_b)) return std::nullopt;
        return x_.out(x_.product(std::move(x), w.wo_b, m));
      }
      default: return std::nullopt;
    }
  }

 private:
  maybe_values copy(const tap_event& e, site from) {
    auto x = x_.input(e, from);
    if (!P::quantised || x.empty()) return std::nullopt;
    return x_.out(x);
  }

  maybe_values turned(mistake m, const tap_event& e, site from, index_t heads, rotation direction) {
    auto x = x_.input(e, from);
    if (x.empty() || !x_.frequencies(m, x_.ratio(e.scope)) || x_.of_entries(m)) return std::nullopt;
    x_.turn(
        m, x_.ratio(e.scope), x.all().reshape(e.tokens, heads, x.extent(1) / heads),
        [&](index_t i) { return e.start + i; }, direction);
    return x_.out(x);
  }
  maybe_values normed(mistake m, const tap_event& e, const weight_matrix& w, const tensor<float, 1>& norm) {
    auto x = x_.input(e, site::attn_norm);
    if (x.empty() || !x_.product_can(m, w)) return std::nullopt;
    auto y = x_.product(std::move(x), w, m);
    rms_norm(x_.e, y.all(), norm.all(), x_.c.rms_norm_eps, y.all());
    return x_.out(y);
  }
  maybe_values q_norm(mistake m, const tap_event& e, const attention_weights<>& w) {
    auto x = x_.input(e, site::attn_qr);
    const bool of_norm =
        m == mistake::head_norm_missing || m == mistake::head_norm_one_store || m == mistake::race;
    if (x.empty() || !(of_norm || x_.product_can(m, w.wq_b))) return std::nullopt;
    auto y = x_.product(std::move(x), w.wq_b, m);
    const index_t heads = x_.c.num_attention_heads, hd = x_.c.head_dim;
    if (m == mistake::head_norm_one_store) {
      tensor<float, 1> ones(hd);
      std::fill_n(ones.data(), hd, 1.0f);
      const auto rows = y.all().reshape(e.tokens * heads, hd);
      rms_norm(x_.e, rows, ones.all(), x_.c.rms_norm_eps, rows);
    } else if (m != mistake::head_norm_missing) {
      head_norm(x_.e, y.all().reshape(e.tokens, heads, hd), x_.c.rms_norm_eps);
    }
    if (m == mistake::race)  // the rotary channels of every third row hold another row's
      for (index_t t = 2; t < e.tokens; t += 3)
        for (index_t h = 0; h < heads; ++h)
          std::copy_n(&y(t - 1, h * hd + hd - x_.c.qk_rope_head_dim), x_.c.qk_rope_head_dim,
                      &y(t, h * hd + hd - x_.c.qk_rope_head_dim));
    return x_.out(y);
  }
  maybe_values kv(mistake m, const tap_event& e) {
    auto x = x_.input(e, site::attn_kv_norm);
    if (x.empty() || x_.of_entries(m)) return std::nullopt;
    const bool turns = x_.frequencies(m, x_.ratio(e.scope)).has_value();
    x_.turn(
        m, x_.ratio(e.scope), x.all().reshape(e.tokens, 1, x.extent(1)),
        [&](index_t i) { return e.start + i; }, rotation::forward);
    if (!x_.quantise(m, x) && !turns) return std::nullopt;
    return x_.out(x);
  }
  maybe_values q_had(mistake m, const tap_event& e, const indexer_weights<>& w) {
    auto x = x_.input(e, site::attn_qr);
    const bool turns = x_.frequencies(m, x_.ratio(e.scope)).has_value() && !x_.of_entries(m);
    const bool mine = turns || x_.product_can(m, w.wq_b) || (P::quantised && m == mistake::hadamard_missing);
    if (x.empty() || !mine) return std::nullopt;
    auto y = x_.product(std::move(x), w.wq_b, m);
    const index_t h = x_.c.index_n_heads, d = x_.c.index_head_dim;
    x_.turn(
        m, x_.ratio(e.scope), y.all().reshape(e.tokens, h, d), [&](index_t i) { return e.start + i; },
        rotation::forward);
    if (P::quantised && m != mistake::hadamard_missing) hadamard(x_.e, y.all().reshape(e.tokens * h, d));
    return x_.out(y);
  }
  maybe_values entry(mistake m, const tap_event& e) {
    const bool main = e.where == site::compressor_entry;
    auto x = x_.input(e, main ? site::compressor_norm : site::indexer_compressor_norm);
    const index_t ratio = x_.ratio(e.scope), first = e.start / ratio;
    const bool turns = x_.frequencies(m, ratio).has_value();
    const bool rotates_back =
        !main && P::quantised && (m == mistake::hadamard_missing || m == mistake::fp4_missing);
    if (x.empty()) return std::nullopt;
    x_.turn(
        m, ratio, x.all().reshape(x.extent(0), 1, x.extent(1)),
        [&](index_t i) {
          if (m == mistake::entry_at_last_token) return (first + i) * ratio + ratio - 1;
          if (m == mistake::entry_at_block_index) return first + i;
          return (first + i) * ratio;
        },
        rotation::forward);
    if (main) {
      if (!x_.quantise(m, x) && !turns) return std::nullopt;
    } else {
      if (!turns && !rotates_back) return std::nullopt;
      if (P::quantised && m != mistake::hadamard_missing) hadamard(x_.e, x.all());
      if (P::quantised && m != mistake::fp4_missing) fp4_act_quant(x_.e, x.all());
    }
    return x_.out(x);
  }

  maybe_values pooled(mistake m, const tap_event& e, const compressor_weights<>& w) {
    const value_rows* all = x_.memory.history(e.scope, site::attn_norm, e.sequence);
    const index_t ratio = x_.ratio(e.scope), entries = e.shape[0], from = e.start / ratio, d = e.shape[1];
    const bool overlap = kind_of_ratio(ratio) == attention_kind::csa;
    const index_t first = std::max<index_t>(0, (from - overlap) * ratio), end = (from + entries) * ratio;
    const bool mine =
        (overlap && (m == mistake::csa_halves_swapped || m == mistake::previous_block_missing)) ||
        m == mistake::ape_missing || m == mistake::stale_open_block;
    if (!mine || !all || !all->has(first, end)) return std::nullopt;
    auto x = rows_as<A>(*all, first, end);
    if (m == mistake::stale_open_block) {
      // Only where the block was open when this call began: its last token of before is another one.
      if (e.start == 0 || e.start % ratio == 0) return std::nullopt;
      const index_t last = e.start - 1 - first;
      const index_t other = last > 0 ? last - 1 : last + 1;
      std::copy_n(x[other].data(), x.extent(1), x[last].data());
    }
    tensor<double, 2> kv(end - first, w.wkv.rows), score(end - first, w.wkv.rows);
    linear(x_.e, x.all(), w.wkv, kv.all());
    linear(x_.e, x.all(), w.wgate, score.all());
    if (m != mistake::ape_missing) kernel::add_ape<exec::ref>::run(x_.e, w.ape, first, score);
    if (m == mistake::csa_halves_swapped)
      for (tensor<double, 2>* half : {&kv, &score})
        for (index_t t = 0; t < half->extent(0); ++t)
          for (index_t k = 0; k < d; ++k) std::swap((*half)(t, k), (*half)(t, k + d));
    tensor<A, 2> out(entries, d);
    kernel::compressor_pool<exec::ref>::run(x_.e, compressor_rows<double>{first, kv, score}, ratio, from,
                                            out.all());
    if (m == mistake::previous_block_missing) {  // every entry pools as the first one does
      for (index_t i = 0; i < entries; ++i) {
        const index_t own = (from + i) * ratio;
        const compressor_rows<double> alone{0, kv.all().rows(own - first, own - first + ratio),
                                            score.all().rows(own - first, own - first + ratio)};
        kernel::compressor_pool<exec::ref>::run(x_.e, alone, ratio, 0, out.all().rows(i, i + 1));
      }
    }
    return x_.out(out);
  }
  maybe_values index_weights(mistake m, const tap_event& e, const indexer_weights<>& w) {
    auto x = x_.input(e, site::attn_norm);
    if (m != mistake::index_scale_missing || x.empty()) return std::nullopt;
    tensor<A, 2> y(e.tokens, w.weights_proj.rows);
    linear(x_.e, x.all(), w.weights_proj, y.all());
    return x_.out(y);
  }
  maybe_values scores(mistake m, const tap_event& e) {
    const bool missing = m == mistake::relu_missing;
    if (!missing && m != mistake::relu_after_weight) return std::nullopt;
    auto q = x_.input(e, site::indexer_q), k = x_.input(e, site::indexer_compressor_entry),
         w = x_.input(e, site::indexer_weights);
    if (q.empty() || k.empty() || w.empty() || k.extent(0) < e.shape[1]) return std::nullopt;
    const index_t d = x_.c.index_head_dim, heads = x_.c.index_n_heads;
    std::vector<double> out(usize(e.size()));
    for (index_t t = 0; t < e.tokens; ++t)
      for (index_t s = 0; s < e.shape[1]; ++s) {
        double sum = 0;
        for (index_t h = 0; h < heads; ++h) {
          double dot = 0;
          for (index_t i = 0; i < d; ++i) dot += widen<double>(q(t, h * d + i)) * widen<double>(k(s, i));
          const double weighted = rounded<A>(rounded<A>(dot) * widen<double>(w(t, h)));
          sum += missing ? weighted : std::max(weighted, 0.0);
        }
        out[usize(t * e.shape[1] + s)] = rounded<A>(sum);
      }
    return out;
  }

  maybe_values topk(mistake m, const tap_event& e) {
    const index_t ratio = x_.ratio(e.scope), w = x_.c.sliding_window, width = e.shape[1], k = width - w;
    const index_t offset = e.start == 0 ? e.tokens : w, entries = ratio ? (e.start + e.tokens) / ratio : 0;
    if (ratio == 0 || k <= 0) return std::nullopt;
    std::vector<double> out(usize(e.size()));
    for (index_t i = 0; i < e.size(); ++i) out[usize(i)] = element(e, i);
    const auto at = [&](index_t t, index_t j) -> double& { return out[usize(t * width + w + j)]; };
    if (m == mistake::index_of_previous_token) {
      for (index_t t = e.tokens - 1; t > 0; --t)
        for (index_t j = 0; j < k; ++j) at(t, j) = at(t - 1, j);
      return out;
    }
    if (m != mistake::entry_too_early && m != mistake::entry_too_late) return std::nullopt;
    const index_t shift = m == mistake::entry_too_early ? 1 : -1;
    tensor<std::int32_t, 2> chosen(e.tokens, k);
    if (kind_of_ratio(ratio) == attention_kind::csa) {
      auto s = x_.input(e, site::indexer_scores);
      if (s.empty()) return std::nullopt;
      for (index_t t = 0; t < e.tokens; ++t) {
        std::vector<std::int32_t> order(usize(entries));
        kernel::index_select<exec::ref>::select(view<const A, 1>(s[t]), (e.start + t + 1 + shift) / ratio,
                                                order, chosen[t]);
      }
    } else {
      kernel::choose_all_visible<exec::ref>::of_sequence(e.start + shift, ratio, chosen);
    }
    for (index_t t = 0; t < e.tokens; ++t)
      for (index_t j = 0; j < k; ++j)
        at(t, j) = chosen(t, j) < 0 || chosen(t, j) >= entries ? -1 : chosen(t, j) + offset;
    return out;
  }

  maybe_values o(mistake m, const tap_event& e, const attention_weights<>& w) {
    const value_rows* kv = x_.memory.history(e.scope, site::attn_kv, e.sequence);
    const value_rows* slots = x_.memory.latest(site::attn_topk_idxs, e.sequence);
    auto q = x_.input(e, site::attn_q_rope);
    const index_t ratio = x_.ratio(e.scope), window = x_.c.sliding_window, length = e.start + e.tokens,
                  heads = e.shape[1], hd = e.shape[2];
    if (!kv || !slots || q.empty() || !kv->has(0, length)) return std::nullopt;
    const bool mine = m == mistake::sink_missing || m == mistake::mscale_in_softmax ||
                      m == mistake::window_short || m == mistake::window_long ||
                      (m == mistake::stale_window_slot && e.start >= window) ||
                      (m == mistake::first_softmax_block_only && slots->width > softmax_block);
    if (!mine || (m == mistake::mscale_in_softmax && !x_.c.has_yarn)) return std::nullopt;
    auto recent = rows_as<A>(*kv, 0, length);
    tensor<A, 2> entries;
    if (ratio > 0 && length >= ratio) {
      const value_rows* all = x_.memory.history(e.scope, site::compressor_entry, e.sequence);
      if (!all || !all->has(0, length / ratio)) return std::nullopt;
      entries = rows_as<A>(*all, 0, length / ratio);
    }
    const index_t k = slots->width - window, offset = e.start == 0 ? e.tokens : window;
    tensor<std::int32_t, 2> chosen(e.tokens, k);
    for (index_t t = 0; t < e.tokens; ++t)
      for (index_t j = 0; j < k; ++j) {
        const double x = slots->row(e.start + t)[usize(window + j)];
        const bool left_out = m == mistake::first_softmax_block_only && window + j >= softmax_block;
        chosen(t, j) =
            x < 0 || left_out ? -1 : static_cast<std::int32_t>(x) - static_cast<std::int32_t>(offset);
      }
    if (m == mistake::stale_window_slot)
      std::copy_n(recent[e.start - window].data(), hd, recent[e.start].data());
    const index_t used = m == mistake::window_short               ? window - 1
                         : m == mistake::window_long              ? window + 1
                         : m == mistake::first_softmax_block_only ? std::min(window, softmax_block)
                                                                  : window;
    const attention_slots<A> s{e.start, used, {{}, 0, recent}, entries, chosen};
    tensor<float, 1> sink = w.attn_sink;
    if (m == mistake::sink_missing)
      std::fill_n(sink.data(), sink.size(), -std::numeric_limits<float>::infinity());
    const double scale =
        (m == mistake::mscale_in_softmax ? x_.mscale() * x_.mscale() : 1) / std::sqrt(double(hd));
    tensor<A, 3> out(e.tokens, heads, hd);
    kernel::sparse_attention<exec::ref>::run(x_.e, view<const A, 3>(q.all().reshape(e.tokens, heads, hd)), s,
                                             sink, scale, out.all());
    return x_.out(out);
  }
  maybe_values o_lora(mistake m, const tap_event& e, const attention_weights<>& w) {
    auto x = x_.input(e, site::attn_o_derot);
    if (m != mistake::o_quantised || !P::quantised || x.empty()) return std::nullopt;
    act_quant_in_place(x_.e, x.all(), x.extent(1), fp8_tile);
    tensor<A, 3> y(e.tokens, e.shape[1], e.shape[2]);
    grouped_linear(x_.e, x.all().reshape(e.tokens, e.shape[1], x.extent(1) / e.shape[1]), w.wo_a, y.all());
    return x_.out(y);
  }

  mistaken_context<P>& x_;
};

}  // namespace dsv4::golden
