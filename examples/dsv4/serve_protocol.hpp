// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 serve: what a request asks for and what an answer is made of, without the words of a protocol and without HTTP.
///
///   serve_protocol  these types; fields of a JSON object, read one by one so that none is overlooked
///   serve_answer    tokens of an answer -> reasoning, content, calls
///   serve_openai    chat completions and completions: JSON -> answer_request, parts of an answer -> JSON
///   serve_anthropic the same for messages
///   serve_worker    the thread of the model: gen/batcher.hpp behind a mailbox
///   serve_http      connections, limits, signals
///   serve           the verb
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <dsv4/gen/grammar.hpp>
#include <dsv4/gen/log_probability.hpp>
#include <dsv4/gen/sampling.hpp>
#include <dsv4/text/chat_message.hpp>

#include "commands.hpp"

namespace dsv4::text {
class tokenizer;
}

namespace cli::serving {

namespace text = dsv4::text;
using text::json;

/// The request is not answered: an HTTP status, and what a client can find out about it.
struct refusal : std::runtime_error {
  refusal(int status_, const std::string& what, std::string param_ = {}, std::string code_ = {})
      : std::runtime_error(what), status(status_), param(std::move(param_)), code(std::move(code_)) {}
  int status;
  std::string param, code;
};

/// What requests are answered with.
struct served_model {
  std::string name;
  const text::tokenizer& tokenizer;
  index_t vocabulary, context;  ///< tokens of prompt and answer at most
  index_t max_new;              ///< of a request that does not say
  std::string think;            ///< high, max or off, of a request that does not say
  std::vector<std::int32_t> stop_ids;
  std::int32_t think_end, dsml;  ///< tokens; -1: the tokenizer does not have it
  std::shared_ptr<const dsv4::token_spellings> spellings;
};

/// One request, whatever the protocol.
struct answer_request {
  std::vector<std::vector<std::int32_t>> prompts;  ///< a chat has one
  index_t n = 1;                                   ///< answers to each
  bool chat = true;  ///< the answer has reasoning, content and calls; else it is text
  text::thinking_mode mode = text::thinking_mode::thinking;
  index_t max_new = 0;
  dsv4::sampling sampling;  ///< of answer 0; answer i has a seed of its own
  std::vector<std::string> stop;
  std::optional<index_t> logprobs;
  bool stream = false, usage_in_stream = false;
  std::shared_ptr<const dsv4::grammar> limit;  ///< null: any text

  std::size_t choices() const { return prompts.size() * static_cast<std::size_t>(n); }
  const std::vector<std::int32_t>& prompt_of(std::size_t choice) const {
    return prompts[choice / static_cast<std::size_t>(n)];
  }
};

/// A token as the protocols report it.
struct token_entry {
  std::int32_t id = 0;
  double log_probability = 0;
  std::vector<dsv4::token_probability> top;
  bool reasoning = false, end = false;  ///< of the reasoning, </think> included; an end token
};

/// A piece of an answer, in the order in which the model writes.
struct part {
  enum kind { reasoning, content, call, arguments, call_end } what;
  std::string words;  ///< of a call: its name
};

struct ending {
  enum kind { stop, at_text, length, calls } why = stop;
  std::string stop_text{};  ///< which
  std::string malformed{};  ///< why what the model wrote is no call; empty: nothing was wrong
};

struct token_usage {
  index_t prompt = 0, reused = 0, answer = 0, reasoning = 0;
};

/// An answer in the words of a protocol.  Each function appends to `out` what is to be sent at once: events of a
/// stream; without one, the whole body, at the end.
class reply {
 public:
  virtual ~reply() = default;
  virtual void begun(const token_usage&, std::string& out) = 0;
  virtual void add(std::size_t choice, const std::vector<part>&, const token_entry*, std::string& out) = 0;
  virtual void ended(std::size_t choice, const ending&, std::string& out) = 0;
  virtual void finished(const token_usage&, std::string& out) = 0;
  /// The model failed while a stream was under way.
  virtual void broken(const std::string& what, std::string& out) = 0;
};

/// The fields of a JSON object: each is asked for once by its name; then none may be left.
/// @throws refusal 400 a field of another kind, out of range, or that nobody asked for
class fields {
 public:
  fields(const json& object, std::string where) : where_(std::move(where)) {
    object_ = object.get_if<json::object>();
    if (!object_)
      throw refusal(400, name_of("") + ": expected an object, found " + type_name(object), where_);
  }
  /// Null counts as absent.
  const json* find(std::string_view name) {
    known_.insert(std::string(name));
    for (const auto& [key, value] : *object_)
      if (key == name) return value.is_null() ? nullptr : &value;
    return nullptr;
  }
  const json& need(std::string_view name) {
    const json* v = find(name);
    if (!v) throw refusal(400, name_of(name) + ": is missing", name_of(name));
    return *v;
  }
  std::optional<std::string> string(std::string_view name) {
    const json* v = find(name);
    if (!v) return std::nullopt;
    if (!v->text()) wrong(name, "a string", *v);
    return *v->text();
  }
  std::optional<bool> boolean(std::string_view name) {
    const json* v = find(name);
    if (!v) return std::nullopt;
    if (!v->is<bool>()) wrong(name, "a boolean", *v);
    return *v->get_if<bool>();
  }
  std::optional<double> number(std::string_view name, double least, double most);
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least, std::int64_t most);
  const json::array* list(std::string_view name) {
    const json* v = find(name);
    if (!v) return nullptr;
    if (!v->is<json::array>()) wrong(name, "a list", *v);
    return v->get_if<json::array>();
  }
  /// Fields that change nothing here.
  void ignore(std::initializer_list<std::string_view> names) {
    for (const std::string_view n : names) known_.insert(std::string(n));
  }
  /// @throws refusal if there is a field that was not asked for
  void finish() const {
    for (const auto& [key, value] : *object_)
      if (!known_.count(key) && !value.is_null())
        throw refusal(400, name_of(key) + ": is not supported (docs/serve.md lists what is)", name_of(key),
                      "unsupported_parameter");
  }
  [[noreturn]] void wrong(std::string_view name, const std::string& expected, const json& found) const;
  std::string name_of(std::string_view name) const {
    const std::string key = printable(name);
    return where_.empty() ? (key.empty() ? "the body" : key) : key.empty() ? where_ : where_ + "." + key;
  }

 private:
  static std::string printable(std::string_view name);
  std::string where_;
  const json::object* object_;
  std::set<std::string> known_;
};

/// The body of a request as JSON.  @throws refusal 400
json read_body(std::string_view body);

/// Fields that all protocols share: temperature, top_p, top_k, …  @throws refusal
void read_sampling(fields& f, dsv4::sampling& s, double most_temperature);
/// Texts that end an answer: a string or a list of strings.
std::vector<std::string> read_stops(fields& f, std::string_view name);

/// How long the answer may be, given what was asked for.  @throws refusal 400 the prompt alone is too long
index_t room_for(const served_model& m, const std::vector<std::vector<std::int32_t>>& prompts,
                 std::optional<std::int64_t> asked, std::string_view name);

/// The prompt of a conversation: `tools` and a format go to the first system message, or into one put before.
std::vector<std::int32_t> chat_prompt(const served_model& m, std::vector<text::chat_message> messages,
                                      const json::array& tools, const json& format, const std::string& think,
                                      text::thinking_mode& mode);

/// What a token spells.
std::string_view bytes_of(const served_model& m, std::int32_t id);
/// A text as a prompt, no special token in it but the one that begins texts.
std::vector<std::int32_t> text_prompt(const served_model& m, std::string_view words);

/// A number that is the same for the same prompt and seed: names of calls.
std::string call_id(const answer_request& r, std::size_t choice, std::size_t call, std::string_view prefix);
/// "prefix" and 24 hexadecimal digits, different each time.
std::string fresh_id(std::string_view prefix);
std::int64_t unix_time();

}  // namespace cli::serving
