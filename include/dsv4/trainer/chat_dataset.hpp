// SPDX-License-Identifier: MIT
#pragma once
/// Conversations as packed rows of tokens: supervised fine-tuning.
/// @paper{DSV4, section 5.1: specialists begin with supervised fine-tuning}
/// deviates the paper does not say how conversations are packed: here whole ones, in the order of the epoch
///
///   JSON lines -> messages -> prompt (text/chat_encoding.hpp) -> tokens and who wrote them -> rows -> batches
///
/// One conversation a line, in any form that `dsv4 encode` reads (text/chat_message.hpp):
///   {"messages": [{"role": "user", "content": "2+3"}, {"role": "assistant", "content": "5"}], "thinking_mode": "chat"}
/// The loss is on what assistants wrote, from the token after the question's last one to the end-of-sentence token;
/// the rest is read only.  A conversation is a sample of its own: attention does not cross from one into the next.
/// A row is filled with whole conversations until the next does not fit; nothing is cut and nothing is padded.
/// Each epoch has another order, a function of (seed, epoch): `cursor` is all there is to remember.
#include <algorithm>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../text/chat_encoding.hpp"
#include "../text/prompt_ids.hpp"
#include "dataset.hpp"

namespace dsv4::trainer {

/// Which of the assistant's messages are learned.
enum class learned_answers {
  all,
  last,  ///< the earlier ones are context, e.g. where their reasoning is left out
};

/// A conversation as tokens.
struct chat_sample {
  std::vector<std::int32_t> ids;     // [n]
  std::vector<std::uint8_t> answer;  // [n] 1: this token is learned
  index_t line = 0;                  ///< of the file, for messages; from 1

  index_t size() const { return static_cast<index_t>(ids.size()); }
  index_t learned() const { return std::count(answer.begin(), answer.end(), std::uint8_t{1}); }
};

/// Tokens of one conversation.
/// @throws text::refused, unsupported  what the encoder refuses
/// @throws format_error  no assistant's message, or one that no question stands before
chat_sample chat_tokens(const text::tokenizer& t, const text::chat_request& request,
                        learned_answers learn = learned_answers::all);

/// A file of conversations, a JSON value a line; empty lines are passed over.  `name`: of the file, for messages.
/// @throws format_error  the file, the line, and what is wrong with it; nothing is left out silently
std::vector<chat_sample> read_conversations(const text::tokenizer& t, std::string_view lines,
                                            const std::string& name,
                                            learned_answers learn = learned_answers::all);

/// Adds a conversation to a batch.
void append_conversation(const chat_sample& s, batch& out);

/// Batches of rows of whole conversations, in an order that is new in each epoch.
class chat_dataset {
 public:
  /// @throws format_error a conversation is longer than a row: its line, both lengths
  chat_dataset(std::vector<chat_sample> samples, index_t length, std::uint64_t seed);

  const std::vector<chat_sample>& samples() const { return samples_; }
  /// Rows differ in number from epoch to epoch, as their order does.
  index_t rows_in_epoch(index_t e) { return static_cast<index_t>(epoch(e).rows.size()) - 1; }

  /// The next `rows` rows; `at` moves on, from one epoch into the next where need be.
  batch next(cursor& at, index_t rows);

 private:
  /// An epoch: conversations in their order, and where in it each row begins, then its end.
  struct plan {
    index_t number;
    std::vector<index_t> order, rows;
  };

  const plan& epoch(index_t e);

  std::vector<chat_sample> samples_;
  index_t length_;
  std::uint64_t seed_;
  std::list<plan> epochs_;
};

}  // namespace dsv4::trainer

#if !defined(DSV4_COMPILED)
#include "chat_dataset_impl.hpp"
#endif
