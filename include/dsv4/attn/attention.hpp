// SPDX-License-Identifier: MIT
#pragma once
/// Attention of one layer, all three kinds: window only, CSA, HCA.
/// @paper{DSV4, section 2.3, Eq. (13), (18), (19), (24)-(26)}
/// axes     t token · h head · d channel of a head · D hidden · g output group · r group rank
/// oracle   model.py, Attention.forward
/// deviates any number of tokens per call and any mix of sequences per batch; the released code decodes
///          one token at a time
///
/// Projections run over the flat batch; then each sequence attends to its own memory, all of them in one launch.
#include "indexer.hpp"
#include "sparse_attention.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, slots, numbers [t, s]): the slots of one sequence's queries as the released code numbers them.  In a call
/// that starts at position 0 an index below the call's tokens is a position and entries follow; later an index below
/// W is a ring row (position mod W) and entries follow from W.  -1 is empty.
template <execution E>
struct number_slots {
  static_assert(has_kernel<E>, "number_slots: no kernel for this executor");
};
/// run(e, slots, numbers [t, s], chosen [t, k]): the way back, for an observer that wrote other choices into the
/// numbers (a graft).
/// @throws contract_violation for an entry that is not there, or another window (it follows from the position)
template <execution E>
struct adopt_slots {
  static_assert(has_kernel<E>, "adopt_slots: no kernel for this executor");
};

template <host_execution E>
struct number_slots<E> {
  template <class A>
  static void run(E&, const attention_slots<A>& slots, view<std::int32_t, 2> numbers) {
    const bool from_zero = slots.start == 0;
    const index_t tokens = numbers.extent(0), offset = from_zero ? tokens : slots.window;
    for (index_t t = 0; t < tokens; ++t) {
      const index_t position = slots.start + t, oldest = std::max(index_t{0}, position - slots.window + 1);
      for (index_t s = 0; s < slots.slots(); ++s) {
        index_t number = -1;
        if (s < slots.window) {
          if (oldest + s <= position) number = from_zero ? oldest + s : (oldest + s) % slots.window;
        } else if (const index_t entry = slots.chosen(t, s - slots.window); entry >= 0) {
          number = entry + offset;
        }
        numbers(t, s) = static_cast<std::int32_t>(number);
      }
    }
  }
};

template <host_execution E>
struct adopt_slots<E> {
  template <class A>
  static void run(E&, const attention_slots<A>& slots, view<const std::int32_t, 2> numbers,
                  view<std::int32_t, 2> chosen) {
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
};
}  // namespace kernel

/// HCA: every sequence's queries see all closed entries, in order; [t, entries], -1 where not yet visible.
template <numerics_policy P, execution E, observer Tap>
std::span<const view<std::int32_t, 2, mem_of<E>>> all_entries(const call_context<E, Tap>& call,
                                                              const layer_batch<P, E>& batch) {
  using list = view<std::int32_t, 2, mem_of<E>>;
  const std::span<list> chosen = take_list<list>(call.host, batch.sequences());
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const segment& g = batch.segments[i];
    chosen[i] = take<std::int32_t>(call.scratch, g.tokens(), (g.start + g.tokens()) / batch.ratio);
  }
  kernel::choose_all_visible<E>::run(call.e, batch.segments, batch.ratio, std::span<const list>(chosen));
  return chosen;
}

// ---- the parts of an attention that do not know what is attended to; views live in the call's scratch

/// Queries of a latent: up-projection, norm of each head, rotation of the last rd channels.
template <numerics_policy P, execution E, observer Tap>
view<act_t<P>, 3, mem_of<E>> attention_queries(const call_context<E, Tap>& call,
                                               const product_input<P, E>& latent, index_t t,
                                               const basic_rotary_angles<mem_of<E>>& angles,
                                               const attention_weights<storage_of<E>>& w) {
  const auto& [e, scratch, host, c, tap] = call;
  const index_t heads = c.num_attention_heads, hd = c.head_dim;
  auto q = take<act_t<P>>(scratch, t, heads, hd);     // [t, h, d]
  latent.times(e, w.wq_b, q.reshape(t, heads * hd));  // Eq. (18), (25)
  head_norm(e, q, c.rms_norm_eps);
  tap.rows(site::attn_q_norm, q);
  rope(e, q, angles);
  tap.rows(site::attn_q_rope, q);
  return q;
}

/// The single head whose keys are also its values, rounded as the cache stores it.
template <numerics_policy P, execution E, observer Tap>
view<act_t<P>, 2, mem_of<E>> attention_keys(const call_context<E, Tap>& call,
                                            const product_input<P, E>& input, index_t t,
                                            const basic_rotary_angles<mem_of<E>>& angles,
                                            const attention_weights<storage_of<E>>& w) {
  const auto& [e, scratch, host, c, tap] = call;
  const index_t hd = c.head_dim;
  auto kv = take<act_t<P>>(scratch, t, hd);  // [t, d]
  input.times(e, w.wkv, kv);
  rms_norm(e, kv, w.kv_norm, c.rms_norm_eps, kv);
  tap.rows(site::attn_kv_norm, kv);
  rope(e, kv.reshape(t, 1, hd), angles);
  if constexpr (P::quantised) act_quant_in_place(e, kv, hd - c.qk_rope_head_dim, kv_quant_block);
  tap.rows(site::attn_kv, kv);
  return kv;
}

/// out of what the heads gathered.
template <numerics_policy P, execution E, observer Tap>
void attention_output(const call_context<E, Tap>& call, view<act_t<P>, 3, mem_of<E>> o /*[t,h,d]*/,
                      const basic_rotary_angles<mem_of<E>>& angles, const attention_weights<storage_of<E>>& w,
                      view<act_t<P>, 2, mem_of<E>> out /*[t,D]*/) {
  const auto& [e, scratch, host, c, tap] = call;
  // Values are rotated keys, so o still carries their rotation: turning it back by the query's position
  // leaves the distance to each key.
  rope(e, o, angles, rotation::inverse);
  tap.rows(site::attn_o_derot, o);

  // Grouped output projection: each group of heads to rank r, then all of them to D.
  const index_t t = o.extent(0), groups = c.o_groups, rank = c.o_lora_rank;
  auto low = take<act_t<P>>(scratch, t, groups, rank);  // [t, g, r]
  grouped_linear(e, o.reshape(t, groups, o.row_size() / groups), w.wo_a, low);
  tap.rows(site::attn_o_lora, low);
  quantised_linear<P>(e, scratch, low.reshape(t, groups * rank), w.wo_b, out);
  tap.rows(site::attn_out, out);
}

/// out = attention(x) for a flat batch.
template <numerics_policy P, execution E, observer Tap>
void attention(const call_context<E, Tap>& call, const layer_batch<P, E>& batch,
               view<act_t<P>, 2, mem_of<E>> x /*[t,D]*/, const attention_weights<storage_of<E>>& w,
               view<act_t<P>, 2, mem_of<E>> out /*[t,D]*/) {
  using A = act_t<P>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const typename call_context<E, Tap>::scope here(call);
  const index_t t = x.extent(0), heads = c.num_attention_heads, hd = c.head_dim;
  const attention_kind kind = kind_of_ratio(batch.ratio);
  const auto& angles = batch.rotary.angles;

  // The query latent, shared by the attention and its indexer.
  const product_input<P, E> input(e, scratch, x);
  auto qr = take<A>(scratch, t, c.q_lora_rank);  // [t, qr]
  input.times(e, w.wq_a, qr);                    // Eq. (13), (24)
  rms_norm(e, qr, w.q_norm, c.rms_norm_eps, qr);
  tap.rows(site::attn_qr, qr);

  const product_input<P, E> latent(e, scratch, qr);
  const auto q = attention_queries(call, latent, t, angles, w);  // [t, h, d]
  const auto kv = attention_keys(call, input, t, angles, w);     // [t, d]

  // Entries: those that close in this call join each sequence's memory; then each query makes its choice.
  std::span<const view<std::int32_t, 2, memory>> chosen;  // [sequences] of [t, k]
  if (kind == attention_kind::csa) {
    const auto queries = index_queries_of<P>(call, latent, x, angles, *w.indexer);
    compress(call, batch, compressor_use::indexer, x, w.indexer->compressor);
    chosen = select_entries(call, batch, queries);
  }
  if (kind != attention_kind::window) compress(call, batch, compressor_use::attention, x, *w.compressor);
  if (kind == attention_kind::hca) chosen = all_entries(call, batch);

  // What each sequence's queries can see: window rows of earlier calls, the new ones, the chosen entries.
  using slots_of = attention_slots<A, memory>;
  const std::span<slots_of> slots = take_list<slots_of>(host, batch.sequences());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const segment& g = batch.segments[i];
    attention_state<P, E>& state = *batch.states[i];
    const index_t entries = kind == attention_kind::window ? 0 : (g.start + g.tokens()) / batch.ratio;
    slots[i] = {g.start, c.sliding_window, {state.window.ring(), g.start, kv.rows(g.begin, g.end)}, {}, {}};
    slots[i].chosen = {nullptr, g.tokens(), 0};
    if (kind == attention_kind::window) continue;
    slots[i].entries = state.compressor.entries.all().rows(0, entries);
    slots[i].chosen = chosen[i];
  }
  if constexpr (Tap::on) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const typename call_context<E, Tap>::scope one(call);
      auto numbers = take<std::int32_t>(scratch, batch.segments[i].tokens(), slots[i].slots());
      kernel::number_slots<E>::run(e, slots[i], numbers);
      tap.one(site::attn_topk_idxs, static_cast<index_t>(i), numbers);
      kernel::adopt_slots<E>::run(e, slots[i], view<const std::int32_t, 2, memory>(numbers),
                                  chosen.empty() ? view<std::int32_t, 2, memory>{} : chosen[i]);
    }
  }

  auto o = take<A>(scratch, t, heads, hd);                            // [t, h, d]
  core_attention<E, A>(e, q, batch.segments, slots, w.attn_sink, o);  // Eq. (19), (26)
  append_to_rings(call, batch, kv, [](attention_state<P, E>& s) -> auto& { return s.window; });
  tap.rows(site::attn_o, o);
  attention_output<P>(call, o, angles, w, out);
}

}  // namespace dsv4
