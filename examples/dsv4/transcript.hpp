// SPDX-License-Identifier: MIT
#pragma once
/// What was said in dsv4 chat: messages, and of each answer the ids that the model made.
///
/// An answer goes back into the prompt as those ids: its text, encoded again, may have others, and then all
/// that follows would have to be read again.
#include <charconv>
#include <cstdint>
#include <string>
#include <vector>

#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/prompt_ids.hpp>

namespace cli {

namespace text = dsv4::text;

class transcript {
 public:
  std::string system, think;  ///< instruction before the conversation; high, max or off

  const std::vector<text::chat_message>& messages() const { return messages_; }
  bool thinks() const { return think != "off"; }

  void clear() {
    messages_.clear();
    spoken_.clear();
  }
  void add_question(const std::string& words) { add({"user", text::repaired(words)}, {}); }
  /// `made`: ids of the answer without its end token; `words`: their text.
  void add_answer(const text::tokenizer& t, const std::string& words, const std::vector<std::int32_t>& made) {
    if (!thinks()) return add({"assistant", words}, made);
    // Reasoning, </think>, content; an answer that was stopped before has reasoning only.
    const std::size_t end = words.find(text::end_think_token);
    if (end == std::string::npos) return add({"assistant", "", words}, {});
    const auto end_id = std::find(made.begin(), made.end(), t.token_to_id(text::end_think_token));
    add({"assistant", words.substr(end + text::end_think_token.size()), words.substr(0, end)},
        end_id == made.end() ? std::vector<std::int32_t>()
                             : std::vector<std::int32_t>(end_id + 1, made.end()));
  }
  void take_back() {
    messages_.pop_back();
    spoken_.pop_back();
  }

  /// The prompt of the whole conversation.
  std::vector<std::int32_t> prompt(const text::tokenizer& t) const {
    std::vector<text::chat_message> all;
    if (!system.empty()) all.push_back({"system", system});
    all.insert(all.end(), messages_.begin(), messages_.end());
    text::encode_options how;
    how.mode = thinks() ? text::thinking_mode::thinking : text::thinking_mode::chat;
    how.effort = think == "max" ? text::reasoning_effort::max : text::reasoning_effort::high;

    std::vector<std::int32_t> ids;
    text::prompt part;     // segments that are not yet ids
    std::size_t next = 0;  // of messages_: an answer at or after this one comes next
    const auto encode_part = [&] {
      const auto more = text::prompt_ids(t, part);
      ids.insert(ids.end(), more.begin(), more.end());
      part = {};
    };
    for (const text::prompt_segment& s : text::encode_messages(all, how).segments) {
      // An answer's content is the text after </think>.
      const bool after_think = !s.control && !part.segments.empty() && part.segments.back().control &&
                               part.segments.back().text == text::end_think_token;
      std::size_t i = next;
      while (after_think && i < messages_.size() && (spoken_[i].empty() || messages_[i].content != s.text))
        ++i;
      if (!after_think || i == messages_.size()) {
        part.segments.push_back(s);
        continue;
      }
      encode_part();
      ids.insert(ids.end(), spoken_[i].begin(), spoken_[i].end());
      next = i + 1;
    }
    encode_part();
    return ids;
  }

  // ---- as JSON: {"messages": [{"role": .., "content": .., "ids": [..]}, ..], "system": "..", "think": "high"}

  std::string to_json() const {
    text::json::array list;
    for (std::size_t i = 0; i < messages_.size(); ++i) {
      const text::chat_message& m = messages_[i];
      text::json::object one{{"role", m.role}, {"content", m.content}};
      if (!m.reasoning_content.empty()) one.emplace_back("reasoning_content", m.reasoning_content);
      text::json::array ids;
      for (const std::int32_t id : spoken_[i]) ids.emplace_back(id);
      if (!ids.empty()) one.emplace_back("ids", std::move(ids));
      list.emplace_back(std::move(one));
    }
    return text::python::dumps(text::json::object{{"messages", list}, {"system", system}, {"think", think}},
                               true);
  }
  /// `name`: of the file, for messages.  @throws dsv4::format_error
  static transcript from_json(const std::string& name, const std::string& json, const text::tokenizer& t) {
    const text::json saved = text::python::loads(json);
    const auto fail = [&](const std::string& what) {
      throw dsv4::format_error(name + ": " + what + "; not a conversation of dsv4 chat");
    };
    const auto string = [&](const char* field) {
      const text::json* value = saved.find(field);
      if (!value || !value->text()) fail(std::string("no text ") + field);
      return *value->text();
    };
    const text::json* list = saved.find("messages");
    if (!list || !list->get_if<text::json::array>()) fail("no list messages");
    transcript r;
    r.system = string("system");
    r.think = string("think");
    if (r.think != "high" && r.think != "max" && r.think != "off") fail("think is none of high, max and off");
    r.messages_ = text::read_messages(*list);
    for (const text::json& one : *list->get_if<text::json::array>())
      r.spoken_.push_back(ids_of(one.find("ids"), t));
    return r;
  }

 private:
  void add(text::chat_message message, std::vector<std::int32_t> ids) {
    messages_.push_back(std::move(message));
    spoken_.push_back(std::move(ids));
  }
  /// None if it is no list of token ids: then the content is encoded.
  static std::vector<std::int32_t> ids_of(const text::json* list, const text::tokenizer& t) {
    std::vector<std::int32_t> ids;
    if (const auto* items = list ? list->get_if<text::json::array>() : nullptr)
      for (const text::json& item : *items) {
        const auto* number = item.get_if<text::json::integer>();
        std::int32_t id = -1;
        if (number) std::from_chars(number->digits.data(), number->digits.data() + number->digits.size(), id);
        if (id < 0 || id >= t.vocab_size()) return {};
        ids.push_back(id);
      }
    return ids;
  }

  std::vector<text::chat_message> messages_;
  std::vector<std::vector<std::int32_t>> spoken_;  // [messages_] ids of an answer's content
};

}  // namespace cli
