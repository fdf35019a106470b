// SPDX-License-Identifier: MIT
#pragma once
/// A prompt as text, and the same text in segments that tell the special tokens of the template from everything else.
/// prompt_ids.hpp makes token ids of it.
///
/// The released encoder joins strings and lets the tokenizer look for special tokens in the result, so that a user who
/// types `<｜User｜>` speaks as the template.  Here a control segment is exactly one special token, and there are no
/// two others side by side: a tokenizer that maps control segments to their ids, and encodes the rest with special
/// tokens forbidden, gives the released ids for every prompt whose messages hold no special token, and never a
/// special id for what a message says.
#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::text {

// The bars are U+FF5C, the low blocks U+2581.
inline constexpr std::string_view bos_token = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view eos_token = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view user_token = "<｜User｜>";
inline constexpr std::string_view assistant_token = "<｜Assistant｜>";
inline constexpr std::string_view reminder_token = "<｜latest_reminder｜>";
inline constexpr std::string_view think_token = "<think>";
inline constexpr std::string_view end_think_token = "</think>";
inline constexpr std::string_view dsml_token =
    "｜DSML｜";  // a token of its own, the brackets around it are text

/// A quick instruction: the name in a message's `task`, and the token that asks for it.
struct quick_task {
  std::string_view name, token;
};
inline constexpr std::array<quick_task, 6> quick_tasks{{{"action", "<｜action｜>"},
                                                        {"query", "<｜query｜>"},
                                                        {"authority", "<｜authority｜>"},
                                                        {"domain", "<｜domain｜>"},
                                                        {"title", "<｜title｜>"},
                                                        {"read_url", "<｜read_url｜>"}}};

/// Part of a prompt: exactly one special token (control), or text in which none may be recognised.
struct prompt_segment {
  std::string text;
  bool control = false;
  bool answer = false;  ///< an assistant's message: what a model is trained to say
  bool operator==(const prompt_segment&) const = default;
};

/// A prompt.  `text` is the segments' texts in order; of two neighbours at least one is control.
struct prompt {
  std::string text;
  std::vector<prompt_segment> segments;
  bool answering = false;  ///< what is added now is an assistant's message
  /// Somewhere an assistant's words touch others without a special token between: they share a segment, since they
  /// share tokens, and that segment is no answer.
  bool shared_segment = false;

  void add_control(std::string_view token) {
    text += token;
    segments.push_back({std::string(token), true, answering});
  }

  void add_text(std::string_view words) {
    if (words.empty()) return;
    text += words;
    if (segments.empty() || segments.back().control) segments.push_back({{}, false, answering});
    prompt_segment& s = segments.back();
    s.text += words;
    if (s.answer != answering) s.answer = false, shared_segment = true;
  }

  /// Text of the template itself, never of a message: `｜DSML｜`, `<think>` and `</think>` in it are control.
  void add_template(std::string_view words) {
    while (!words.empty()) {
      std::size_t at = words.size();
      std::string_view next;
      for (const std::string_view token : {dsml_token, think_token, end_think_token})
        if (const std::size_t found = words.find(token); found < at) at = found, next = token;
      add_text(words.substr(0, at));
      if (next.empty()) return;
      add_control(next);
      words.remove_prefix(at + next.size());
    }
  }
};

}  // namespace dsv4::text
