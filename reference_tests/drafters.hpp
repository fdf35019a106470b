// SPDX-License-Identifier: MIT
#pragma once
/// Drafters for tests of gen/speculative.hpp, and models that MTP can predict.
#include <dsv4/gen/speculative.hpp>

#include "random_model.hpp"

namespace dsv4_test {

/// What a drafter that needs no streams has to have beside propose().
template <numerics_policy P>
struct blind_drafter {
  template <class Sequence>
  bool follows(const Sequence&) const {
    return true;
  }
  view<act_t<P>, 3> streams(index_t) { return {}; }
  template <class Sequence>
  void observe(const Sequence&, std::span<const std::int32_t>) {}
  template <class Sequence>
  void catch_up(Sequence&) {}
};

/// Proposes the true text up to a point that changes from call to call, then wrong tokens: every number of
/// accepted drafts comes up.
template <numerics_policy P>
struct oracle_drafter : blind_drafter<P> {
  std::vector<std::int32_t> text;  // by position, prompt and answer
  std::int32_t vocabulary;
  integers random{7};
  index_t always = -1;  // so many right drafts, if not negative

  oracle_drafter(std::vector<std::int32_t> t, index_t v)
      : text(std::move(t)), vocabulary(static_cast<std::int32_t>(v)) {}

  template <class Sequence, class Choose>
  void propose(Sequence& s, std::int32_t, index_t depth, Choose&, draft_list& drafts) {
    const index_t right = always >= 0 ? always : random.below(depth + 1);
    for (index_t j = 0; j < depth; ++j) {
      const auto at = static_cast<std::size_t>(s.length() + 1 + j);
      const std::int32_t truth = at < text.size() ? text[at] : 0;
      const std::int32_t id = j < right ? truth : (truth + 1) % vocabulary;
      drafts.next().assign(id);
      drafts.add(id);
    }
  }
};

/// Draws from distributions of its own, which have nothing to do with the model: its draft j of a call has
/// logits made from (j, token before).
template <numerics_policy P>
struct stranger_drafter : blind_drafter<P> {
  ranking order;
  explicit stranger_drafter(index_t vocabulary) : order(vocabulary) {}

  template <class Sequence, class Choose>
  void propose(Sequence&, std::int32_t next, index_t depth, Choose& choose, draft_list& drafts) {
    for (index_t j = 0; j < depth; ++j) {
      distribution& q = drafts.next();
      integers r{static_cast<std::uint64_t>(100 * j + next)};
      std::vector<double> x(static_cast<std::size_t>(q.size()));
      for (double& v : x) v = 2 * static_cast<double>(r.unit());
      // Draft 1 never proposes one of the tokens: q may be zero where p is not.
      if (j == 0) x[static_cast<std::size_t>(r.below(q.size()))] = -HUGE_VAL;
      q.assign(x, {.temperature = 1}, order);
      next = choose.pick(q);
      drafts.add(next);
    }
  }
};

inline void scale(const weight_matrix& w, float factor) {
  auto* p = reinterpret_cast<float*>(const_cast<std::byte*>(w.data));  // test weights, stored as F32
  for (index_t i = 0; i < w.rows * w.cols; ++i) p[i] *= factor;
}
/// A model whose next token hangs mostly on the last one, and an MTP block that has learned it: blocks add
/// little to the streams, MTP passes the embedding on, and reads it out as the model does.
inline random_model predictable_model(const config& c) {
  random_model r(c, all_f32, 3);
  const float little = 0x1p-7f;
  const auto quiet = [&](block_weights<>& b) {
    scale(b.attn.wo_b, little);
    for (expert_weights<>& e : b.ffn.experts) scale(e.w2, little);
    scale(b.ffn.shared.w2, little);
  };
  for (block_weights<>& b : r.weights.layers) quiet(b);
  mtp_weights<>& m = r.weights.mtp[0];
  quiet(m.block);
  scale(m.h_proj, little);
  scale(m.e_proj, 0);
  auto* identity = reinterpret_cast<float*>(const_cast<std::byte*>(m.e_proj.data));
  for (index_t i = 0; i < c.hidden_size; ++i) identity[i * c.hidden_size + i] = 1;
  for (index_t i = 0; i < c.hidden_size; ++i) m.enorm[i] = 1;
  m.norm = r.weights.norm;
  m.hc_head = r.weights.hc_head;
  return r;
}

}  // namespace dsv4_test
