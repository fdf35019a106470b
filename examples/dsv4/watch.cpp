// SPDX-License-Identifier: MIT
#include "watch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <dsv4/attn/sparse_attention.hpp>
#include <dsv4/core/error.hpp>
#include <dsv4/num/round.hpp>

namespace cli {

using dsv4::dtype;
using dsv4::site;
using dsv4::tap_event;
using dsv4::tap_scope;

namespace {

/// each(i, value) for every value of a float site.
template <class F>
void each_number(const tap_event& e, F&& each) {
  const std::size_t n = usize(e.size());
  switch (e.type) {
    case dtype::bf16:
      for (std::size_t i = 0; i < n; ++i) each(i, dsv4::to_float(e.values<dsv4::bf16>()[i]));
      return;
    case dtype::f32:
      for (std::size_t i = 0; i < n; ++i) each(i, e.values<float>()[i]);
      return;
    case dtype::f64:
      for (std::size_t i = 0; i < n; ++i) each(i, e.values<double>()[i]);
      return;
    default: throw dsv4::error(e.name() + ": is of a type that no float site has");
  }
}

void append_floats(const tap_event& e, std::vector<float>& to) {
  const std::size_t at = to.size();
  to.resize(at + usize(e.size()));
  each_number(e, [&](std::size_t i, auto x) { to[at + i] = static_cast<float>(x); });
}

/// How far the k-th largest of a row lies above the next.
double margin_of(std::span<const double> row, index_t k, std::vector<double>& room) {
  if (k >= static_cast<index_t>(row.size())) return std::numeric_limits<double>::infinity();
  room.assign(row.begin(), row.end());
  const auto cut = room.begin() + static_cast<std::ptrdiff_t>(k);
  std::nth_element(room.begin(), cut, room.end(), std::greater<>());
  return *std::min_element(room.begin(), cut) - *cut;
}

}  // namespace

std::vector<double> numbers_of(const tap_event& e) {
  std::vector<double> out(usize(e.size()));
  each_number(e, [&](std::size_t i, auto x) { out[i] = x; });
  return out;
}

std::string name_of(const tap_scope& s) {
  std::string name = s.prefix();
  name.pop_back();  // the dot
  return name;
}

std::pair<index_t, index_t> covered_tokens(index_t ratio, index_t entry) {
  const index_t before = dsv4::kind_of_ratio(ratio) == dsv4::attention_kind::csa ? ratio : 0;
  return {std::max(index_t{0}, entry * ratio - before), (entry + 1) * ratio};
}

void watcher::begin(const tap_event& e) {
  now_ = {};
  now_.scope = e.scope;
  now_.ratio =
      e.scope.where == tap_scope::part::mtp ? c_.mtp_ratio(e.scope.number) : c_.ratio(e.scope.number);
  now_.start = e.start;
  now_.tokens = e.tokens;
}

void watcher::operator()(const tap_event& e) {
  const bool head = e.scope.where == tap_scope::part::head || e.scope.where == tap_scope::part::mtp_head;
  if (head) {
    if (e.where == site::logits && told_.logits)
      told_.logits({e.scope, e.start, e.tokens, c_.vocab_size, numbers_of(e)});
    return;
  }
  if (e.where == site::hc_attn_mixes) begin(e);
  const auto here = std::pair(e.scope.where, e.scope.number);
  switch (e.where) {
    case site::hc_attn_pre: now_.attn.pre = numbers_of(e); break;
    case site::hc_attn_post: now_.attn.post = numbers_of(e); break;
    case site::hc_attn_comb: now_.attn.comb = numbers_of(e); break;
    case site::hc_ffn_pre: now_.ffn.pre = numbers_of(e); break;
    case site::hc_ffn_post: now_.ffn.post = numbers_of(e); break;
    case site::hc_ffn_comb: now_.ffn.comb = numbers_of(e); break;
    case site::attn_q_rope:
      queries_.clear();
      append_floats(e, queries_);
      break;
    case site::attn_kv: append_floats(e, memories_[here].recent); break;
    case site::compressor_entry: append_floats(e, memories_[here].entries); break;
    case site::attn_topk_idxs: attend(e); break;
    case site::gate_biased: {
      const bool from_table = e.scope.where == tap_scope::part::layer && c_.is_hash_layer(e.scope.number);
      const std::vector<double> rows = numbers_of(e);
      std::vector<double> room;
      for (index_t t = 0; t < e.tokens; ++t)
        now_.margins.push_back(
            from_table ? std::numeric_limits<double>::quiet_NaN()
                       : margin_of(std::span(rows).subspan(usize(t * e.shape[1]), usize(e.shape[1])),
                                   c_.num_experts_per_tok, room));
      break;
    }
    case site::gate_indices: {
      const auto found = e.values<std::int32_t>();
      now_.experts.assign(found.begin(), found.end());
      now_.experts_per_token = e.shape[1];
      break;
    }
    case site::gate_weights: now_.weights = numbers_of(e); break;
    case site::out: finish(e); break;
    default: break;
  }
}

const dsv4::tensor<float, 1>& watcher::sinks() const {
  const std::size_t number = usize(now_.scope.number);
  return now_.scope.where == tap_scope::part::mtp ? weights_.mtp[number].block.attn.attn_sink
                                                  : weights_.layers[number].attn.attn_sink;
}

void watcher::attend(const tap_event& e) {
  const memory& m = memories_[{e.scope.where, e.scope.number}];
  const index_t window = c_.sliding_window, heads = c_.num_attention_heads, dims = c_.head_dim,
                slots = e.shape[1];
  const double scale = dsv4::attention_scale(dims);
  const auto numbers = e.values<std::int32_t>();
  const index_t offset = e.start == 0 ? e.tokens : window;  // number_slots in attn/attention.hpp
  now_.chosen = slots - window;
  now_.entries.assign(usize(e.tokens * now_.chosen), -1);
  now_.entry_mass.assign(now_.entries.size(), 0);
  now_.window_mass.assign(usize(e.tokens * window), 0);
  now_.mass.assign(usize(e.tokens), {});
  now_.by_head.assign(usize(e.tokens * heads), {});

  std::vector<const float*> row(usize(slots));
  std::vector<double> score(usize(slots));
  for (index_t t = 0; t < e.tokens; ++t) {
    const index_t position = e.start + t, oldest = std::max(index_t{0}, position - window + 1);
    for (index_t s = 0; s < slots; ++s) {
      const index_t number = numbers[usize(t * slots + s)];
      row[usize(s)] = nullptr;
      if (number < 0) continue;
      if (s < window) {
        row[usize(s)] = m.recent.data() + (oldest + s - m.first) * dims;
      } else {
        const index_t entry = number - offset;
        now_.entries[usize(t * now_.chosen + s - window)] = static_cast<std::int32_t>(entry);
        row[usize(s)] = m.entries.data() + entry * dims;
      }
    }
    for (index_t h = 0; h < heads; ++h) {
      const float* q = queries_.data() + (t * heads + h) * dims;
      const double sink = sinks()[h];
      double most = sink;
      for (index_t s = 0; s < slots; ++s) {
        if (!row[usize(s)]) continue;
        // Four partial sums: the products are exact in double, and the loop is not one chain of additions.
        double part[4] = {};
        const float* k = row[usize(s)];
        for (index_t d = 0; d < dims; ++d) part[d % 4] += double(q[d]) * double(k[d]);
        score[usize(s)] = (part[0] + part[1] + part[2] + part[3]) * scale;
        most = std::max(most, score[usize(s)]);
      }
      double denominator = std::exp(sink - most);
      for (index_t s = 0; s < slots; ++s) {
        if (!row[usize(s)]) continue;
        score[usize(s)] = std::exp(score[usize(s)] - most);
        denominator += score[usize(s)];
      }
      auto& of_head = now_.by_head[usize(t * heads + h)];
      of_head[on_sink] = std::exp(sink - most) / denominator;
      for (index_t s = 0; s < slots; ++s) {
        if (!row[usize(s)]) continue;
        const double share = score[usize(s)] / denominator;
        of_head[s < window ? on_window : on_entries] += share;
        (s < window ? now_.window_mass[usize(t * window + s)]
                    : now_.entry_mass[usize(t * now_.chosen + s - window)]) += share / double(heads);
      }
      for (std::size_t p = 0; p < mass_parts; ++p) now_.mass[usize(t)][p] += of_head[p] / double(heads);
    }
  }
}

void watcher::finish(const tap_event& e) {
  now_.streams = e.shape[1];
  now_.width = e.shape[2];
  append_floats(e, now_.out);
  for (index_t r = 0; r < e.tokens * now_.streams; ++r) {
    double sum = 0;
    for (index_t d = 0; d < now_.width; ++d) {
      const double x = now_.out[usize(r * now_.width + d)];
      sum += x * x;
    }
    now_.stream_rms.push_back(std::sqrt(sum / double(now_.width)));
  }
  // Of the window only its last rows will be seen again.
  memory& m = memories_[{e.scope.where, e.scope.number}];
  const index_t keep_from = std::max(m.first, e.start + e.tokens - c_.sliding_window);
  m.recent.erase(m.recent.begin(),
                 m.recent.begin() + static_cast<std::ptrdiff_t>((keep_from - m.first) * c_.head_dim));
  m.first = keep_from;
  if (told_.block) told_.block(now_);
}

}  // namespace cli
