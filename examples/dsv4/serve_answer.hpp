// SPDX-License-Identifier: MIT
#pragma once
/// Tokens of one answer, as they come, to its parts: reasoning, content, calls (text/stream_parser.hpp).
///
/// - A stop text counts in the content; the answer ends before it.
/// - Special tokens that have no place in an answer are left out of it.
/// - What the parser refuses (a call that is not written as calls are) ends the answer there; ending::malformed says why.
///   The call that is not complete counts for nothing.
/// - A character that the end of the answer cuts becomes U+FFFD.
#include <string>
#include <utility>
#include <vector>

#include <dsv4/gen/stop_reason.hpp>
#include <dsv4/text/stream_parser.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "serve_protocol.hpp"
#include "stop_texts.hpp"

namespace cli::serving {

class answer_reader : private text::answer_sink {
 public:
  answer_reader(const served_model& m, const answer_request& r)
      : model_(&m),
        chat_(r.chat),
        thinking_(r.chat && r.mode == text::thinking_mode::thinking),
        words_(m.tokenizer),
        stops_(r.stop),
        texts_(r.stop),
        parser_(r.mode) {}

  /// @returns whether more is wanted
  bool token(std::int32_t id) {
    if (over_) return false;
    ++tokens_;
    const bool end = is_stop(id);
    in_reasoning_ = thinking_;
    if (thinking_) ++reasoning_tokens_;
    if (id == model_->think_end) thinking_ = false;
    if (end) return !over_;
    if (model_->tokenizer.is_special(id) && id != model_->think_end && id != model_->dsml) return true;
    feed(words_.push(id));
    return !over_;
  }
  /// The model has ended the answer, unless it was over before.
  void end(dsv4::stop_reason why) {
    if (over_) return;
    feed(words_.finish());
    if (over_) return;
    if (!chat_) {
      add(part::content, stops_.finish());
    } else {
      const bool whole = why == dsv4::stop_reason::stop_id;
      try {
        if (whole) parser_.feed(text::eos_token, *this);
        parser_.finish(*this);
      } catch (const text::refused& e) {
        // A text that is cut off is not complete, and neither is reasoning that the model itself breaks off.
        if (whole && !thinking_) ending_.malformed = e.what();
      }
      if (!over_) add(part::content, stops_.finish());
    }
    if (over_) return;
    over_ = true;
    ending_.why = why == dsv4::stop_reason::length ? ending::length
                  : calls_ > 0                     ? ending::calls
                                                   : ending::stop;
  }

  bool over() const { return over_; }
  const ending& how() const { return ending_; }
  index_t tokens() const { return tokens_; }
  index_t reasoning_tokens() const { return reasoning_tokens_; }
  /// Whether the last token belonged to the reasoning.
  bool in_reasoning() const { return in_reasoning_; }
  /// What has come since the last call of this.
  std::vector<part> take() { return std::exchange(parts_, {}); }

 private:
  bool is_stop(std::int32_t id) const {
    return std::find(model_->stop_ids.begin(), model_->stop_ids.end(), id) != model_->stop_ids.end();
  }
  void add(part::kind what, std::string words) {
    if (words.empty() && what != part::call && what != part::call_end) return;
    const bool joins = what == part::reasoning || what == part::content || what == part::arguments;
    if (joins && !parts_.empty() && parts_.back().what == what)
      parts_.back().words += words;
    else
      parts_.push_back({what, std::move(words)});
  }
  void feed(const std::string& piece) {
    if (piece.empty()) return;
    if (!chat_) return content(piece);
    try {
      parser_.feed(piece, *this);
    } catch (const text::refused& e) {
      if (over_) return;
      add(part::content, stops_.finish());
      over_ = true;
      ending_.malformed = e.what();
      ending_.why = calls_ > 0 ? ending::calls : ending::stop;
    }
  }
  void content(std::string_view piece) {
    if (over_) return;
    add(part::content, stops_.push(piece));
    if (!stops_.found()) return;
    over_ = true;
    ending_.why = ending::at_text;
    ending_.stop_text = texts_[stops_.which()];
  }

  void text(text::answer_part where, std::string_view piece) override {
    if (where == text::answer_part::content)
      content(piece);
    else
      add(part::reasoning, std::string(piece));
  }
  void special_token(text::answer_part, std::string_view) override {}
  void call_begin(std::string_view name) override {
    if (over_) return;
    add(part::content, stops_.finish());
    add(part::call, std::string(name));
  }
  void arguments(std::string_view piece) override {
    if (!over_) add(part::arguments, std::string(piece));
  }
  void call_end() override {
    if (over_) return;
    ++calls_;
    add(part::call_end, {});
  }

  const served_model* model_;
  bool chat_, thinking_, in_reasoning_ = false, over_ = false;
  text::stream_decoder words_;
  stop_texts stops_;
  std::vector<std::string> texts_;
  text::stream_parser parser_;
  std::vector<part> parts_;
  ending ending_;
  index_t tokens_ = 0, reasoning_tokens_ = 0, calls_ = 0;
};

}  // namespace cli::serving
