// SPDX-License-Identifier: MIT
#pragma once
/// Attention of one layer, all three kinds, forward and backward, over packed samples.
/// @paper{DSV4, section 2.3, Eq. (13), (18), (19), (24)-(26)}
/// axes     t token · h head · d channel of a head · D hidden · g output group · r group rank · s compressed entry
/// oracle   attn/attention.hpp (forward); golden/transformers/seed0/grads.safetensors
/// deviates none
#include "../core/exec.hpp"
#include "indexer.hpp"
#include "objective.hpp"
#include "sparse_attention.hpp"

namespace dsv4::train {

/// Everything about a batch that the layers of one compression ratio share.
struct layer_context {
  const config* c;
  const batch* samples;
  std::vector<index_t> position;  // [t]
  entry_map entries;
  std::vector<index_t> chosen_at;  // [samples + 1] where the choices [t, s] of each sample begin in `chosen`
  const rotary_table& rotary;      // must outlive this context

  layer_context(const config& config, const batch& b, index_t ratio, const rotary_table& table)
      : c(&config), samples(&b), position(positions(b)), rotary(table) {
    if (kind_of_ratio(ratio) != attention_kind::window) entries = entry_map(b, ratio);
    entries.ratio = ratio;
    entries.offsets.resize(b.begins.size());
    chosen_at.push_back(0);
    for (index_t i = 0; i < b.samples(); ++i)
      chosen_at.push_back(chosen_at.back() + b.length(i) * entries.count(i));
  }
  attention_kind kind() const { return kind_of_ratio(entries.ratio); }
};

template <class T>
struct attention_saved {
  view<T, 2> qa;     // [t, qr] latent before its norm
  view<T, 1> qa_r;   // [t]
  view<T, 2> qr;     // [t, qr]
  view<T, 3> q;      // [t, h, d] rotated
  view<T, 2> q_r;    // [t, h]
  view<T, 2> kva;    // [t, d] before its norm
  view<T, 1> kva_r;  // [t]
  view<T, 2> kv;     // [t, d] rotated
  compressor_saved<T> compressor;
  indexer_saved<T> indexer;
  view<std::uint8_t, 1> chosen;  // per sample [t, s], one after another
  view<T, 3> o;                  // [t, h, d] turned back
  view<T, 2> lse;                // [t, h]
  view<T, 2> low;                // [t, g r]

  static attention_saved take(workspace& w, const layer_context& l) {
    const config& c = *l.c;
    const index_t t = l.samples->tokens(), heads = c.num_attention_heads, hd = c.head_dim;
    const bool csa = l.kind() == attention_kind::csa;
    attention_saved s{w.take<T>(t, c.q_lora_rank),
                      w.take<T>(t),
                      w.take<T>(t, c.q_lora_rank),
                      w.take<T>(t, heads, hd),
                      w.take<T>(t, heads),
                      w.take<T>(t, hd),
                      w.take<T>(t),
                      w.take<T>(t, hd),
                      {},
                      {},
                      w.take<std::uint8_t>(l.chosen_at.back()),
                      w.take<T>(t, heads, hd),
                      w.take<T>(t, heads),
                      w.take<T>(t, c.o_groups * c.o_lora_rank)};
    if (l.kind() != attention_kind::window)
      s.compressor = compressor_saved<T>::take(w, t, l.entries.size(), (csa ? 2 : 1) * hd, hd);
    if (csa) s.indexer = indexer_saved<T>::take(w, c, t, l.entries.size());
    return s;
  }

  /// The rows of sample i.
  view<const std::uint8_t, 2> chosen_of(const layer_context& l, index_t i) const {
    return {chosen.data() + l.chosen_at[usize(i)], l.samples->length(i), l.entries.count(i)};
  }
  attention_keys<T> keys_of(const layer_context& l, index_t i) const {
    const index_t s = l.entries.begin(i), n = l.entries.count(i);
    const view<T, 2> none{nullptr, 0, kv.extent(1)};
    return {l.c->sliding_window, kv.rows(l.samples->begin(i), l.samples->end(i)),
            n ? compressor.entries.rows(s, s + n) : none, chosen_of(l, i)};
  }
};

/// Copies columns [at, at + width) of every row into a matrix of their own; paste_columns puts them back.
template <execution E, class T>
void copy_columns(E& e, view<T, 2> from, index_t at, view<T, 2> to) {
  kernel::rows<E>::run(e, to.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) std::copy_n(from[t].data() + at, to.extent(1), to[t].data());
  });
}
template <execution E, class T>
void paste_columns(E& e, view<T, 2> from, view<T, 2> to, index_t at) {
  kernel::rows<E>::run(e, from.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) std::copy_n(from[t].data(), from.extent(1), to[t].data() + at);
  });
}

/// out [t, D] = attention(x).
template <execution E, class T>
void attention(E& e, workspace& scratch, const layer_context& l, const objective& want,
               view<T, 2> x /*[t,D]*/, const attention_parameters<const T>& w, const attention_saved<T>& s,
               view<T, 2> out /*[t,D]*/) {
  const config& c = *l.c;
  const batch& b = *l.samples;
  const index_t tokens = x.extent(0), heads = c.num_attention_heads, hd = c.head_dim, groups = c.o_groups,
                rank = c.o_lora_rank;
  const auto position = [&](index_t t) { return l.position[usize(t)]; };

  // Query: latent, norm, up-projection, norm of each head, rotation.
  project(e, x, w.wq_a, s.qa);  // Eq. (13), (24)
  rms_norm(e, s.qa, w.q_norm, c.rms_norm_eps, s.qa_r, s.qr);
  project(e, s.qr, w.wq_b, s.q.reshape(tokens, heads * hd));  // Eq. (18), (25)
  head_norm(e, s.q, c.rms_norm_eps, s.q_r);
  rotate(e, s.q, l.rotary, position, rotation::forward);

  // The one key = value head, and the compressed entries.
  project(e, x, w.wkv, s.kva);
  rms_norm(e, s.kva, w.kv_norm, c.rms_norm_eps, s.kva_r, s.kv);
  rotate(e, s.kv.reshape(tokens, 1, hd), l.rotary, position, rotation::forward);
  if (l.kind() != attention_kind::window)
    compress(e, c, l.entries, l.position, x, *w.compressor, l.rotary, s.compressor);
  // While the indexer warms up, attention is dense, because its teacher must have looked at every entry.
  const bool choose =
      l.kind() == attention_kind::csa && !want.dense_attention && want.index != index_stage::dense;
  if (l.kind() == attention_kind::csa && (choose || want.index != index_stage::off))
    index_forward(e, c, l.entries, l.position, x, s.qr, *w.indexer, l.rotary, want.quantise_index, s.indexer);

  // Each sample attends to itself.
  kernel::rows<E>::run(e, b.samples(), 1, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const index_t begin = b.begin(i), end = b.end(i), n = l.entries.count(i);
      const view<std::uint8_t, 2> chosen{s.chosen.data() + l.chosen_at[usize(i)], end - begin, n};
      if (choose && n > 0) {
        index_choose<E, T>(e, c, s.indexer.q.rows(begin, end), s.indexer.weights.rows(begin, end),
                           s.indexer.keys.entries.rows(l.entries.begin(i), l.entries.begin(i) + n), chosen);
      } else {
        for (index_t t = 0; t < end - begin; ++t) {
          std::uint8_t* row = chosen.data() + t * n;
          const index_t visible = n ? std::min(n, visible_entries(t, l.entries.ratio)) : 0;
          std::fill(row, row + visible, std::uint8_t{1});
          std::fill(row + visible, row + n, std::uint8_t{0});
        }
      }
      // Eq. (19), (26)
      kernel::attend<E>::template forward<T>(s.q.rows(begin, end), s.keys_of(l, i), w.attn_sink,
                                             s.o.rows(begin, end), s.lse.rows(begin, end));
    }
  });

  // The output is rotated back at the query's position.  Each group of heads goes to rank r, then all of them to D.
  rotate(e, s.o, l.rotary, position, rotation::inverse);
  workspace::scope here(scratch);
  const index_t width = heads * hd / groups;
  auto group = scratch.take<T>(tokens, width), low = scratch.take<T>(tokens, rank);  // [t, k], [t, r]
  for (index_t g = 0; g < groups; ++g) {
    copy_columns(e, s.o.reshape(tokens, heads * hd), g * width, group);
    project(e, group, w.wo_a.rows(g * rank, (g + 1) * rank), low);
    paste_columns(e, low, s.low, g * rank);
  }
  project(e, s.low, w.wo_b, out);
}

/// Adds to dx and dw.  The indexer learns from its own objective only.
/// @returns the sum of the indexer's KLs over queries
template <execution E, class T>
double attention_backward(E& e, workspace& scratch, const layer_context& l, const objective& want,
                          view<T, 2> dout /*[t,D]*/, view<T, 2> x /*[t,D]*/,
                          const attention_parameters<const T>& w, const attention_saved<T>& s, T index_scale,
                          view<T, 2> dx /*[t,D]*/, const attention_parameters<T>& dw) {
  workspace::scope here(scratch);
  const config& c = *l.c;
  const batch& b = *l.samples;
  const index_t tokens = x.extent(0), heads = c.num_attention_heads, hd = c.head_dim, groups = c.o_groups,
                rank = c.o_lora_rank;
  const auto position = [&](index_t t) { return l.position[usize(t)]; };

  // Grouped output projection.
  auto dlow = zeros<T>(e, scratch, tokens, groups * rank);  // [t, g r]
  project_backward(e, dout, s.low, w.wo_b, dlow, dw.wo_b);
  auto d_o = scratch.take<T>(tokens, heads, hd);  // [t, h, d]
  {
    workspace::scope projection(scratch);
    const index_t width = heads * hd / groups;
    auto group = scratch.take<T>(tokens, width), dpart = scratch.take<T>(tokens, rank);  // [t, k], [t, r]
    for (index_t g = 0; g < groups; ++g) {
      copy_columns(e, s.o.reshape(tokens, heads * hd), g * width, group);
      copy_columns(e, dlow, g * rank, dpart);
      workspace::scope one(scratch);
      auto dgroup = zeros<T>(e, scratch, tokens, width);  // [t, k]
      const index_t from = g * rank, to = from + rank;
      project_backward(e, dpart, group, w.wo_a.rows(from, to), dgroup, dw.wo_a.rows(from, to));
      paste_columns(e, dgroup, d_o.reshape(tokens, heads * hd), g * width);
    }
  }
  // delta = <do, o> is the same before and after the rotation of both.
  auto delta = scratch.take<T>(tokens, heads);  // [t, h]
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t h = 0; h < heads; ++h) delta(t, h) = dot<T>(d_o[t][h].data(), s.o[t][h].data(), hd);
  });
  rotate(e, d_o, l.rotary, position, rotation::forward);

  // Core attention and the indexer's objective, sample by sample.
  const bool learn_index =
      l.kind() == attention_kind::csa && want.index != index_stage::off && index_scale != T(0);
  auto dq = scratch.take<T>(tokens, heads, hd);                // [t, h, d]
  auto dkv = zeros<T>(e, scratch, tokens, hd);                 // [t, d]
  auto dentries = zeros<T>(e, scratch, l.entries.size(), hd);  // [s, d]
  auto dsink = zeros<T>(e, scratch, b.samples(), heads);       // [sample, h]
  auto kl = zeros<double>(e, scratch, b.samples());            // [sample]
  indexer_saved<T> di;  // gradients of the indexer's q, weights and keys
  if (learn_index) {
    di.q = zeros<T>(e, scratch, tokens, c.index_n_heads, c.index_head_dim);
    di.weights = zeros<T>(e, scratch, tokens, c.index_n_heads);
    di.keys.entries = zeros<T>(e, scratch, l.entries.size(), c.index_head_dim);
  }
  kernel::rows<E>::run(e, b.samples(), 1, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const index_t begin = b.begin(i), end = b.end(i), at = l.entries.begin(i), n = l.entries.count(i);
      const attention_keys<T> keys = s.keys_of(l, i);
      const attention_keys<T> dkeys{keys.window, dkv.rows(begin, end), dentries.rows(at, at + n), {}};
      kernel::attend<E>::template backward<T>(s.q.rows(begin, end), keys, w.attn_sink, s.lse.rows(begin, end),
                                              d_o.rows(begin, end), delta.rows(begin, end),
                                              dq.rows(begin, end), dkeys, dsink[i]);
      if (!learn_index || n == 0) continue;
      workspace& own = thread_scratch();
      workspace::scope sample(own);
      // The indexer is taught on what was attended to: the chosen entries, during the warm-up all visible ones.
      const view<const std::uint8_t, 2> set = keys.chosen;
      auto teacher = own.take<T>(end - begin, n);  // [t, s]
      kernel::attend<E>::template mass<T>(s.q.rows(begin, end), keys.entries, set, s.lse.rows(begin, end),
                                          teacher);
      kl[i] = index_objective<E, T>(e, s.indexer.q.rows(begin, end), s.indexer.weights.rows(begin, end),
                                    s.indexer.keys.entries.rows(at, at + n), set, teacher, index_scale,
                                    di.q.rows(begin, end), di.weights.rows(begin, end),
                                    di.keys.entries.rows(at, at + n));
    }
  });
  double kl_sum = 0;
  for (index_t i = 0; i < b.samples(); ++i) {
    kl_sum += kl[i];
    for (index_t h = 0; h < heads; ++h) dw.attn_sink[h] += dsink(i, h);
  }
  if (learn_index)
    index_backward(e, scratch, c, l.entries, l.position, x, s.qr, *w.indexer, l.rotary, want.quantise_index,
                   s.indexer, di.q, di.weights, di.keys.entries, *dw.indexer);

  // Entries, key = value head, queries: back to x.
  if (l.kind() != attention_kind::window)
    compress_backward(e, scratch, l.entries, l.position, dentries, x, *w.compressor, l.rotary, s.compressor,
                      dx, *dw.compressor);
  rotate(e, dkv.reshape(tokens, 1, hd), l.rotary, position, rotation::inverse);
  auto dkva = zeros<T>(e, scratch, tokens, hd);  // [t, d]
  rms_norm_backward(e, dkv, s.kva, w.kv_norm, s.kva_r, dkva, dw.kv_norm);
  project_backward(e, dkva, x, w.wkv, dx, dw.wkv);

  head_norm_backward(e, dq, s.q, s.q_r);  // of the rotated y: a rotation keeps <dy, y>
  rotate(e, dq, l.rotary, position, rotation::inverse);
  auto dqr = zeros<T>(e, scratch, tokens, c.q_lora_rank),
       dqa = zeros<T>(e, scratch, tokens, c.q_lora_rank);  // [t, qr]
  project_backward(e, dq.reshape(tokens, heads * hd), s.qr, w.wq_b, dqr, dw.wq_b);
  rms_norm_backward(e, dqr, s.qa, w.q_norm, s.qa_r, dqa, dw.q_norm);
  project_backward(e, dqa, x, w.wq_a, dx, dw.wq_a);
  return kl_sum;
}

}  // namespace dsv4::train
