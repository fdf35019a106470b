// SPDX-License-Identifier: MIT
#include "serve_protocol.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <random>

#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/prompt_ids.hpp>
#include <dsv4/text/tokenizer.hpp>

namespace cli::serving {

void fields::wrong(std::string_view name, const std::string& expected, const json& found) const {
  throw refusal(400, name_of(name) + ": expected " + expected + ", found " + text::python::shown(found),
                name_of(name));
}

std::string fields::printable(std::string_view name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
  return plain ? std::string(name) : text::python::shown(json(name));
}

std::optional<double> fields::number(std::string_view name, double least, double most) {
  const json* v = find(name);
  if (!v) return std::nullopt;
  double x = 0;
  if (const auto* i = v->get_if<json::integer>())
    x = text::python::to_double(i->digits);
  else if (const auto* d = v->get_if<double>())
    x = *d;
  else
    wrong(name, "a number", *v);
  if (!(x >= least && x <= most))
    wrong(name, "a number from " + text::python::repr(least) + " to " + text::python::repr(most), *v);
  return x;
}

std::optional<std::int64_t> fields::integer(std::string_view name, std::int64_t least, std::int64_t most) {
  const json* v = find(name);
  if (!v) return std::nullopt;
  const auto* i = v->get_if<json::integer>();
  std::int64_t x = 0;
  if (!i || std::from_chars(i->digits.data(), i->digits.data() + i->digits.size(), x).ec != std::errc() ||
      x < least || x > most)
    wrong(name, "an integer from " + std::to_string(least) + " to " + std::to_string(most), *v);
  return x;
}

json read_body(std::string_view body) {
  try {
    return text::python::loads(body);
  } catch (const text::json_error& e) {
    throw refusal(400, std::string("the body is no JSON: ") + e.what());
  }
}

void read_sampling(fields& f, dsv4::sampling& s, double most_temperature) {
  constexpr double most_penalty = 2;  // OpenAI's limit
  s.temperature = f.number("temperature", 0, most_temperature).value_or(1);
  s.top_p = f.number("top_p", 0, 1).value_or(1);
  if (s.top_p == 0) s.top_p = std::numeric_limits<double>::min();  // the likeliest token alone, as elsewhere
  s.top_k = f.integer("top_k", 0, std::numeric_limits<std::int32_t>::max()).value_or(0);
  s.min_p = f.number("min_p", 0, 1).value_or(0);
  s.frequency_penalty = f.number("frequency_penalty", -most_penalty, most_penalty).value_or(0);
  s.presence_penalty = f.number("presence_penalty", -most_penalty, most_penalty).value_or(0);
  s.repetition_penalty = f.number("repetition_penalty", 0.01, 100).value_or(1);
}

std::vector<std::string> read_stops(fields& f, std::string_view name) {
  constexpr std::size_t most_stops = 16;
  std::vector<std::string> out;
  const json* v = f.find(name);
  if (!v) return out;
  if (v->text()) {
    out.push_back(*v->text());
  } else if (const auto* list = v->get_if<json::array>()) {
    for (const json& one : *list) {
      if (!one.text()) f.wrong(name, "strings", one);
      out.push_back(*one.text());
    }
  } else {
    f.wrong(name, "a string or a list of strings", *v);
  }
  if (out.size() > most_stops) f.wrong(name, "at most 16 strings", *v);
  for (const std::string& s : out)
    if (s.empty()) f.wrong(name, "strings that are not empty", *v);
  return out;
}

index_t room_for(const served_model& m, const std::vector<std::vector<std::int32_t>>& prompts,
                 std::optional<std::int64_t> asked, std::string_view name) {
  std::size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  const index_t room = m.context - static_cast<index_t>(longest);
  const auto refuse = [&](const std::string& what) {
    throw refusal(400,
                  what + "; this model's context is " + std::to_string(m.context) +
                      " tokens of prompt and answer, and the prompt has " + std::to_string(longest),
                  std::string(name), "context_length_exceeded");
  };
  if (room < 1) refuse("the prompt leaves no room for an answer");
  if (asked && *asked > room)
    refuse(std::string(name) + ": " + std::to_string(*asked) + " tokens do not fit");
  return asked ? static_cast<index_t>(*asked) : std::min(room, m.max_new);
}

std::vector<std::int32_t> chat_prompt(const served_model& m, std::vector<text::chat_message> messages,
                                      const json::array& tools, const json& format, const std::string& think,
                                      text::thinking_mode& mode) {
  if (!tools.empty() || !format.is_null()) {
    if (messages.empty() || (messages[0].role != "system" && messages[0].role != "developer"))
      messages.insert(messages.begin(), text::chat_message{"system"});
    messages[0].tools = tools;
    messages[0].response_format = format;
  }
  text::encode_options how;
  mode = think == "off" ? text::thinking_mode::chat : text::thinking_mode::thinking;
  how.mode = mode;
  how.effort = think == "max" ? text::reasoning_effort::max : text::reasoning_effort::high;
  try {
    return text::prompt_ids(m.tokenizer, text::encode_messages(messages, how));
  } catch (const text::refused& e) {
    throw refusal(400, e.what(), "messages");
  } catch (const dsv4::unsupported& e) {
    throw refusal(400, e.what(), "messages");
  }
}

std::string_view bytes_of(const served_model& m, std::int32_t id) { return m.tokenizer.bytes_of(id); }

std::vector<std::int32_t> text_prompt(const served_model& m, std::string_view words) {
  std::vector<std::int32_t> ids;
  if (m.tokenizer.bos()) ids.push_back(*m.tokenizer.bos());
  m.tokenizer.encode(words, text::special_tokens::as_text, ids);
  return ids;
}

namespace {

std::string hexadecimal(std::uint64_t n, int digits) {
  std::string out(static_cast<std::size_t>(digits), '0');
  for (auto d = out.rbegin(); d != out.rend(); ++d, n >>= 4) *d = "0123456789abcdef"[n & 15];
  return out;
}

}  // namespace

std::string call_id(const answer_request& r, std::size_t choice, std::size_t call, std::string_view prefix) {
  std::uint64_t h = r.sampling.seed;
  for (const std::int32_t id : r.prompt_of(choice)) h = dsv4::splitmix64(h, static_cast<std::uint64_t>(id));
  h = dsv4::splitmix64(h, choice);
  const std::uint64_t low = dsv4::splitmix64(h, 2 * call), high = dsv4::splitmix64(h, 2 * call + 1);
  return std::string(prefix) + hexadecimal(high, 8) + hexadecimal(low, 16);
}

std::string fresh_id(std::string_view prefix) {
  static const std::uint64_t start = [] {
    std::random_device r;
    return (static_cast<std::uint64_t>(r()) << 32) ^ r();
  }();
  static std::atomic<std::uint64_t> count{0};
  const std::uint64_t n = count++;
  return std::string(prefix) + hexadecimal(dsv4::splitmix64(start, n), 16) + hexadecimal(n, 8);
}

std::int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace cli::serving
