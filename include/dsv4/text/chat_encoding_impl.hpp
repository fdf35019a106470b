// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of chat_encoding.hpp.
#include <algorithm>
#include <array>
#include <iterator>
#include <unordered_map>

#include "chat_encoding.hpp"
#include "dsml.hpp"
#include "python_json.hpp"

namespace dsv4::text {

namespace detail {

/// Before the first message, at the highest effort.
inline constexpr std::string_view max_effort_text =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the "
    "root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial "
    "scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, "
    "and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

/// A turn of the prompt: a message, or several user and tool messages in one.
struct turn {
  /// What a user said, or a tool.
  struct block {
    std::string text;
    bool tool_result = false;
    std::string id = {};
  };
  chat_message message;
  std::vector<block> blocks = {};  ///< of a user
  std::string name = {};           ///< for errors

  bool asks() const { return message.role == "user" || message.role == "developer"; }
};

/// Joins tool results and user messages that follow each other.  A user message with a task ends its turn for
/// users, but not for tools; of a user message that joins a turn only the text stays.
DSV4_INLINE std::vector<turn> merge_users(std::span<const chat_message> messages, const std::string& name) {
  std::vector<turn> out;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const chat_message& m = messages[i];
    const std::string here = name + "[" + std::to_string(i) + "]";
    const bool tool = m.role == "tool", after_user = !out.empty() && out.back().message.role == "user";
    if (!tool && m.role != "user") {
      out.push_back({m, {}, here});
      continue;
    }
    if (!after_user || (!tool && out.back().message.task))
      out.push_back({chat_message{.role = "user", .task = tool ? std::nullopt : m.task}, {}, here});
    out.back().blocks.push_back({m.content, tool, m.tool_call_id});
  }
  return out;
}

/// Puts the tool results of a turn in the order of the calls before.  Texts stay where they are; a result that answers
/// no call counts as an answer to the first.
DSV4_INLINE void sort_tool_results(std::span<turn> turns) {
  std::unordered_map<std::string, std::size_t> order;
  for (turn& t : turns) {
    if (t.message.role == "assistant" && !t.message.tool_calls.empty()) {
      order.clear();
      for (std::size_t i = 0; i < t.message.tool_calls.size(); ++i)
        if (const std::string& id = t.message.tool_calls[i].id; !id.empty()) order[id] = i;
    }
    if (order.empty()) continue;
    const auto rank = [&](const turn::block& b) {
      const auto at = order.find(b.id);
      return at == order.end() ? 0 : at->second;
    };
    std::vector<turn::block> results;
    for (const turn::block& b : t.blocks)
      if (b.tool_result) results.push_back(b);
    std::stable_sort(results.begin(), results.end(),
                     [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    auto next = results.begin();
    for (turn::block& b : t.blocks)
      if (b.tool_result) b = std::move(*next++);
  }
}

/// The last turn that asks for an answer, or -1.
DSV4_INLINE std::ptrdiff_t last_question(std::span<const turn> turns) {
  std::ptrdiff_t i = std::ssize(turns) - 1;
  while (i >= 0 && !turns[usize(i)].asks()) --i;
  return i;
}

/// Before the last question: assistants without their reasoning, and neither developers nor unknown roles.
DSV4_INLINE std::vector<turn> drop_thinking(std::vector<turn> turns) {
  const std::ptrdiff_t last = last_question(turns);
  std::vector<turn> out;
  for (std::ptrdiff_t i = 0; i < std::ssize(turns); ++i) {
    turn& t = turns[usize(i)];
    const std::string& role = t.message.role;
    if (i < last && role == "assistant") t.message.reasoning_content.clear();
    constexpr std::array kept{"assistant", "user", "system", "latest_reminder",
                              "direct_search_results"};  // the last: refused later
    if (i >= last || std::find(kept.begin(), kept.end(), role) != kept.end()) out.push_back(std::move(t));
  }
  return out;
}

/// Writes the turns of one conversation.
class turn_writer {
 public:
  turn_writer(std::span<const turn> turns, bool thinking, bool drop, prompt& out)
      : turns_(turns), thinking_(thinking), drop_(drop), last_question_(last_question(turns)), out_(out) {}

  void write(std::size_t i) {
    const turn& t = turns_[i];
    const chat_message& m = t.message;
    if (m.role == "system") {
      out_.add_text(m.content);
      write_instructions(m);
    } else if (m.role == "developer") {
      if (m.content.empty()) throw refused("AssertionError", t.name + ": a developer message needs content");
      out_.add_control(user_token);
      out_.add_text(m.content);
      write_instructions(m);
    } else if (m.role == "user") {
      write_user(t);
    } else if (m.role == "latest_reminder") {
      out_.add_control(reminder_token);
      out_.add_text(m.content);
    } else if (m.role == "assistant") {
      write_assistant(i);
    } else {
      throw unsupported(t.name + ": role " + python::shown(json(m.role)) +
                        ", expected system, developer, user, latest_reminder, assistant or tool");
    }
    const std::string* next = i + 1 < turns_.size() ? &turns_[i + 1].message.role : nullptr;
    if (!next || *next == "assistant" || *next == "latest_reminder") write_question(i);
  }

 private:
  void write_instructions(const chat_message& m) {
    if (!m.tools.empty()) {
      out_.add_text("\n\n");
      dsml::write_tools(out_, m.tools);
    }
    if (truthy(m.response_format)) {
      out_.add_text(
          "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n");
      out_.add_text(python::dumps(m.response_format));
    }
  }

  void write_user(const turn& t) {
    out_.add_control(user_token);
    for (const turn::block& b : t.blocks) {
      if (&b != t.blocks.data()) out_.add_text("\n\n");
      if (b.tool_result) out_.add_text("<tool_result>");
      out_.add_text(b.text);
      if (b.tool_result) out_.add_text("</tool_result>");
    }
  }

  void write_assistant(std::size_t i) {
    const chat_message& m = turns_[i].message;
    const bool answers_task = i > 0 && turns_[i - 1].message.task;
    out_.answering = true;
    if (thinking_ && !answers_task && keeps_thinking(static_cast<std::ptrdiff_t>(i) - 1)) {
      out_.add_text(m.reasoning_content);
      out_.add_control(end_think_token);
    }
    out_.add_text(m.content);
    if (!m.tool_calls.empty()) {
      out_.add_text("\n\n");
      dsml::write_calls(out_, m.tool_calls);
    }
    if (!m.wo_eos) out_.add_control(eos_token);
    out_.answering = false;
  }

  /// Whether an answer to turn i begins with its reasoning.
  bool keeps_thinking(std::ptrdiff_t i) const { return !drop_ || i >= last_question_; }

  /// After turn i: who speaks next, and whether by thinking first.
  void write_question(std::size_t i) {
    const turn& t = turns_[i];
    const auto ask = [&](bool think) {
      out_.add_control(assistant_token);
      out_.add_control(think ? think_token : end_think_token);
    };
    if (!t.message.task) {
      if (t.asks()) ask(thinking_ && keeps_thinking(static_cast<std::ptrdiff_t>(i)));
      return;
    }
    const auto task = std::find_if(quick_tasks.begin(), quick_tasks.end(),
                                   [&](const quick_task& q) { return q.name == *t.message.task; });
    if (task == quick_tasks.end())
      throw refused("AssertionError", t.name + ": task " + python::shown(json(*t.message.task)) +
                                          ", expected action, query, authority, domain, title or read_url");
    if (task->name == "action") ask(thinking_);
    out_.add_control(task->token);
  }

  std::span<const turn> turns_;
  bool thinking_, drop_;
  std::ptrdiff_t last_question_;
  prompt& out_;
};

}  // namespace detail

DSV4_INLINE prompt encode_messages(std::span<const chat_message> messages, const encode_options& options,
                                   std::span<const chat_message> context) {
  using namespace detail;
  std::vector<turn> before = merge_users(context, "context"), turns = before;
  for (turn& t : merge_users(messages, "messages")) turns.push_back(std::move(t));
  sort_tool_results(turns);

  const bool thinking = options.mode == thinking_mode::thinking;
  const bool tools =
      std::any_of(turns.begin(), turns.end(), [](const turn& t) { return !t.message.tools.empty(); });
  const bool drop = options.drop_thinking && !tools;
  if (thinking && drop) {
    turns = drop_thinking(std::move(turns));
    before = drop_thinking(std::move(before));
  }

  prompt out;
  if (options.add_bos && context.empty()) out.add_control(bos_token);
  turn_writer writer(turns, thinking, drop, out);
  for (std::size_t i = before.size(); i < turns.size(); ++i) {
    if (i == 0 && thinking && options.effort == reasoning_effort::max) out.add_text(max_effort_text);
    writer.write(i);
  }
  return out;
}

DSV4_INLINE prompt encode(const chat_request& request) {
  return encode_messages(request.messages, request.options, request.context);
}

}  // namespace dsv4::text
