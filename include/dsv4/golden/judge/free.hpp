// SPDX-License-Identifier: MIT
#pragma once
/// Free mode: the test's values against the golden's, recording by recording, by position: the two runs need
/// not have been split into the same calls.  Recordings are compared in parallel; the result does not depend on it.
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "ledger.hpp"

namespace dsv4::golden {

/// Whether two bundles made the same calls, so that recordings correspond one to one.
inline bool same_calls(const bundle& a, const bundle& b) {
  const auto &x = a.about().calls, &y = b.about().calls;
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const call_info& p, const call_info& q) {
    const bool mtp = p.kind == call_kind::mtp, other_mtp = q.kind == call_kind::mtp;
    return p.step == q.step && mtp == other_mtp &&
           std::equal(p.parts.begin(), p.parts.end(), q.parts.begin(), q.parts.end(),
                      [](const call_part& i, const call_part& j) {
                        return i.sequence == j.sequence && i.from == j.from && i.to == j.to;
                      });
  });
}

/// Finds rows of a bundle by name, sequence and position (or entry).
class row_locator {
 public:
  row_locator(const bundle& in, bool by_step) : in_(in), by_step_(by_step) {}

  /// The recording that holds the row that `g` has at `row`; the latest one where there are several.
  const tensor_entry* find(const tensor_entry& g, index_t row) {
    if (by_step_) return in_.find(g.step, g.sequence, g.name);
    if (g.name != name_) name_ = g.name, all_ = in_.find_all(g.name);
    for (auto t = all_.rbegin(); t != all_.rend(); ++t)
      if ((*t)->sequence == g.sequence && first_row(**t) <= row && row < first_row(**t) + (*t)->rows())
        return *t;
    return nullptr;
  }

 private:
  const bundle& in_;
  bool by_step_;
  std::string name_;
  std::vector<const tensor_entry*> all_;
};

/// Rows of one recording, read one after another.  Pages that have been read are released to the system.
class row_reader {
 public:
  row_reader(const bundle& b, const tensor_entry& t) : entry_(&t), data_(b.read(t)) {}
  const tensor_entry& entry() const { return *entry_; }
  std::span<const std::byte> raw(index_t row) const {
    const auto each = usize(entry_->row_elements() * bits_of(entry_->carrier) / 8);
    return data_.bytes().subspan(usize(row - first_row(*entry_)) * each, each);
  }
  void read(index_t row, std::vector<double>& out) const {
    const std::span<const std::byte> r = raw(row);
    out.resize(usize(entry_->row_elements()));
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
        for (std::size_t i = 0; i < out.size(); ++i)
          out[i] = element(entry_->carrier, r.data(), static_cast<index_t>(i));
    }
  }
  /// Releases the pages of the rows before `row`, some at a time.
  void passed(index_t row) const {
    constexpr std::size_t piece = std::size_t{1} << 20;
    const std::size_t end = usize(raw(row).data() - data_.bytes().data());
    if (end < released_ + piece) return;
    shard::release(data_.bytes().data() + released_, end - released_);
    released_ = end;
  }

 private:
  const tensor_entry* entry_;
  tensor_data data_;
  mutable std::size_t released_ = 0;
};

/// Why a row of the test cannot be compared with one of the golden; empty if it can.
inline std::string incomparable_rows(const tensor_entry& g, const tensor_entry& t) {
  const bool integer = g.cls == tolerance_class::choice || g.carrier == dtype::u8 || g.carrier == dtype::i32;
  const bool integer_test = t.carrier == dtype::i32 || t.carrier == dtype::u8 || t.carrier == dtype::i64;
  if (integer != integer_test)
    return verify_ledger::where(t) + ": " + std::string(name_of(t.carrier)) + " in the test, " +
           std::string(name_of(g.carrier)) +
           " in the golden: " + (integer ? "indices must be integers" : "values, not integers, belong here");
  const bool grows = g.site == "attn.indexer.scores" || g.site == "attn.topk_idxs";
  const bool same =
      g.shape.size() == t.shape.size() && std::equal(g.shape.begin() + 1, g.shape.end(), t.shape.begin() + 1);
  if (same || (grows && g.shape.size() == t.shape.size())) return {};
  std::string why = verify_ledger::where(t) + ": shape " + io::shape_text(t.shape) + " in the test, " +
                    io::shape_text(g.shape) + " in the golden";
  if (g.elements() == t.elements())
    why += "; the same number of elements: axes in another order? (axes are " + [&] {
      std::string a;
      for (const std::string& x : g.axes) a += (a.empty() ? "" : ", ") + x;
      return a;
    }() + ")";
  return why;
}

/// The row as choices: experts, or slots in call-independent numbers.
inline std::vector<index_t> choices_of(const tensor_entry& t, std::span<const double> row, index_t position,
                                       index_t window) {
  if (t.site == "attn.topk_idxs") return canonical_slots(row, t.from, t.to - t.from, position, window);
  std::vector<index_t> out;
  for (const double x : row)
    if (x >= 0) out.push_back(static_cast<index_t>(x));
  return out;
}

/// Routing weights of a token in the order of their experts, where the two sides list the same ones differently.
inline void by_expert(verify_ledger& ledger, const tensor_entry& weights, row_locator& in_test, index_t row,
                      std::vector<double>& a, std::vector<double>& b) {
  tensor_entry like = weights;  // becomes the entry of the choice that these weights belong to
  like.site = "ffn.gate.indices";
  like.name = weights.scope + "." + like.site;
  const tensor_entry* g = ledger.golden().find(like.step, like.sequence, like.name);
  const tensor_entry* t = in_test.find(like, row);
  if (!g || !t || g->row_elements() != static_cast<index_t>(b.size()) ||
      t->row_elements() != static_cast<index_t>(a.size()))
    return;
  const auto sorted = [row](const bundle& from, const tensor_entry& choice, std::vector<double>& v) {
    std::vector<double> experts;
    row_reader(from, choice).read(row, experts);
    std::vector<std::pair<double, double>> pairs;
    for (std::size_t i = 0; i < v.size(); ++i) pairs.emplace_back(experts[i], v[i]);
    std::sort(pairs.begin(), pairs.end());
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = pairs[i].second;
  };
  sorted(ledger.golden(), *g, b);
  sorted(ledger.test(), *t, a);
}

/// One recording of the golden against the test's rows.  Recordings do not depend on one another, but for
/// choices: these look at the scores before them, and decide which later rows are tainted.
class free_comparison {
 public:
  free_comparison(verify_ledger& ledger, const tensor_entry& g, bool by_step)
      : ledger_(ledger), g_(g), locate_(ledger.test(), by_step) {}

  /// Reads the ledger and changes nothing in it, so several can run at once; a choice must run alone.
  void run() {
    const row_reader golden(ledger_.golden(), g_);
    std::optional<row_reader> test;
    const index_t end = first_row(g_) + g_.rows();
    for (index_t row = first_row(g_); row < end; ++row) {
      const tensor_entry* t = test && holds(test->entry(), row) ? &test->entry() : locate_.find(g_, row);
      if (!t || !holds(*t, row)) {
        problem_ = verify_ledger::where(g_) + ": row " + std::to_string(row) + " is not in the test";
        break;
      }
      if (!test || t != &test->entry()) {
        problem_ = incomparable_rows(g_, *t);
        if (!problem_.empty()) {
          c_.reset();
          return;
        }
        test.emplace(ledger_.test(), *t);
      }
      if (!c_) {
        std::vector<index_t> row_shape(g_.shape.begin() + (g_.shape.empty() ? 0 : 1), g_.shape.end());
        c_.emplace(result_of(g_), std::move(row_shape), g_.carrier, t->carrier, ledger_.model(),
                   ledger_.context(), g_.axes);
      }
      if (!ledger_.selected_row(g_, row)) continue;
      if (!strict() && ledger_.tainted(g_, row))
        c_->masked();
      else
        compare(row, golden, *test);
      test->passed(row), golden.passed(row);
    }
  }
  /// Enters what was found into the ledger; called in the order of the golden.
  void deliver() {
    if (!problem_.empty()) ledger_.structure(2, std::move(problem_));
    if (c_) ledger_.add(*c_, g_);
  }

 private:
  bool strict() const { return ledger_.result().policy == tolerance_policy::strict; }
  static bool holds(const tensor_entry& t, index_t row) {
    return first_row(t) <= row && row < first_row(t) + t.rows();
  }

  void compare(index_t row, const row_reader& golden, const row_reader& test) {
    const tensor_entry& t = test.entry();
    const auto ra = test.raw(row), rb = golden.raw(row);
    golden.read(row, b_);
    if (c_->is_choice()) {
      test.read(row, a_);
      choose(row, t);
    } else if (t.carrier == g_.carrier && ra.size() == rb.size() &&
               std::memcmp(ra.data(), rb.data(), ra.size()) == 0) {
      c_->equal_values(row, b_);
    } else {
      test.read(row, a_);
      if (!strict() && g_.site == "ffn.gate.weights") by_expert(ledger_, g_, locate_, row, a_, b_);
      c_->values(row, a_, b_, t.carrier == g_.carrier ? ledger_.known_logits(t, row) : nullptr);
    }
  }
  void choose(index_t row, const tensor_entry& t) {
    const index_t window = ledger_.model().sliding_window;
    const auto x = choices_of(t, a_, row, window), y = choices_of(g_, b_, row, window);
    const auto margin = ledger_.golden_margin(g_, row);
    bool legal = false, other_set = false;
    const bool flipped = c_->choices(row, x, y, [&](const choice_difference& d) {
      if (strict()) return false;
      // A choice may differ where its scores moved by more than half the gap; their order alone is free.  A gap
      // of 0 is a tie of the golden's own scores, whether or not the test has recorded any.
      const double moved = std::max(0.0, ledger_.score_error(g_, row));
      other_set = !d.same_set;
      return legal = d.same_set || (margin[0] >= 0 && margin[0] <= 2 * moved);
    });
    // What follows a legal choice is another computation; under quant the choice is judged as a whole, by recall.
    const bool accepted = legal || ledger_.result().policy == tolerance_policy::quant;
    if (accepted && other_set) ledger_.flip(g_, row);
    if (margin[0] >= 0) ledger_.routing_point_of(g_, row, margin[0], flipped, legal);
  }

  verify_ledger& ledger_;
  const tensor_entry& g_;
  row_locator locate_;
  std::optional<tensor_comparison> c_;
  std::string problem_;
  std::vector<double> a_, b_;
};

inline void compare_free(verify_ledger& ledger) {
  const bool by_step = same_calls(ledger.golden(), ledger.test());
  if (!by_step) ledger.note("the runs are split into different calls: values are matched by position");
  row_locator locate(ledger.test(), by_step);
  // Values between two choices are compared in parallel, a limited number at a time: results take memory.
  std::vector<free_comparison> waiting;
  const auto compare_waiting = [&] {
    tbb::parallel_for(
        std::size_t{0}, waiting.size(), [&](std::size_t i) { waiting[i].run(); }, tbb::simple_partitioner{});
    for (free_comparison& c : waiting) c.deliver();
    waiting.clear();
  };
  const auto most_waiting = usize(4 * tbb::this_task_arena::max_concurrency());
  for (const tensor_entry& g : ledger.golden().tensors()) {
    if (g.is_margin()) continue;
    if (!ledger.selected(g)) {
      ++ledger.result().skipped;
      continue;
    }
    const bool choice = g.cls == tolerance_class::choice;
    const bool there = locate.find(g, first_row(g)) != nullptr;
    if (choice || !there || waiting.size() >= most_waiting) compare_waiting();
    if (!there) {
      if (g.rows() > 0) ledger.missing(g);
      continue;
    }
    waiting.emplace_back(ledger, g, by_step);
    if (choice) compare_waiting();
  }
  compare_waiting();
}

}  // namespace dsv4::golden
