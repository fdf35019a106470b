// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of dataset.hpp.
#include "../core/config_macros.hpp"
#include "dataset.hpp"

namespace dsv4::trainer {

DSV4_INLINE std::string_view separator_text(const std::string& name) {
  if (name == "blank-line") return "\n\n";
  if (name == "form-feed") return "\f";
  if (name == "none") return {};
  return name;
}

DSV4_INLINE std::vector<std::size_t> document_ends(std::string_view text, std::string_view separator) {
  std::vector<std::size_t> ends;
  if (!separator.empty())
    for (std::size_t at = 0; (at = text.find(separator, at)) != text.npos; at += separator.size())
      ends.push_back(at + separator.size());
  if (ends.empty() || ends.back() != text.size()) ends.push_back(text.size());
  return ends;
}

DSV4_INLINE token_list tokenize_documents(const text::tokenizer& t, std::string_view text,
                                          const text_options& o) {
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

DSV4_INLINE std::vector<std::int32_t> token_bytes(const text::tokenizer& t) {
  std::vector<std::int32_t> bytes(usize(t.vocab_size()));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto id = static_cast<text::token_id>(i);
    bytes[i] = t.is_special(id) ? 0 : static_cast<std::int32_t>(t.bytes_of(id).size());
  }
  return bytes;
}

DSV4_INLINE index_t append_row(const token_list& list, index_t at, index_t length, batch& out) {
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

DSV4_INLINE std::vector<index_t> row_begins(const token_list& list, index_t length, index_t shift) {
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

DSV4_INLINE dataset::dataset(token_list list, index_t length, std::uint64_t seed, bool shift)
    : list_(std::move(list)), length_(length), seed_(seed), shift_(shift) {
  if (list_.size() < length)
    throw format_error("the text has " + std::to_string(list_.size()) +
                       " tokens, expected at least one row of " + std::to_string(length));
}

DSV4_INLINE batch dataset::next(cursor& at, index_t rows) {
  batch b;
  for (index_t r = 0; r < rows; ++r) {
    if (at.position >= static_cast<index_t>(epoch(at.epoch).size())) at = {at.epoch + 1, 0};
    append_row(list_, epoch(at.epoch)[usize(at.position++)], length_, b);
  }
  return b;
}

DSV4_INLINE const std::vector<index_t>& dataset::epoch(index_t e) {
  for (const auto& [number, rows] : epochs_)
    if (number == e) return rows;
  const counter_random random(seed_, static_cast<std::uint64_t>(e));
  // Draw 0 is the shift, the others the order.
  std::vector<index_t> begins = row_begins(
      list_, length_, shift_ && e > 0 ? random.below(0, std::min(length_, list_.size() - length_ + 1)) : 0);
  // A last row that is shorter than the others is left out, unless it is the only one.
  if (begins.size() > 1 && list_.size() - begins.back() < length_) begins.pop_back();
  const std::vector<index_t> order =
      shuffled(static_cast<index_t>(begins.size()), counter_random(seed_ + 1, static_cast<std::uint64_t>(e)));
  std::vector<index_t> rows;
  for (const index_t i : order) rows.push_back(begins[usize(i)]);
  if (epochs_.size() == 2) epochs_.pop_front();
  return epochs_.emplace_back(e, std::move(rows)).second;
}

DSV4_INLINE std::vector<batch> held_out_batches(const token_list& list, index_t length, index_t rows,
                                                index_t max_rows) {
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

DSV4_INLINE std::vector<index_t> token_counts(const token_list& list, index_t vocab) {
  std::vector<index_t> counts(usize(vocab));
  for (const std::int32_t id : list.ids) ++counts[usize(id)];
  return counts;
}

}  // namespace dsv4::trainer
