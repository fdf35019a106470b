// SPDX-License-Identifier: MIT
#pragma once
/// Attention of one layer, all three kinds: window only, CSA, HCA.
/// @paper{DSV4, section 2.3, Eq. (13), (18), (19), (24)-(26)}
/// axes     t token · h head · d channel of a head · D hidden · g output group · r group rank
/// oracle   model.py, Attention.forward
/// deviates any number of tokens per call and any mix of sequences per batch; the released code decodes
///          one token at a time
///
/// Projections run over the flat batch; then each sequence attends to its own memory.
#include "indexer.hpp"
#include "sparse_attention.hpp"

namespace dsv4 {

/// Rotary tables and angles of a batch, one pair per layer kind.
struct rotary_context {
  view<const float, 1> inv_freq;  // [rd/2]
  rotary_angles angles;           // [t, rd/2] at every token of the batch
};

/// The slots of a query as the released code numbers them: in a call that starts at position 0 an index
/// below the call's tokens is a position and entries follow; later an index below W is a ring row
/// (position mod W) and entries follow from W.  -1 is empty.
template <class A>
void number_slots(const attention_slots<A>& slots, index_t tokens, view<std::int32_t, 2> out /*[t,s]*/) {
  const bool from_zero = slots.start == 0;
  const index_t offset = from_zero ? tokens : slots.window;
  for (index_t t = 0; t < tokens; ++t) {
    const index_t position = slots.start + t, oldest = std::max(index_t{0}, position - slots.window + 1);
    for (index_t s = 0; s < slots.slots(); ++s) {
      index_t number = -1;
      if (s < slots.window) {
        if (oldest + s <= position) number = from_zero ? oldest + s : (oldest + s) % slots.window;
      } else if (const index_t entry = slots.chosen(t, s - slots.window); entry >= 0) {
        number = entry + offset;
      }
      out(t, s) = static_cast<std::int32_t>(number);
    }
  }
}

/// The way back, for an observer that wrote other choices into the numbers (a graft): [t, s] -> chosen [t, k].
/// @throws contract_violation for an entry that is not there, or another window (it follows from the position)
template <class A>
void adopt_slots(const attention_slots<A>& slots, view<const std::int32_t, 2> numbers /*[t,s]*/,
                 view<std::int32_t, 2> chosen /*[t,k]*/) {
  const bool from_zero = slots.start == 0;
  const index_t tokens = numbers.extent(0), offset = from_zero ? tokens : slots.window;
  for (index_t t = 0; t < tokens; ++t) {
    const index_t position = slots.start + t, oldest = std::max(index_t{0}, position - slots.window + 1);
    for (index_t s = 0; s < slots.slots(); ++s) {
      const index_t number = numbers(t, s);
      if (s < slots.window) {
        const index_t p = oldest + s, own = p > position ? -1 : from_zero ? p : p % slots.window;
        expects_equal(number, own, "attn.topk_idxs: window slots cannot be replaced");
      } else {
        if (number != -1)
          expects_in(number - offset, 0, slots.entries.extent(0), "attn.topk_idxs: compressed entry");
        chosen(t, s - slots.window) = static_cast<std::int32_t>(number == -1 ? -1 : number - offset);
      }
    }
  }
}

/// HCA: every closed entry, in order; [t, entries], -1 where not yet visible.
inline void choose_all_visible(index_t start, index_t ratio, view<std::int32_t, 2> chosen /*[t,s]*/) {
  for (index_t t = 0; t < chosen.extent(0); ++t)
    for (index_t s = 0; s < chosen.extent(1); ++s)
      chosen(t, s) = s < (start + t + 1) / ratio ? static_cast<std::int32_t>(s) : -1;
}

/// out = attention(x) for a flat batch; `states[i]` is this layer's memory of sequence i.
template <numerics_policy P, execution E, observer Tap>
void attention(E& e, workspace& scratch, const tapper<Tap>& tap, const config& c, index_t ratio,
               view<act_t<P>, 2> x /*[t,D]*/, const rotary_context& rotary, const attention_weights<>& w,
               std::span<attention_state<P, E>* const> states, view<act_t<P>, 2> out /*[t,D]*/) {
  using A = act_t<P>;
  workspace::scope here(scratch);
  const index_t t = x.extent(0), heads = c.num_attention_heads, hd = c.head_dim, rd = c.qk_rope_head_dim;
  const attention_kind kind = kind_of_ratio(ratio);

  // The query latent, shared by the attention and its indexer.
  const product_input<P, E> input(e, scratch, x);
  auto qr = scratch.take<A>(t, c.q_lora_rank);  // [t, qr]
  input.times(e, w.wq_a, qr);                   // Eq. (13), (24)
  rms_norm(e, qr, w.q_norm, c.rms_norm_eps, qr);
  tap.rows(site::attn_qr, qr);

  // Queries: up-projection, norm of each head, rotation of the last rd channels.
  const product_input<P, E> latent(e, scratch, qr);
  auto q = scratch.take<A>(t, heads, hd);             // [t, h, d]
  latent.times(e, w.wq_b, q.reshape(t, heads * hd));  // Eq. (18), (25)
  head_norm(e, q, c.rms_norm_eps);
  tap.rows(site::attn_q_norm, q);
  rope(e, q, rotary.angles);
  tap.rows(site::attn_q_rope, q);

  // The one key = value head, in the precision of the cache.
  auto kv = scratch.take<A>(t, hd);  // [t, d]
  input.times(e, w.wkv, kv);
  rms_norm(e, kv, w.kv_norm, c.rms_norm_eps, kv);
  tap.rows(site::attn_kv_norm, kv);
  rope(e, kv.reshape(t, 1, hd), rotary.angles);
  if constexpr (P::quantised) act_quant_in_place(e, kv, hd - rd, kv_quant_block);
  tap.rows(site::attn_kv, kv);

  index_queries<A> index_q;
  if (kind == attention_kind::csa)
    index_q = index_queries_of<P>(e, scratch, tap, c, latent, x, rotary.angles, *w.indexer);

  auto o = scratch.take<A>(t, heads, hd);  // [t, h, d]
  for (index_t i = 0; i < static_cast<index_t>(tap.segments.size()); ++i) {
    workspace::scope per_sequence(scratch);
    const segment& g = tap.segments[static_cast<std::size_t>(i)];
    attention_state<P, E>& state = *states[static_cast<std::size_t>(i)];
    const index_t n = g.tokens(), length = g.start + n;
    const auto own = [&](auto v) { return v.rows(g.begin, g.end); };

    // Entries: those that close in this call are appended, then each query makes its choice.
    attention_slots<A> slots{g.start, c.sliding_window, {}, 0, {}, {}};
    view<std::int32_t, 2> chosen{nullptr, n, 0};  // [t, k]
    if (kind == attention_kind::csa) {
      compress<P>(e, scratch, tap, i, c, ratio, own(x), g.start, rotary.inv_freq, w.indexer->compressor,
                  compressor_use::indexer, state.indexer);
      const index_queries<A> queries{own(index_q.q), own(index_q.weights)};
      chosen = select_entries(e, scratch, tap, i, c, queries,
                              view<const A, 2>(state.indexer.entries.all().rows(0, length / ratio)), g.start);
    }
    if (kind != attention_kind::window) {
      compress<P>(e, scratch, tap, i, c, ratio, own(x), g.start, rotary.inv_freq, *w.compressor,
                  compressor_use::attention, state.compressor);
      slots.entries = state.compressor.entries.all().rows(0, length / ratio);
    }
    if (kind == attention_kind::hca) {
      chosen = scratch.take<std::int32_t>(n, length / ratio);
      choose_all_visible(g.start, ratio, chosen);
    }
    slots.chosen = chosen;

    // The window: rows of earlier calls that the first query still sees, then the new ones.
    slots.first = std::max(index_t{0}, g.start - c.sliding_window + 1);
    const index_t kept = g.start - slots.first;
    auto recent = scratch.take<A>(kept + n, hd);  // [p, d]
    state.window.read(slots.first, g.start, recent.rows(0, kept));
    std::copy_n(own(kv).data(), n * hd, recent[kept].data());
    state.window.write(g.start, own(kv));
    slots.recent = recent;

    if constexpr (Tap::on) {
      auto numbers = scratch.take<std::int32_t>(n, slots.slots());
      number_slots(slots, n, numbers);
      tap.one(site::attn_topk_idxs, i, numbers);
      adopt_slots(slots, view<const std::int32_t, 2>(numbers), chosen);
    }
    sparse_attention(e, own(q), slots, w.attn_sink, own(o));  // Eq. (19), (26)
  }
  tap.rows(site::attn_o, o);

  // Keys are values, so o carries the phase of its keys: turn it back at the query's position.
  rope(e, o, rotary.angles, rotation::inverse);
  tap.rows(site::attn_o_derot, o);

  // Grouped output projection: each group of heads to rank r, then all of them to D.
  const index_t groups = c.o_groups, rank = c.o_lora_rank;
  auto low = scratch.take<A>(t, groups, rank);  // [t, g, r]
  grouped_linear(e, o.reshape(t, groups, heads * hd / groups), w.wo_a, low);
  tap.rows(site::attn_o_lora, low);
  quantised_linear<P>(e, scratch, low.reshape(t, groups * rank), w.wo_b, out);
  tap.rows(site::attn_out, out);
}

}  // namespace dsv4
