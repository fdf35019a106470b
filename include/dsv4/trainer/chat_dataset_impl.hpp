// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of chat_dataset.hpp.
#include "../core/config_macros.hpp"
#include "chat_dataset.hpp"

namespace dsv4::trainer {

DSV4_INLINE chat_sample chat_tokens(const text::tokenizer& t, const text::chat_request& request,
                                    learned_answers learn) {
  const text::prompt p = text::encode(request);
  if (p.shared_segment)
    throw format_error(
        "an assistant's message stands beside other words without a special token between them, so that it "
        "has no "
        "tokens of its own: put a user message before it");
  text::prompt_tokens tokens = text::tokens_of(t, p);
  if (learn == learned_answers::last) {
    // All but the last run of answer tokens become context.
    auto end = std::find(tokens.answer.rbegin(), tokens.answer.rend(), std::uint8_t{1});
    end = std::find(end, tokens.answer.rend(), std::uint8_t{0});
    std::fill(end, tokens.answer.rend(), std::uint8_t{0});
  }
  // The first token has nothing before it to be predicted from.
  if (!tokens.answer.empty()) tokens.answer.front() = 0;
  chat_sample s{std::move(tokens.ids), std::move(tokens.answer), 0};
  if (s.learned() == 0) throw format_error("no assistant's message: there is nothing to learn");
  return s;
}

DSV4_INLINE std::vector<chat_sample> read_conversations(const text::tokenizer& t, std::string_view lines,
                                                        const std::string& name, learned_answers learn) {
  std::vector<chat_sample> out;
  index_t number = 0;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    try {
      out.push_back(chat_tokens(t, text::read_request(text::python::loads(line)), learn));
      out.back().line = number;
    } catch (const unsupported& e) {
      throw unsupported(name + ":" + std::to_string(number) + ": " + e.what());
    } catch (const error& e) {
      throw format_error(name + ":" + std::to_string(number) + ": " + e.what());
    }
  }
  if (out.empty()) throw format_error(name + ": no conversations");
  return out;
}

DSV4_INLINE void append_conversation(const chat_sample& s, batch& out) {
  if (out.begins.empty()) out.begins.push_back(0);
  for (index_t i = 0; i < s.size(); ++i) {
    const auto next = usize(i) + 1;
    out.ids.push_back(s.ids[usize(i)]);
    out.targets.push_back(i + 1 < s.size() && s.answer[next] ? s.ids[next] : -1);
  }
  out.begins.push_back(out.tokens());
}

DSV4_INLINE chat_dataset::chat_dataset(std::vector<chat_sample> samples, index_t length, std::uint64_t seed)
    : samples_(std::move(samples)), length_(length), seed_(seed) {
  expects(!samples_.empty(), "chat_dataset: no conversations");
  for (const chat_sample& s : samples_)
    if (s.size() > length_)
      throw format_error("line " + std::to_string(s.line) + ": a conversation of " +
                         std::to_string(s.size()) + " tokens does not fit into a row of " +
                         std::to_string(length_) + " (data.length): make rows longer, or leave it out");
}

DSV4_INLINE batch chat_dataset::next(cursor& at, index_t rows) {
  batch b;
  for (index_t r = 0; r < rows; ++r) {
    if (at.position >= rows_in_epoch(at.epoch)) at = {at.epoch + 1, 0};
    const plan& p = epoch(at.epoch);
    for (index_t i = p.rows[usize(at.position)]; i < p.rows[usize(at.position) + 1]; ++i)
      append_conversation(samples_[usize(p.order[usize(i)])], b);
    ++at.position;
  }
  return b;
}

DSV4_INLINE const chat_dataset::plan& chat_dataset::epoch(index_t e) {
  for (const plan& p : epochs_)
    if (p.number == e) return p;
  plan p{
      e,
      shuffled(static_cast<index_t>(samples_.size()), counter_random(seed_, static_cast<std::uint64_t>(e))),
      {0}};
  index_t used = 0;
  for (index_t i = 0; i < static_cast<index_t>(p.order.size()); ++i) {
    const index_t size = samples_[usize(p.order[usize(i)])].size();
    if (used + size > length_) p.rows.push_back(i), used = 0;
    used += size;
  }
  p.rows.push_back(static_cast<index_t>(p.order.size()));
  if (epochs_.size() == 2) epochs_.pop_front();  // one may be looked ahead to
  return epochs_.emplace_back(std::move(p));
}

}  // namespace dsv4::trainer
