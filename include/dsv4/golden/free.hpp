// SPDX-License-Identifier: MIT
#pragma once
/// Free mode: the test's values against the golden's, recording by recording, by position: the two runs need
/// not have been split into the same calls.
#include "walk.hpp"

namespace dsv4::golden {

/// Whether two bundles made the same calls, so that recordings correspond one to one.
inline bool same_calls(const bundle& a, const bundle& b) {
  const auto &x = a.about().calls, &y = b.about().calls;
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const call_info& p, const call_info& q) {
    const bool mtp = p.kind == call_kind::mtp, other_mtp = q.kind == call_kind::mtp;
    return p.step == q.step && mtp == other_mtp &&
           std::equal(p.parts.begin(), p.parts.end(), q.parts.begin(), q.parts.end(), [](const call_part& i, const call_part& j) {
             return i.sequence == j.sequence && i.from == j.from && i.to == j.to;
           });
  });
}

/// Finds rows of a bundle by name, sequence and position (or entry).
class row_locator {
 public:
  row_locator(const bundle& in, bool by_step) : in_(in), by_step_(by_step) {}

  /// The recording that holds the row that `g` has at `row`; the latest one where there are several.
  const tensor_entry* find(const tensor_entry& g, index row) {
    if (by_step_) return in_.find(g.step, g.sequence, g.name);
    if (g.name != name_) name_ = g.name, all_ = in_.find_all(g.name);
    for (auto t = all_.rbegin(); t != all_.rend(); ++t)
      if ((*t)->sequence == g.sequence && first_row(**t) <= row && row < first_row(**t) + (*t)->rows()) return *t;
    return nullptr;
  }

 private:
  const bundle& in_;
  bool by_step_;
  std::string name_;
  std::vector<const tensor_entry*> all_;
};

/// Rows of one recording, read one after another; pages behind are given back.
class row_reader {
 public:
  row_reader(const bundle& b, const tensor_entry& t) : entry_(&t), data_(b.read(t)) {}
  const tensor_entry& entry() const { return *entry_; }
  std::span<const std::byte> raw(index row) const {
    const auto each = static_cast<std::size_t>(entry_->row_elements() * bits_of(entry_->carrier) / 8);
    return data_.bytes().subspan(static_cast<std::size_t>(row - first_row(*entry_)) * each, each);
  }
  void read(index row, std::vector<double>& out) const {
    const std::span<const std::byte> r = raw(row);
    out.resize(static_cast<std::size_t>(entry_->row_elements()));
    const auto each = [&]<class T>(T v) {
      for (std::size_t i = 0; i < out.size(); ++i) {
        std::memcpy(&v, r.data() + i * sizeof v, sizeof v);
        if constexpr (std::is_same_v<T, std::uint16_t>)
          out[i] = to_double(bf16{v});
        else
          out[i] = static_cast<double>(v);
      }
    };
    switch (entry_->carrier) {
      case dtype::bf16: each(std::uint16_t{}); break;
      case dtype::f32: each(0.0f); break;
      case dtype::f64: each(0.0); break;
      case dtype::i32: each(std::int32_t{}); break;
      default:
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = element(entry_->carrier, r.data(), static_cast<index>(i));
    }
  }
  /// Gives back the pages of rows before `row`, in pieces.
  void passed(index row) {
    constexpr std::size_t piece = std::size_t{1} << 22;
    const std::size_t end = static_cast<std::size_t>(raw(row).data() - data_.bytes().data());
    if (end < released_ + piece) return;
    shard::release(data_.bytes().data() + released_, end - released_);
    released_ = end;
  }

 private:
  const tensor_entry* entry_;
  tensor_data data_;
  std::size_t released_ = 0;
};

/// Whether a row of the test can be held against one of the golden; false after a structural problem.
inline bool comparable_rows(verify_walk& w, const tensor_entry& g, const tensor_entry& t) {
  const bool integer = g.cls == tolerance_class::choice || g.carrier == dtype::u8 || g.carrier == dtype::i32;
  const bool integer_test = t.carrier == dtype::i32 || t.carrier == dtype::u8 || t.carrier == dtype::i64;
  if (integer != integer_test) {
    w.structure(2, verify_walk::where(t) + ": " + std::string(name_of(t.carrier)) + " in the test, " + std::string(name_of(g.carrier)) +
                       " in the golden: " + (integer ? "indices must be integers" : "values, not integers, belong here"));
    return false;
  }
  const bool grows = g.site == "attn.indexer.scores" || g.site == "attn.topk_idxs";
  const bool same = g.shape.size() == t.shape.size() && std::equal(g.shape.begin() + 1, g.shape.end(), t.shape.begin() + 1);
  if (same || (grows && g.shape.size() == t.shape.size())) return true;
  std::string why = verify_walk::where(t) + ": shape " + io::shape_text(t.shape) + " in the test, " + io::shape_text(g.shape) + " in the golden";
  if (g.elements() == t.elements()) why += "; the same number of elements: axes in another order? (axes are " + [&] {
    std::string a;
    for (const std::string& x : g.axes) a += (a.empty() ? "" : ", ") + x;
    return a;
  }() + ")";
  w.structure(2, why);
  return false;
}

/// The row as choices: experts, or slots in call-independent numbers.
inline std::vector<index> choices_of(const tensor_entry& t, std::span<const double> row, index position, index window) {
  if (t.site == "attn.topk_idxs") return canonical_slots(row, t.from, t.to - t.from, position, window);
  std::vector<index> out;
  for (const double x : row)
    if (x >= 0) out.push_back(static_cast<index>(x));
  return out;
}

/// Routing weights of a token in the order of their experts, where the two sides list the same ones differently.
inline void by_expert(verify_walk& w, const tensor_entry& weights, row_locator& in_test, index row, std::vector<double>& a,
                      std::vector<double>& b) {
  tensor_entry like = weights;  // where the choice lies that these weights belong to
  like.site = "ffn.gate.indices";
  like.name = weights.scope + "." + like.site;
  const tensor_entry* g = w.golden().find(like.step, like.sequence, like.name);
  const tensor_entry* t = in_test.find(like, row);
  if (!g || !t || g->row_elements() != static_cast<index>(b.size()) || t->row_elements() != static_cast<index>(a.size())) return;
  const auto sorted = [row](const bundle& from, const tensor_entry& choice, std::vector<double>& v) {
    std::vector<double> experts;
    row_reader(from, choice).read(row, experts);
    std::vector<std::pair<double, double>> pairs;
    for (std::size_t i = 0; i < v.size(); ++i) pairs.emplace_back(experts[i], v[i]);
    std::sort(pairs.begin(), pairs.end());
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = pairs[i].second;
  };
  sorted(w.golden(), *g, b);
  sorted(w.test(), *t, a);
}

inline void compare_free(verify_walk& w) {
  const bool by_step = same_calls(w.golden(), w.test());
  if (!by_step) w.note("the runs are split into different calls: values are matched by position");
  row_locator locate(w.test(), by_step);
  const bool strict = w.result().policy == tolerance_policy::strict;
  std::vector<double> a, b;
  for (const tensor_entry& g : w.golden().tensors()) {
    if (g.is_margin()) continue;
    if (!w.selected(g)) {
      ++w.result().skipped;
      continue;
    }
    if (!locate.find(g, first_row(g))) {
      if (g.rows() > 0) w.missing(g);
      continue;
    }
    const row_reader golden(w.golden(), g);
    std::optional<row_reader> test;
    std::optional<tensor_comparison> c;
    bool ok = true;
    for (index row = first_row(g); ok && row < first_row(g) + g.rows(); ++row) {
      const tensor_entry* t = test && first_row(test->entry()) <= row && row < first_row(test->entry()) + test->entry().rows()
                                  ? &test->entry()
                                  : locate.find(g, row);
      if (!t || row < first_row(*t) || row >= first_row(*t) + t->rows()) {
        w.structure(2, verify_walk::where(g) + ": row " + std::to_string(row) + " is not in the test");
        break;
      }
      if (!test || t != &test->entry()) {
        if (!comparable_rows(w, g, *t)) {
          ok = false;
          break;
        }
        test.emplace(w.test(), *t);
      }
      if (!c) {
        std::vector<index> row_shape(g.shape.begin() + (g.shape.empty() ? 0 : 1), g.shape.end());
        c.emplace(result_of(g), std::move(row_shape), g.carrier, t->carrier, w.model(), w.context(), g.axes);
      }
      if (!w.selected_row(g, row)) continue;
      if (!strict && w.tainted(g, row)) {
        c->masked();
        continue;
      }
      const auto ra = test->raw(row), rb = golden.raw(row);
      golden.read(row, b);
      if (c->is_choice()) {
        test->read(row, a);
        const index window = w.model().sliding_window;
        const auto x = choices_of(*t, a, row, window), y = choices_of(g, b, row, window);
        const auto margin = w.golden_margin(g, row);
        bool legal = false, other_set = false;
        const bool flipped = c->choices(row, x, y, [&](const choice_difference& d) {
          if (strict) return false;
          // A choice may differ where its scores moved by more than half the gap; their order alone is free.
          const double moved = w.score_error(g, row);
          other_set = !d.same_set;
          return legal = d.same_set || (moved >= 0 && margin[0] >= 0 && margin[0] <= 2 * moved);
        });
        if (legal && other_set) w.flip(g, row);
        if (margin[0] >= 0) w.routing_point_of(g, row, margin[0], flipped, legal);
      } else if (t->carrier == g.carrier && ra.size() == rb.size() && std::memcmp(ra.data(), rb.data(), ra.size()) == 0) {
        c->equal_values(row, b);
      } else {
        test->read(row, a);
        if (!strict && g.site == "ffn.gate.weights") by_expert(w, g, locate, row, a, b);
        c->values(row, a, b);
      }
      test->passed(row);
    }
    if (c && ok) w.add(*c, g);
  }
}

/// Logits of the test against the golden's, whatever the mode: for people, and for the report's curve.
inline void compare_all_logits(verify_walk& w) {
  row_locator locate(w.test(), false);
  std::vector<double> a, b;
  double dd = 0, sum = 0, squares = 0;
  index n = 0;
  for (const tensor_entry& g : w.golden().tensors()) {
    if (g.cls != tolerance_class::logits || !w.selected(g)) continue;
    const bool mtp = g.scope.starts_with("mtp.");
    const auto ids = w.golden().ids(g.sequence);
    const row_reader golden(w.golden(), g);
    std::optional<row_reader> test;
    for (index row = g.from; row < g.from + g.rows(); ++row) {
      const tensor_entry* t = locate.find(g, row);
      if (!t || t->row_elements() != g.row_elements() || !w.selected_row(g, row)) continue;
      if (!test || t != &test->entry()) test.emplace(w.test(), *t);
      golden.read(row, b), test->read(row, a);
      const std::size_t next = static_cast<std::size_t>(row + 1 + mtp);
      logits_point p = compare_logits(a, b, next < ids.size() ? ids[next] : -1);
      p.name = g.name, p.sequence = g.sequence, p.position = row;
      w.result().logits.push_back(std::move(p));
      for (std::size_t i = 0; i < b.size(); ++i)
        if (std::isfinite(a[i]) && std::isfinite(b[i])) dd += (a[i] - b[i]) * (a[i] - b[i]), sum += b[i], squares += b[i] * b[i], ++n;
      test->passed(row);
    }
  }
  const double variance = n ? squares / double(n) - (sum / double(n)) * (sum / double(n)) : 0;
  w.result().logits_total = summary_of(w.result().logits, variance > 0 ? dd / double(n) / variance : 0);
}

}  // namespace dsv4::golden
