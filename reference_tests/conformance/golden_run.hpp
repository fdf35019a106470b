// SPDX-License-Identifier: MIT
#pragma once
/// Runs a model on the tokens of a golden bundle and compares every tap with the stored one, whatever
/// the chunk lengths: a value is identified by site and position (or entry), not by the call that made it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/safetensors.hpp>
#include <dsv4/model/transformer.hpp>
#include "data.hpp"

namespace conformance {

using namespace dsv4;
using dsv4::index_t;

/// One of golden/official: the checkpoint, its taps, and the calls that made them.
struct bundle {
  io::checkpoint checkpoint;
  io::safetensors taps;
  std::vector<std::int32_t> ids;
  index_t prefill = 0;          // tokens of the prefill call
  std::vector<index_t> decode;  // positions of the single-token calls

  static bundle open(const std::filesystem::path& dir) {
    bundle b{io::checkpoint::open(dir), io::safetensors::open(dir / "taps.safetensors.zst"), {}, 0, {}};
    const auto& t = b.taps.at("input_ids");
    const auto* p = reinterpret_cast<const std::byte*>(t.data);
    b.ids.resize(static_cast<std::size_t>(t.elements));
    std::memcpy(b.ids.data(), p, t.bytes);
    std::map<index_t, int> steps;
    for (const auto& info : b.taps.tensors())
      if (info.name.starts_with("decode")) steps[std::stoll(info.name.substr(6, 5))] = 1;
    for (const auto& [p0, one] : steps) b.decode.push_back(p0);
    b.prefill = b.decode.front();
    return b;
  }
  const config& c() const { return checkpoint.configuration(); }
};

/// Element i of a stored tap as a double (exact for bf16, f64, i32).
inline double element(const io::tensor_info& t, index_t i) {
  switch (t.type) {
    case dtype::bf16: {
      std::uint16_t v;
      std::memcpy(&v, t.data + 2 * i, 2);
      return to_double(bf16{v});
    }
    case dtype::f32: {
      float v;
      std::memcpy(&v, t.data + 4 * i, 4);
      return v;
    }
    case dtype::f64: {
      double v;
      std::memcpy(&v, t.data + 8 * i, 8);
      return v;
    }
    default: {
      std::int32_t v;
      std::memcpy(&v, t.data + 4 * i, 4);
      return v;
    }
  }
}
inline double element(const tap_event& e, index_t i) {
  switch (e.type) {
    case dtype::bf16: return to_double(e.values<bf16>()[static_cast<std::size_t>(i)]);
    case dtype::f32: return e.values<float>()[static_cast<std::size_t>(i)];
    case dtype::f64: return e.values<double>()[static_cast<std::size_t>(i)];
    default: return e.values<std::int32_t>()[static_cast<std::size_t>(i)];
  }
}

/// Observer that compares what it sees of sequence 0 with the bundle.
class comparer {
 public:
  static constexpr bool on = true;

  /// wide_tolerance: of float taps, relative to the largest magnitude of the tap.
  comparer(const bundle& b, double wide_tolerance) : b_(b), tolerance_(wide_tolerance) {}

  index_t compared = 0, values = 0;
  std::vector<std::string> failures;  // in the order of execution
  index_t only_sequence = 0;

  void operator()(const tap_event& e) {
    if (e.sequence != only_sequence) return;
    const bool mtp = e.scope.where == tap_scope::part::mtp || e.scope.where == tap_scope::part::mtp_head;
    const std::string name =
        e.scope.where == tap_scope::part::mtp_head ? "head." + std::string(info(e.where).name) : e.name();
    if (info(e.where).axes.starts_with("c ")) return entries(e, name);
    for (index_t t = 0; t < e.tokens; ++t) row(e, mtp, name, t);
  }

 private:
  /// The stored tap that holds position p, and the row of p in it.
  const io::tensor_info* find(const std::string& name, bool mtp, index_t p, index_t& row) const {
    row = 0;
    if (mtp) {
      row = p;
      return p < b_.prefill ? b_.taps.find("prefill_mtp/" + name) : nullptr;
    }
    if (p < b_.prefill) {
      row = p;
      return b_.taps.find("prefill/" + name);
    }
    char call[32];
    std::snprintf(call, sizeof call, "decode%05lld/", static_cast<long long>(p));
    return b_.taps.find(call + name);
  }
  /// Elements of one row, and of the tap in all: shapes are [1, t, ...] or [t, ...].
  static index_t width(const io::tensor_info& t, index_t tokens) { return t.elements / tokens; }

  void row(const tap_event& e, bool mtp, const std::string& name, index_t t) {
    const index_t p = e.start + t;
    index_t at;
    const io::tensor_info* g = find(name, mtp, p, at);
    if (!g) return;
    const index_t tokens = mtp || p < b_.prefill ? b_.prefill : 1, n = width(*g, tokens),
                  own = e.size() / e.tokens;
    ++compared;
    if (e.where == site::attn_topk_idxs) return slots(e, *g, name, t, at, n, own, tokens);
    if (e.where == site::indexer_scores) {
      compare(name, p, e, t * own, *g, at * n, std::min(n, own));
    } else if (n != own) {
      fail(name, p, "width " + std::to_string(own) + ", golden " + std::to_string(n));
    } else {
      compare(name, p, e, t * own, *g, at * n, n);
    }
  }
  void entries(const tap_event& e, const std::string& name) {
    const index_t ratio = b_.c().ratio(e.scope.number), from = e.start / ratio, count = e.shape[0],
                  d = e.shape[1];
    for (index_t i = 0; i < count; ++i) {
      const index_t closes = (from + i + 1) * ratio - 1;  // position of the entry's last token
      index_t at;
      const io::tensor_info* g = find(name, false, closes, at);
      if (!g) continue;
      ++compared;
      compare(name, closes, e, i * d, *g, closes < b_.prefill ? (from + i) * d : 0, d);
    }
  }
  /// Slots as (position) or (entry + 2^30), empty ones dropped.
  std::vector<index_t> canonical(index_t start, index_t tokens, index_t p, index_t n, auto value) const {
    constexpr index_t entry0 = index_t{1} << 30;
    const index_t w = b_.c().sliding_window;
    std::vector<index_t> r;
    for (index_t s = 0; s < n; ++s) {
      const index_t v = value(s);
      if (v < 0) continue;
      if (start == 0)
        r.push_back(v < tokens ? v : entry0 + v - tokens);
      else
        r.push_back(v < w ? p - ((p - v) % w + w) % w : entry0 + v - w);
    }
    return r;
  }
  void slots(const tap_event& e, const io::tensor_info& g, const std::string& name, index_t t, index_t at,
             index_t n, index_t own, index_t tokens) {
    const index_t p = e.start + t;
    const auto a =
        canonical(e.start, e.tokens, p, own, [&](index_t s) { return index_t(element(e, t * own + s)); });
    const auto b = canonical(tokens == 1 && p > 0 ? p : 0, tokens, p, n,
                             [&](index_t s) { return index_t(element(g, at * n + s)); });
    values += n;
    if (a != b) fail(name, p, "other slots");
  }
  void compare(const std::string& name, index_t p, const tap_event& e, index_t i0, const io::tensor_info& g,
               index_t j0, index_t n) {
    const bool exact = g.type == dtype::bf16 || g.type == dtype::i32;
    double largest = 0, worst = 0;
    index_t where = 0, different = 0;
    if (!exact) {
      const auto found = largest_.find(g.data);
      if (found != largest_.end()) {
        largest = found->second;
      } else {
        for (index_t i = 0; i < g.elements; ++i) largest = std::max(largest, std::fabs(element(g, i)));
        largest_[g.data] = largest;
      }
    }
    for (index_t i = 0; i < n; ++i) {
      const double x = element(e, i0 + i), y = element(g, j0 + i);
      // Bits, not values: -0 is not 0.
      const bool same = x == y && std::signbit(x) == std::signbit(y);
      if (exact ? !same : !(std::fabs(x - y) <= tolerance_ * largest)) ++different;
      if (std::fabs(x - y) > worst || x != x) worst = std::fabs(x - y), where = i;
    }
    values += n;
    if (different)
      fail(name, p,
           std::to_string(different) + " of " + std::to_string(n) + " values differ, worst at " +
               std::to_string(where) + ": " + std::to_string(element(e, i0 + where)) + ", golden " +
               std::to_string(element(g, j0 + where)));
  }
  void fail(const std::string& name, index_t p, const std::string& what) {
    if (failures.size() < 20) failures.push_back(name + " at position " + std::to_string(p) + ": " + what);
  }

  const bundle& b_;
  double tolerance_;
  std::map<const std::byte*, double> largest_;
};

/// Runs all tokens of the bundle: the prefill in chunks (the last length repeats), then single tokens;
/// MTP over the prefill's streams in the same chunks.
template <numerics_policy P, execution E, observer Tap>
void run(const bundle& b, std::vector<index_t> chunks, Tap& compare, E e = {}) {
  using model = transformer<P, E>;
  model m(b.c(), b.checkpoint.weights(), e);
  auto s = m.new_sequence(static_cast<index_t>(b.ids.size()));
  const index_t vocab = b.c().vocab_size, n = b.c().hc_mult, d = b.c().hidden_size;
  tensor<wide_t<E>, 2, mem_of<E>> logits(b.prefill, vocab);
  tensor<act_t<P>, 3, mem_of<E>> streams(b.prefill, n, d);
  const std::span<const std::int32_t> ids(b.ids);
  std::size_t chunk = 0;
  for (index_t p = 0; p < b.prefill;) {
    const index_t t = std::min(chunks[std::min(chunk++, chunks.size() - 1)], b.prefill - p);
    const typename model::input in{&s, ids.subspan(std::size_t(p), std::size_t(t))};
    m.forward(std::span(&in, 1), {logits.all().rows(p, p + t), {}, streams.all().rows(p, p + t)}, compare);
    if (m.has_mtp()) {
      const typename model::mtp_input_rows pair{&s, ids.subspan(std::size_t(p + 1), std::size_t(t)),
                                                streams.all().rows(p, p + t)};
      m.forward_mtp(std::span(&pair, 1), logits.all().rows(p, p + t), compare);
    }
    p += t;
  }
  for (const index_t p : b.decode)
    m.forward(s, ids.subspan(std::size_t(p), 1), logits.all().rows(0, 1), compare);
}

/// The bundle's sequence as number 1 of a batch of three: the others have other tokens and lengths, and
/// all advance together, `chunk` tokens a call.
template <numerics_policy P, execution E>
void run_in_batch(const bundle& b, index_t chunk, comparer& compare, E e = {}) {
  using model = transformer<P, E>;
  model m(b.c(), b.checkpoint.weights(), e);
  const auto n = static_cast<index_t>(b.ids.size());
  std::vector<std::int32_t> reversed(b.ids.rbegin(), b.ids.rend());
  auto before = m.new_sequence(2 * n), own = m.new_sequence(n), after = m.new_sequence(n);
  const std::span<const std::int32_t> ids(b.ids), other(reversed);
  // The first has a head start of seven tokens.
  const typename model::input head_start{&before, other.first(7)};
  m.forward(std::span(&head_start, 1), {});
  compare.only_sequence = 1;
  tensor<wide_t<E>, 2, mem_of<E>> logits(3 * chunk, b.c().vocab_size);
  for (index_t p = 0; p < n; p += chunk) {
    const index_t t = std::min(chunk, n - p), a = std::max(index_t{1}, t - 2),
                  z = std::max(index_t{1}, t / 2);
    const auto part = [](std::span<const std::int32_t> s, index_t from, index_t count) {
      return s.subspan(std::size_t(from), std::size_t(count));
    };
    const typename model::input batch[] = {
        {&before, part(other, p * 6 / 7, a)}, {&own, part(ids, p, t)}, {&after, part(other, p / 2, z)}};
    m.forward(batch, {logits.all().rows(0, a + t + z), {}}, compare);
  }
}

}  // namespace conformance
