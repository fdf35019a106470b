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

std::string_view separator_text(const std::string& name);

/// Where the documents of `text` end.
std::vector<std::size_t> document_ends(std::string_view text, std::string_view separator);

/// @throws format_error a begin or end token is asked for that the tokenizer does not have
token_list tokenize_documents(const text::tokenizer& t, std::string_view text, const text_options& o);

/// Bytes of text that each token id stands for; special tokens stand for none.
std::vector<std::int32_t> token_bytes(const text::tokenizer& t);

/// Adds a row of at most `length` tokens, from token `at` of the list on, to `out`.  @returns where the next row begins
index_t append_row(const token_list& list, index_t at, index_t length, batch& out);

/// Where each row begins that covers `list` from token `shift` on.  The last row may be shorter than `length`.
std::vector<index_t> row_begins(const token_list& list, index_t length, index_t shift);

/// Which row comes next.
struct cursor {
  index_t epoch = 0, position = 0;
  bool operator==(const cursor&) const = default;
};

/// Batches of rows in a random order that is new in each epoch.
class dataset {
 public:
  /// @throws format_error the text is shorter than one row
  dataset(token_list list, index_t length, std::uint64_t seed, bool shift = true);

  const token_list& tokens() const { return list_; }
  index_t rows_per_epoch() { return static_cast<index_t>(epoch(0).size()); }

  /// The next `rows` rows; `at` moves on, from one epoch into the next where need be.
  batch next(cursor& at, index_t rows);

 private:
  /// Begins of the rows of an epoch in their order; the last two epochs are kept (one may be looked ahead to).
  const std::vector<index_t>& epoch(index_t e);

  token_list list_;
  index_t length_;
  std::uint64_t seed_;
  bool shift_;
  std::list<std::pair<index_t, std::vector<index_t>>> epochs_;
};

/// The rows of the held-out part in order, in batches of `rows`; at most `max_rows` of them, spread evenly (0: all).
std::vector<batch> held_out_batches(const token_list& list, index_t length, index_t rows,
                                    index_t max_rows = 0);

/// How often each token id occurs.
std::vector<index_t> token_counts(const token_list& list, index_t vocab);

}  // namespace dsv4::trainer

#if !defined(DSV4_COMPILED)
#include "dataset_impl.hpp"
#endif
