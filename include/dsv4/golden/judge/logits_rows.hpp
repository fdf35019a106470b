// SPDX-License-Identifier: MIT
#pragma once
/// Compares the test's logits with the golden's, row by row, in both modes.  The numbers are for people and for the
/// curve of the report; in free mode they also decide the verdict.  A row of logits costs five exponentials an
/// element, so rows are compared in parallel; sums are over rows in their order.
#include "free.hpp"

namespace dsv4::golden {

/// One row of each side.
struct logits_row {
  index_t row = 0;
  std::size_t test = 0;  ///< which recording of the test
  logits_point point;
  double dd = 0, sum = 0, squares = 0;
  index_t n = 0;
};

inline void compare_row(logits_row& r, const row_reader& golden, const row_reader& test, index_t next_token) {
  thread_local std::vector<double> a, b;
  golden.read(r.row, b), test.read(r.row, a);
  r.point = compare_logits(a, b, next_token);
  for (std::size_t i = 0; i < b.size(); ++i)
    if (std::isfinite(a[i]) && std::isfinite(b[i]))
      r.dd += (a[i] - b[i]) * (a[i] - b[i]), r.sum += b[i], r.squares += b[i] * b[i], ++r.n;
}

/// Fills result().logits and logits_total; before values are compared freely.
inline void compare_all_logits(verify_ledger& ledger) {
  row_locator locate(ledger.test(), false);
  double dd = 0, sum = 0, squares = 0;
  index_t n = 0;
  for (const tensor_entry& g : ledger.golden().tensors()) {
    if (g.cls != tolerance_class::logits || !ledger.selected(g)) continue;
    const index_t next = g.scope.starts_with("mtp.") ? 2 : 1;  // the MTP module sees one token more
    const auto ids = ledger.golden().ids(g.sequence);
    std::vector<logits_row> rows;
    std::vector<const tensor_entry*> recordings;
    for (index_t row = g.from; row < g.from + g.rows(); ++row) {
      const tensor_entry* t = locate.find(g, row);
      if (!t || t->row_elements() != g.row_elements() || !ledger.selected_row(g, row)) continue;
      if (recordings.empty() || recordings.back() != t) recordings.push_back(t);
      rows.emplace_back().row = row, rows.back().test = recordings.size() - 1;
    }
    if (rows.empty()) continue;
    const row_reader golden(ledger.golden(), g);
    std::vector<row_reader> tests;
    for (const tensor_entry* t : recordings) tests.emplace_back(ledger.test(), *t);
    // A few rows at a time, so that their pages can be released before the next ones are read.
    constexpr std::size_t at_once = 32;
    for (std::size_t from = 0; from < rows.size(); from += at_once) {
      const std::size_t to = std::min(rows.size(), from + at_once);
      tbb::parallel_for(
          from, to,
          [&](std::size_t i) {
            const auto follows = usize(rows[i].row + next);
            compare_row(rows[i], golden, tests[rows[i].test], follows < ids.size() ? ids[follows] : -1);
          },
          tbb::simple_partitioner{});
      golden.passed(rows[to - 1].row), tests[rows[to - 1].test].passed(rows[to - 1].row);
    }
    for (logits_row& r : rows) {
      r.point.name = g.name, r.point.sequence = g.sequence, r.point.position = r.row;
      ledger.add_logits(*recordings[r.test], std::move(r.point));
      dd += r.dd, sum += r.sum, squares += r.squares, n += r.n;
    }
  }
  const double variance = n ? squares / double(n) - (sum / double(n)) * (sum / double(n)) : 0;
  ledger.result().logits_total =
      summary_of(ledger.result().logits, variance > 0 ? dd / double(n) / variance : 0);
}

}  // namespace dsv4::golden
