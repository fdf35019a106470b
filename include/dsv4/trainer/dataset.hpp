// SPDX-License-Identifier: MIT
#pragma once
/// Plain text as packed rows of tokens.
/// @paper{DSV4, section 4.1: documents packed, sample-level attention masks; section 3.4.3: compression restarts per sample}
/// deviates documents are cut where a row ends, not packed for the fewest cuts
///
///   text -> documents -> tokens, one list -> rows of `length` tokens -> batches
///
/// A row is filled from one place of the list on: samples, each a document or the part of one that fits.  The target
/// of a token is the one after it, also where a row cuts a document.  Every held-out token is a target once (without a
/// begin-of-text token the first of a document never is); in training an epoch leaves out what is before its shift,
/// none in the first, and a last row that is shorter.  Each epoch shifts where rows begin and puts them in another
/// order, both functions of (seed, epoch): `cursor` is all there is to remember.
#include <algorithm>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../io/mapped_file.hpp"
#include "../text/tokenizer.hpp"
#include "../train/batch.hpp"
#include "random.hpp"

namespace dsv4::trainer {

using train::batch;

/// Where the tokenizer's begin-of-text token is put.
enum class begin_token {
  sample,    ///< before every sample, as before every prompt; so a model of one long text sees it often, too
  document,  ///< before documents only, not before the later parts of one
  none,
};

struct text_options {
  /// What stands between documents: text itself, or blank-line, form-feed, none (all is one document).
  std::string separator = "none";
  bool keep_separator = true;  ///< it stays at the end of the document before it
  begin_token begin = begin_token::sample;
  bool end_token = false;  ///< documents end with the tokenizer's end-of-text token
};

/// Documents as tokens, one after another.
struct token_list {
  std::vector<std::int32_t> ids;  // [n]
  std::vector<index_t> begins;    // first token of each document, then n
  std::int32_t begin_id = -1;     ///< -1: none
  begin_token begin = begin_token::none;

  index_t size() const { return static_cast<index_t>(ids.size()); }
  index_t documents() const { return static_cast<index_t>(begins.size()) - 1; }
  /// The document that token `at` is in.
  index_t document_of(index_t at) const {
    return std::upper_bound(begins.begin(), begins.end(), at) - begins.begin() - 1;
  }
};

inline std::string_view separator_text(const std::string& name) {
  if (name == "blank-line") return "\n\n";
  if (name == "form-feed") return "\f";
  if (name == "none") return {};
  return name;
}

/// Where the documents of `text` end.
inline std::vector<std::size_t> document_ends(std::string_view text, std::string_view separator) {
  std::vector<std::size_t> ends;
  if (!separator.empty())
    for (std::size_t at = 0; (at = text.find(separator, at)) != text.npos; at += separator.size())
      ends.push_back(at + separator.size());
  if (ends.empty() || ends.back() != text.size()) ends.push_back(text.size());
  return ends;
}

/// @throws format_error a begin or end token is asked for that the tokenizer does not have
inline token_list tokenize_documents(const text::tokenizer& t, std::string_view text, const text_options& o) {
  token_list out;
  if (o.begin != begin_token::none) {
    if (!t.bos()) throw format_error("the tokenizer has no begin-of-text token: set data.begin to \"none\"");
    out.begin_id = *t.bos();
    out.begin = o.begin;
  }
  if (o.end_token && !t.eos())
    throw format_error("the tokenizer has no end-of-text token: set data.end to false");
  const std::string_view separator = separator_text(o.separator);
  std::size_t from = 0;
  for (const std::size_t end : document_ends(text, separator)) {
    std::string_view one = text.substr(from, end - from);
    from = end;
    if (!o.keep_separator && one.ends_with(separator)) one.remove_suffix(separator.size());
    if (one.find_first_not_of(" \t\r\n\f") == one.npos) continue;
    out.begins.push_back(out.size());
    t.encode(one, text::special_tokens::as_text, out.ids);
    if (o.end_token) out.ids.push_back(*t.eos());
  }
  out.begins.push_back(out.size());
  return out;
}

/// Bytes of text that each token id stands for; special tokens stand for none.
inline std::vector<std::int32_t> token_bytes(const text::tokenizer& t) {
  std::vector<std::int32_t> bytes(usize(t.vocab_size()));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto id = static_cast<text::token_id>(i);
    bytes[i] = t.is_special(id) ? 0 : static_cast<std::int32_t>(t.bytes_of(id).size());
  }
  return bytes;
}

/// Adds a row of at most `length` tokens, from token `at` of the list on, to `out`.  @returns where the next row begins
inline index_t append_row(const token_list& list, index_t at, index_t length, batch& out) {
  if (!out.begins.empty()) out.begins.pop_back();  // the end of the batch, which is put back below
  index_t room = length;
  while (room > 0 && at < list.size()) {
    const index_t d = list.document_of(at), first = list.begins[usize(d)], end = list.begins[usize(d) + 1];
    out.begins.push_back(static_cast<index_t>(out.ids.size()));
    if (list.begin == begin_token::sample || (list.begin == begin_token::document && at == first)) {
      // The first token of a document has its loss here; of a later part, at the end of the part before.
      out.ids.push_back(list.begin_id);
      out.targets.push_back(at == first && room > 1 ? list.ids[usize(at)] : -1);
      --room;
    }
    for (; room > 0 && at < end; --room, ++at) {
      out.ids.push_back(list.ids[usize(at)]);
      out.targets.push_back(at + 1 < end ? list.ids[usize(at) + 1] : -1);
    }
  }
  out.begins.push_back(static_cast<index_t>(out.ids.size()));
  return at;
}

/// Where each row begins that covers `list` from token `shift` on.  The last row may be shorter than `length`.
inline std::vector<index_t> row_begins(const token_list& list, index_t length, index_t shift) {
  expects(length >= 2, "row_begins: a row has at least two tokens, got " + std::to_string(length));
  std::vector<index_t> rows;
  batch unused;
  for (index_t at = std::min(shift, list.size()); at < list.size();) {
    rows.push_back(at);
    unused = {};
    at = append_row(list, at, length, unused);
  }
  return rows;
}

/// Which row comes next.
struct cursor {
  index_t epoch = 0, position = 0;
  bool operator==(const cursor&) const = default;
};

/// Batches of rows in a random order that is new in each epoch.
class dataset {
 public:
  /// @throws format_error the text is shorter than one row
  dataset(token_list list, index_t length, std::uint64_t seed, bool shift = true)
      : list_(std::move(list)), length_(length), seed_(seed), shift_(shift) {
    if (list_.size() < length)
      throw format_error("the text has " + std::to_string(list_.size()) +
                         " tokens, expected at least one row of " + std::to_string(length));
  }

  const token_list& tokens() const { return list_; }
  index_t rows_per_epoch() { return static_cast<index_t>(epoch(0).size()); }

  /// The next `rows` rows; `at` moves on, from one epoch into the next where need be.
  batch next(cursor& at, index_t rows) {
    batch b;
    for (index_t r = 0; r < rows; ++r) {
      if (at.position >= static_cast<index_t>(epoch(at.epoch).size())) at = {at.epoch + 1, 0};
      append_row(list_, epoch(at.epoch)[usize(at.position++)], length_, b);
    }
    return b;
  }

 private:
  /// Begins of the rows of an epoch in their order; the last two epochs are kept (one may be looked ahead to).
  const std::vector<index_t>& epoch(index_t e) {
    for (const auto& [number, rows] : epochs_)
      if (number == e) return rows;
    const counter_random random(seed_, static_cast<std::uint64_t>(e));
    // Draw 0 is the shift, the others the order.
    std::vector<index_t> begins = row_begins(
        list_, length_, shift_ && e > 0 ? random.below(0, std::min(length_, list_.size() - length_ + 1)) : 0);
    // A last row that is shorter than the others is left out, unless it is the only one.
    if (begins.size() > 1 && list_.size() - begins.back() < length_) begins.pop_back();
    const std::vector<index_t> order = shuffled(static_cast<index_t>(begins.size()),
                                                counter_random(seed_ + 1, static_cast<std::uint64_t>(e)));
    std::vector<index_t> rows;
    for (const index_t i : order) rows.push_back(begins[usize(i)]);
    if (epochs_.size() == 2) epochs_.pop_front();
    return epochs_.emplace_back(e, std::move(rows)).second;
  }

  token_list list_;
  index_t length_;
  std::uint64_t seed_;
  bool shift_;
  std::list<std::pair<index_t, std::vector<index_t>>> epochs_;
};

/// The rows of the held-out part in order, in batches of `rows`; at most `max_rows` of them, spread evenly (0: all).
inline std::vector<batch> held_out_batches(const token_list& list, index_t length, index_t rows,
                                           index_t max_rows = 0) {
  std::vector<index_t> begins = row_begins(list, length, 0);
  if (const auto n = static_cast<index_t>(begins.size()); max_rows > 0 && max_rows < n) {
    std::vector<index_t> some;
    for (index_t i = 0; i < max_rows; ++i) some.push_back(begins[usize(i * n / max_rows)]);
    begins = std::move(some);
  }
  std::vector<batch> out;
  for (std::size_t i = 0; i < begins.size(); ++i) {
    if (i % usize(rows) == 0) out.emplace_back();
    append_row(list, begins[i], length, out.back());
  }
  return out;
}

/// How often each token id occurs.
inline std::vector<index_t> token_counts(const token_list& list, index_t vocab) {
  std::vector<index_t> counts(usize(vocab));
  for (const std::int32_t id : list.ids) ++counts[usize(id)];
  return counts;
}

}  // namespace dsv4::trainer
