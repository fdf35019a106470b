// SPDX-License-Identifier: MIT
#include "serve_openai.hpp"

#include <algorithm>
#include <charconv>
#include <map>

#include <dsv4/gen/grammar_calls.hpp>
#include <dsv4/gen/grammar_json.hpp>
#include <dsv4/text/unicode.hpp>

namespace cli::serving::openai {
namespace {

using object = json::object;
using array = json::array;

json number(index_t n) { return json::integer{std::to_string(n)}; }

// ---- what is asked for

/// A message's content: a string, or a list of text parts.
std::string content_of(const json* v, const std::string& where) {
  if (!v || v->is_null()) return "";
  if (v->text()) return *v->text();
  const auto* list = v->get_if<array>();
  if (!list)
    throw refusal(400, where + ": expected a string or a list of parts, found " + text::python::shown(*v),
                  where);
  std::string out;
  for (std::size_t i = 0; i < list->size(); ++i) {
    fields part((*list)[i], where + "[" + std::to_string(i) + "]");
    const std::string type = part.string("type").value_or("");
    if (type != "text" && type != "refusal")
      throw refusal(400,
                    part.name_of("type") + ": " + text::python::shown(json(type)) +
                        " is not supported: this model reads text",
                    where, "unsupported_parameter");
    const json& words = part.need(type);
    if (!words.text()) part.wrong(type, "a string", words);
    out += *words.text();
  }
  return out;
}

text::chat_message message_of(const json& in, const std::string& where) {
  fields f(in, where);
  text::chat_message m;
  m.role = f.string("role").value_or("");
  static constexpr std::string_view roles[] = {"system", "developer", "user", "assistant", "tool"};
  if (std::find(std::begin(roles), std::end(roles), m.role) == std::end(roles))
    throw refusal(400,
                  f.name_of("role") + ": expected system, developer, user, assistant or tool, found " +
                      text::python::shown(json(m.role)),
                  f.name_of("role"));
  // What other programs call a developer's message is the system's; the model's own `developer` speaks in a turn.
  if (m.role == "developer") m.role = "system";
  m.content = content_of(f.find("content"), f.name_of("content"));
  f.ignore({"name", "refusal", "annotations", "audio", "function_call"});
  if (m.role == "tool") {
    const json& id = f.need("tool_call_id");
    if (!id.text()) f.wrong("tool_call_id", "a string", id);
    m.tool_call_id = *id.text();
  }
  if (m.role == "assistant") {
    m.reasoning_content = f.string("reasoning_content").value_or("");
    if (const array* calls = f.list("tool_calls"))
      for (std::size_t i = 0; i < calls->size(); ++i) {
        fields call((*calls)[i], f.name_of("tool_calls") + "[" + std::to_string(i) + "]");
        call.ignore({"type", "index"});
        fields function(call.need("function"), call.name_of("function"));
        const json &name = function.need("name"), &arguments = function.need("arguments");
        if (!name.text()) function.wrong("name", "a string", name);
        if (!arguments.text()) function.wrong("arguments", "JSON in a string", arguments);
        m.tool_calls.push_back({*name.text(), arguments, call.string("id").value_or("")});
        function.finish();
        call.finish();
      }
  }
  f.finish();
  return m;
}

struct tools_of {
  array functions;  ///< as the prompt shows them
  bool strict = false;
};

tools_of read_tools(fields& f) {
  tools_of out;
  const array* list = f.list("tools");
  if (!list) return out;
  for (std::size_t i = 0; i < list->size(); ++i) {
    fields tool((*list)[i], f.name_of("tools") + "[" + std::to_string(i) + "]");
    if (const auto type = tool.string("type"); type != "function")
      throw refusal(400, tool.name_of("type") + ": only tools of type function are supported",
                    f.name_of("tools"), "unsupported_parameter");
    const json& shown = tool.need("function");
    fields function(shown, tool.name_of("function"));
    const json& name = function.need("name");
    if (!name.text()) function.wrong("name", "a string", name);
    function.string("description");
    if (const json* p = function.find("parameters"); p && !p->is<object>())
      function.wrong("parameters", "a schema", *p);
    out.strict = out.strict || function.boolean("strict").value_or(false);
    function.finish();
    tool.finish();
    out.functions.push_back(shown);
  }
  return out;
}

std::string thinking_of(const served_model& m, fields& f) {
  std::string think = m.think;
  if (const json* v = f.find("thinking")) {
    fields t(*v, f.name_of("thinking"));
    const std::string type = t.string("type").value_or("");
    t.ignore({"budget_tokens"});
    if (type != "enabled" && type != "disabled") t.wrong("type", "enabled or disabled", json(type));
    t.finish();
    think = type == "disabled" ? "off" : think == "off" ? "high" : think;
  }
  const bool off = think == "off" && f.find("thinking");
  if (const auto effort = f.string("reasoning_effort")) {
    static const std::map<std::string, std::string> efforts{
        {"none", "off"},  {"minimal", "off"}, {"low", "high"}, {"medium", "high"},
        {"high", "high"}, {"xhigh", "max"},   {"max", "max"}};
    const auto known = efforts.find(*effort);
    if (known == efforts.end())
      f.wrong("reasoning_effort", "none, minimal, low, medium, high, xhigh or max", json(*effort));
    if (!off) think = known->second;
  }
  return think;
}

/// A grammar, its errors as the client's.
template <class Make>
std::shared_ptr<const dsv4::grammar> limit_of(const std::string& param, Make&& make) {
  try {
    return std::make_shared<const dsv4::grammar>(make());
  } catch (const dsv4::unsupported& e) {
    throw refusal(400, param + ": " + e.what(), param, "unsupported_schema");
  }
}

void read_bias(fields& f, const served_model& m, dsv4::sampling& s) {
  const json* v = f.find("logit_bias");
  if (!v) return;
  const auto* all = v->get_if<object>();
  if (!all) f.wrong("logit_bias", "an object", *v);
  for (const auto& [key, value] : *all) {
    std::int32_t id = -1;
    const auto [end, fault] = std::from_chars(key.data(), key.data() + key.size(), id);
    const auto* whole = value.get_if<json::integer>();
    const auto* real = value.get_if<double>();
    constexpr double most = 100;  // OpenAI's limit; -100 and 100 mean never and always there
    const double x = whole ? text::python::to_double(whole->digits) : real ? *real : 2 * most;
    if (fault != std::errc() || end != key.data() + key.size() || id < 0 || id >= m.vocabulary)
      f.wrong("logit_bias", "token ids below " + std::to_string(m.vocabulary) + " as keys", json(key));
    if (!(x >= -most && x <= most)) f.wrong("logit_bias", "numbers from -100 to 100", value);
    s.bias.push_back({id, x});
  }
}

void expect_model(const served_model& m, fields& f) {
  const json& name = f.need("model");
  if (!name.text()) f.wrong("model", "a string", name);
  if (*name.text() != m.name)
    throw refusal(404, "model " + text::python::shown(name) + " is not here; this server has " + m.name,
                  "model", "model_not_found");
}

constexpr std::int64_t most_choices = 128, most_top = 20;

void read_common(fields& f, const served_model& m, answer_request& r) {
  read_sampling(f, r.sampling, 2);
  read_bias(f, m, r.sampling);
  constexpr std::int64_t any = std::numeric_limits<std::int64_t>::max();
  r.sampling.seed = static_cast<std::uint64_t>(f.integer("seed", -any - 1, any).value_or(0));
  r.stop = read_stops(f, "stop");
  r.stream = f.boolean("stream").value_or(false);
  if (const json* o = f.find("stream_options")) {
    fields options(*o, f.name_of("stream_options"));
    r.usage_in_stream = options.boolean("include_usage").value_or(false);
    options.ignore({"include_obfuscation"});
    options.finish();
  }
  f.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity",
            "prompt_cache_retention"});
}

json usage_json(const token_usage& u) {
  return object{{"prompt_tokens", number(u.prompt)},
                {"completion_tokens", number(u.answer)},
                {"total_tokens", number(u.prompt + u.answer)},
                {"prompt_tokens_details", object{{"cached_tokens", number(u.reused)}}},
                {"completion_tokens_details", object{{"reasoning_tokens", number(u.reasoning)}}}};
}

const char* reason_of(const ending& e) {
  switch (e.why) {
    case ending::length: return "length";
    case ending::calls: return "tool_calls";
    case ending::stop:
    case ending::at_text: break;
  }
  return "stop";
}

void event(std::string& out, const json& v) { out += "data: " + text::python::dumps(v) + "\n\n"; }

/// JSON has no infinity: as OpenAI does.
json log_probability(double x) { return std::max(x, -9999.0); }

json token_json(const served_model& m, std::int32_t id, double x) {
  const std::string bytes(bytes_of(m, id));
  array list;
  for (const char b : bytes) list.push_back(number(static_cast<unsigned char>(b)));
  return object{
      {"token", text::repaired(bytes)}, {"logprob", log_probability(x)}, {"bytes", std::move(list)}};
}
json entry_json(const served_model& m, const token_entry& t) {
  json one = token_json(m, t.id, t.log_probability);
  array top;
  for (const auto& p : t.top) top.push_back(token_json(m, p.id, p.log_probability));
  object o = *one.get_if<object>();
  o.emplace_back("top_logprobs", std::move(top));
  return o;
}

// ---- chat

class chat_reply final : public reply {
 public:
  chat_reply(const served_model& m, const answer_request& r) : m_(m), r_(r), id_(fresh_id("chatcmpl-")) {
    choices_.resize(r.choices());
  }

  void begun(const token_usage&, std::string& out) override {
    if (!r_.stream) return;
    for (std::size_t i = 0; i < choices_.size(); ++i)
      chunk(out, i, object{{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
  }

  void add(std::size_t i, const std::vector<part>& parts, const token_entry* t, std::string& out) override {
    choice& c = choices_[i];
    json logprobs;
    if (t && r_.logprobs && !t->end) {
      array one{entry_json(m_, *t)};
      (t->reasoning ? c.reasoning_logprobs : c.logprobs).push_back(one[0]);
      if (t->reasoning)
        logprobs = object{{"content", nullptr}, {"refusal", nullptr}, {"reasoning_content", std::move(one)}};
      else
        logprobs = object{{"content", std::move(one)}, {"refusal", nullptr}};
    }
    bool told = false;
    for (const part& p : parts) {
      object delta;
      switch (p.what) {
        case part::reasoning:
          c.reasoning += p.words;
          delta.emplace_back("reasoning_content", p.words);
          break;
        case part::content:
          c.content += p.words;
          delta.emplace_back("content", p.words);
          break;
        case part::call: {
          const std::string id = call_id(r_, i, c.calls.size(), "call_");
          c.calls.push_back({id, p.words, "", false});
          delta.emplace_back("tool_calls",
                             array{object{{"index", number(static_cast<index_t>(c.calls.size()) - 1)},
                                          {"id", id},
                                          {"type", "function"},
                                          {"function", object{{"name", p.words}, {"arguments", ""}}}}});
          break;
        }
        case part::arguments:
          c.calls.back().arguments += p.words;
          delta.emplace_back("tool_calls",
                             array{object{{"index", number(static_cast<index_t>(c.calls.size()) - 1)},
                                          {"function", object{{"arguments", p.words}}}}});
          break;
        case part::call_end: c.calls.back().whole = true; continue;
      }
      if (r_.stream) chunk(out, i, std::move(delta), nullptr, told ? json() : logprobs);
      told = true;
    }
    if (r_.stream && !told && !logprobs.is_null()) chunk(out, i, object{{"content", ""}}, nullptr, logprobs);
  }

  void ended(std::size_t i, const ending& e, std::string& out) override {
    choices_[i].how = e;
    if (r_.stream) chunk(out, i, object{}, reason_of(e), nullptr, e.malformed);
  }

  void finished(const token_usage& u, std::string& out) override {
    if (r_.stream) {
      if (r_.usage_in_stream) {
        object o = head("chat.completion.chunk");
        o.emplace_back("choices", array{});
        o.emplace_back("usage", usage_json(u));
        event(out, o);
      }
      out += "data: [DONE]\n\n";
      return;
    }
    array all;
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      const choice& c = choices_[i];
      array calls;
      for (const call& one : c.calls)
        if (one.whole)
          calls.push_back(object{{"id", one.id},
                                 {"type", "function"},
                                 {"function", object{{"name", one.name}, {"arguments", one.arguments}}}});
      object message{{"role", "assistant"},
                     {"content", c.content.empty() && !calls.empty() ? json() : json(c.content)}};
      if (!c.reasoning.empty()) message.emplace_back("reasoning_content", c.reasoning);
      message.emplace_back("refusal", nullptr);
      if (!calls.empty()) message.emplace_back("tool_calls", std::move(calls));
      object one{{"index", number(static_cast<index_t>(i))}, {"message", std::move(message)}};
      if (r_.logprobs) {
        object l{{"content", c.logprobs}, {"refusal", nullptr}};
        if (!c.reasoning_logprobs.empty()) l.emplace_back("reasoning_content", c.reasoning_logprobs);
        one.emplace_back("logprobs", std::move(l));
      } else {
        one.emplace_back("logprobs", nullptr);
      }
      one.emplace_back("finish_reason", reason_of(c.how));
      if (!c.how.malformed.empty()) one.emplace_back("dsv4_malformed", c.how.malformed);
      all.push_back(std::move(one));
    }
    object o = head("chat.completion");
    o.emplace_back("choices", std::move(all));
    o.emplace_back("usage", usage_json(u));
    out += text::python::dumps(o);
  }

  void broken(const std::string& what, std::string& out) override {
    out += "data: " + error_body(500, what) + "\n\n";
  }

 private:
  struct call {
    std::string id, name, arguments;
    bool whole;
  };
  struct choice {
    std::string reasoning, content;
    std::vector<call> calls;
    array logprobs, reasoning_logprobs;
    ending how;
  };

  object head(const char* what) const {
    return object{{"id", id_},
                  {"object", what},
                  {"created", number(created_)},
                  {"model", m_.name},
                  {"system_fingerprint", nullptr}};
  }
  void chunk(std::string& out, std::size_t i, object delta, json reason, json logprobs,
             const std::string& malformed = {}) {
    object o = head("chat.completion.chunk");
    object one{{"index", number(static_cast<index_t>(i))},
               {"delta", std::move(delta)},
               {"logprobs", std::move(logprobs)},
               {"finish_reason", std::move(reason)}};
    if (!malformed.empty()) one.emplace_back("dsv4_malformed", malformed);
    o.emplace_back("choices", array{std::move(one)});
    event(out, o);
  }

  const served_model& m_;
  answer_request r_;
  std::string id_;
  std::int64_t created_ = unix_time();
  std::vector<choice> choices_;
};

// ---- text

class text_reply final : public reply {
 public:
  text_reply(const served_model& m, const answer_request& r)
      : m_(m), r_(r), id_(fresh_id("cmpl-")), choices_(r.choices()) {}

  void begun(const token_usage&, std::string&) override {}

  void add(std::size_t i, const std::vector<part>& parts, const token_entry* t, std::string& out) override {
    choice& c = choices_[i];
    std::string words;
    for (const part& p : parts) words += p.words;
    lists now;
    if (t && r_.logprobs && !t->end) {
      note(now, *t, c.offset);
      note(c.all, *t, c.offset);
      c.offset += characters(text::repaired(std::string(bytes_of(m_, t->id))));
    }
    c.words += words;
    if (r_.stream && (!words.empty() || !now.tokens.empty())) chunk(out, i, words, nullptr, now);
  }
  void ended(std::size_t i, const ending& e, std::string& out) override {
    choices_[i].how = e;
    if (r_.stream) chunk(out, i, "", reason_of(e), {});
  }
  void finished(const token_usage& u, std::string& out) override {
    array all;
    if (!r_.stream)
      for (std::size_t i = 0; i < choices_.size(); ++i)
        all.push_back(one(i, choices_[i].words, reason_of(choices_[i].how), choices_[i].all));
    object o = head();
    o.emplace_back("choices", std::move(all));
    o.emplace_back("usage", usage_json(u));
    if (!r_.stream) {
      out += text::python::dumps(o);
      return;
    }
    if (r_.usage_in_stream) event(out, o);
    out += "data: [DONE]\n\n";
  }
  void broken(const std::string& what, std::string& out) override {
    out += "data: " + error_body(500, what) + "\n\n";
  }

 private:
  /// The protocol's four lists.
  struct lists {
    array tokens, log_probabilities, top, offsets;
  };
  struct choice {
    std::string words;
    lists all;
    index_t offset = 0;
    ending how;
  };

  static index_t characters(const std::string& s) {
    return std::count_if(s.begin(), s.end(),
                         [](char b) { return (static_cast<unsigned char>(b) & 0xC0) != 0x80; });
  }
  void note(lists& to, const token_entry& t, index_t offset) const {
    const auto spelled = [&](std::int32_t id) { return text::repaired(std::string(bytes_of(m_, id))); };
    to.tokens.push_back(spelled(t.id));
    to.log_probabilities.push_back(log_probability(t.log_probability));
    object top;
    for (const auto& p : t.top)
      if (const std::string word = spelled(p.id); !json(top).find(word))
        top.emplace_back(word, log_probability(p.log_probability));
    to.top.push_back(std::move(top));
    to.offsets.push_back(number(offset));
  }
  object head() const {
    return object{{"id", id_},
                  {"object", "text_completion"},
                  {"created", number(created_)},
                  {"model", m_.name},
                  {"system_fingerprint", nullptr}};
  }
  object one(std::size_t i, const std::string& words, json reason, const lists& l) const {
    json logprobs;
    if (r_.logprobs)
      logprobs = object{{"tokens", l.tokens},
                        {"token_logprobs", l.log_probabilities},
                        {"top_logprobs", l.top},
                        {"text_offset", l.offsets}};
    return object{{"text", words},
                  {"index", number(static_cast<index_t>(i))},
                  {"logprobs", std::move(logprobs)},
                  {"finish_reason", std::move(reason)}};
  }
  void chunk(std::string& out, std::size_t i, const std::string& words, json reason, const lists& l) const {
    object o = head();
    o.emplace_back("choices", array{one(i, words, std::move(reason), l)});
    event(out, o);
  }

  const served_model& m_;
  answer_request r_;
  std::string id_;
  std::int64_t created_ = unix_time();
  std::vector<choice> choices_;
};

std::vector<std::int32_t> ids_of(const served_model& m, const array& list) {
  std::vector<std::int32_t> ids;
  for (const json& one : list) {
    const auto* n = one.get_if<json::integer>();
    std::int32_t id = -1;
    if (n) std::from_chars(n->digits.data(), n->digits.data() + n->digits.size(), id);
    if (id < 0 || id >= m.vocabulary)
      throw refusal(400,
                    "prompt: expected token ids from 0 to " + std::to_string(m.vocabulary - 1) + ", found " +
                        text::python::shown(one),
                    "prompt");
    ids.push_back(id);
  }
  if (ids.empty()) throw refusal(400, "prompt: a list of no tokens", "prompt");
  return ids;
}
std::vector<std::int32_t> ids_of(const served_model& m, const std::string& words) {
  std::vector<std::int32_t> ids = text_prompt(m, words);
  if (ids.empty()) throw refusal(400, "prompt: no tokens", "prompt");
  return ids;
}

}  // namespace

exchange_of chat(const served_model& m, std::string_view body) {
  const json in = read_body(body);
  fields f(in, "");
  answer_request r;
  expect_model(m, f);
  std::vector<text::chat_message> messages;
  const array* list = f.list("messages");
  if (!list || list->empty()) throw refusal(400, "messages: expected a list of messages", "messages");
  for (std::size_t i = 0; i < list->size(); ++i)
    messages.push_back(message_of((*list)[i], "messages[" + std::to_string(i) + "]"));
  if (messages.back().role == "assistant" || messages.back().role == "system")
    throw refusal(
        400,
        "messages: the last one must be a user's or a tool's; going on with an assistant's is not supported",
        "messages");

  tools_of tools = read_tools(f);
  std::string choice = tools.functions.empty() ? "none" : "auto", named;
  if (const json* v = f.find("tool_choice")) {
    if (v->text()) {
      choice = *v->text();
    } else {
      fields t(*v, "tool_choice");
      fields function(t.need("function"), "tool_choice.function");
      named = function.string("name").value_or("");
      choice = "named";
      t.ignore({"type"});
      t.finish();
      function.finish();
    }
    if (choice != "none" && choice != "auto" && choice != "required" && choice != "named")
      f.wrong("tool_choice", "none, auto, required or a function", *v);
    if (choice != "none" && choice != "auto" && tools.functions.empty())
      throw refusal(400, "tool_choice: there are no tools", "tool_choice");
  }
  const bool parallel = f.boolean("parallel_tool_calls").value_or(true);

  json format;  // as the prompt shows it
  if (const json* v = f.find("response_format")) {
    fields t(*v, "response_format");
    const std::string type = t.string("type").value_or("");
    if (type == "json_schema") {
      fields s(t.need("json_schema"), "response_format.json_schema");
      s.string("name");
      s.string("description");
      s.boolean("strict");
      const json& schema = s.need("schema");
      s.finish();
      format = schema;
      r.limit = limit_of("response_format", [&] { return dsv4::json_grammar(schema); });
    } else if (type == "json_object") {
      r.limit = limit_of("response_format", [] { return dsv4::json_object_grammar(); });
    } else if (type != "text") {
      t.wrong("type", "text, json_object or json_schema", json(type));
    }
    t.finish();
  }
  if (r.limit && choice != "none")
    throw refusal(400, "response_format: together with tools it is not supported, unless tool_choice is none",
                  "response_format", "unsupported_parameter");
  if (choice == "none") {
    if (f.find("tool_choice")) tools.functions.clear();
  } else if (choice != "auto" || tools.strict || !parallel) {
    array those = tools.functions;
    if (choice == "named")
      std::erase_if(those, [&](const json& one) { return *one.find("name")->text() != named; });
    if (those.empty())
      throw refusal(400, "tool_choice: no tool is named " + text::python::shown(json(named)), "tool_choice");
    r.limit = limit_of("tools", [&] {
      return dsv4::calls_grammar(those,
                                 {.may_answer = choice == "auto", .one = choice == "named" || !parallel});
    });
  }

  const std::string think = thinking_of(m, f);
  read_common(f, m, r);
  r.n = f.integer("n", 1, most_choices).value_or(1);
  const bool logprobs = f.boolean("logprobs").value_or(false);
  const auto top = f.integer("top_logprobs", 0, most_top);
  if (top && !logprobs) throw refusal(400, "top_logprobs: needs logprobs", "top_logprobs");
  if (logprobs) r.logprobs = top.value_or(0);
  const auto newer = f.integer("max_completion_tokens", 1, std::numeric_limits<std::int32_t>::max()),
             older = f.integer("max_tokens", 1, std::numeric_limits<std::int32_t>::max());
  f.finish();
  r.prompts.push_back(chat_prompt(m, std::move(messages), tools.functions, format, think, r.mode));
  r.max_new = room_for(m, r.prompts, newer ? newer : older, "max_tokens");
  auto answer = std::make_unique<chat_reply>(m, r);
  return {std::move(r), std::move(answer)};
}

exchange_of completions(const served_model& m, std::string_view body) {
  const json in = read_body(body);
  fields f(in, "");
  answer_request r;
  r.chat = false;
  expect_model(m, f);
  const json& prompt = f.need("prompt");
  if (prompt.text()) {
    r.prompts.push_back(ids_of(m, *prompt.text()));
  } else if (const auto* list = prompt.get_if<array>(); list && !list->empty()) {
    if (list->front().is<json::integer>()) {
      r.prompts.push_back(ids_of(m, *list));
    } else {
      for (const json& one : *list) {
        if (one.text())
          r.prompts.push_back(ids_of(m, *one.text()));
        else if (const auto* ids = one.get_if<array>())
          r.prompts.push_back(ids_of(m, *ids));
        else
          f.wrong("prompt", "strings, or lists of token ids", one);
      }
    }
  } else {
    f.wrong("prompt", "a string, a list of strings, token ids or a list of lists of them", prompt);
  }
  read_common(f, m, r);
  r.n = f.integer("n", 1, most_choices).value_or(1);
  if (static_cast<std::int64_t>(r.choices()) > most_choices)
    throw refusal(400, "prompt: more than 128 answers in one request", "prompt");
  if (const auto best = f.integer("best_of", 1, most_choices); best && *best != r.n)
    throw refusal(400, "best_of: other than n it is not supported", "best_of", "unsupported_parameter");
  if (f.boolean("echo").value_or(false))
    throw refusal(400, "echo: is not supported (dsv4 forward gives the logits of a prompt)", "echo",
                  "unsupported_parameter");
  if (const auto top = f.integer("logprobs", 0, most_top)) r.logprobs = *top;
  constexpr std::int64_t usual = 16;  // OpenAI's default
  const auto asked = f.integer("max_tokens", 1, std::numeric_limits<std::int32_t>::max());
  f.finish();
  r.max_new = room_for(m, r.prompts, asked, "max_tokens");
  if (!asked) r.max_new = std::min<index_t>(r.max_new, usual);
  auto answer = std::make_unique<text_reply>(m, r);
  return {std::move(r), std::move(answer)};
}

namespace {
object model_json(const served_model& m, std::int64_t since) {
  return object{{"id", m.name},
                {"object", "model"},
                {"created", number(since)},
                {"owned_by", "dsv4"},
                {"context_length", number(m.context)}};
}
}  // namespace

std::string models(const served_model& m, std::int64_t since) {
  return text::python::dumps(object{{"object", "list"}, {"data", array{model_json(m, since)}}});
}
std::string model(const served_model& m, std::int64_t since, std::string_view name) {
  if (name != m.name)
    throw refusal(404,
                  "model " + text::python::shown(json(text::repaired(std::string(name)))) + " is not here",
                  "model", "model_not_found");
  return text::python::dumps(model_json(m, since));
}

std::string error_body(int status, const std::string& what, const std::string& param,
                       const std::string& code) {
  const char* type = status == 401   ? "authentication_error"
                     : status == 429 ? "rate_limit_error"
                     : status >= 500 ? "server_error"
                                     : "invalid_request_error";
  return text::python::dumps(object{{"error", object{{"message", what},
                                                     {"type", type},
                                                     {"param", param.empty() ? json() : json(param)},
                                                     {"code", code.empty() ? json() : json(code)}}}});
}

}  // namespace cli::serving::openai
