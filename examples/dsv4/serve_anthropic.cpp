// SPDX-License-Identifier: MIT
#include "serve_anthropic.hpp"

#include <algorithm>

#include <dsv4/gen/grammar_calls.hpp>

namespace cli::serving::anthropic {
namespace {

using object = json::object;
using array = json::array;

json number(index_t n) { return json::integer{std::to_string(n)}; }

const std::string& text_of(fields& f, std::string_view name) {
  const json& v = f.need(name);
  if (!v.text()) f.wrong(name, "a string", v);
  return *v.text();
}

[[noreturn]] void unsupported_block(const fields& f, const std::string& type) {
  throw refusal(400, f.name_of("type") + ": " + text::python::shown(json(type)) +
                         " is not supported: this model reads text");
}

/// A string, or blocks of which all are text.
std::string texts_of(const json& v, const std::string& where) {
  if (v.text()) return *v.text();
  const auto* list = v.get_if<array>();
  if (!list)
    throw refusal(400, where + ": expected a string or a list of blocks, found " + text::python::shown(v));
  std::string out;
  for (std::size_t i = 0; i < list->size(); ++i) {
    fields block((*list)[i], where + "[" + std::to_string(i) + "]");
    const std::string type = text_of(block, "type");
    if (type != "text") unsupported_block(block, type);
    if (i) out += "\n\n";
    out += text_of(block, "text");
    block.ignore({"cache_control", "citations"});
    block.finish();
  }
  return out;
}

/// A message of this protocol may be several of the model's: results of tools come before a user's words.
void read_message(const json& in, const std::string& where, std::vector<text::chat_message>& out) {
  fields f(in, where);
  const std::string role = f.string("role").value_or("");
  if (role != "user" && role != "assistant") f.wrong("role", "user or assistant", json(role));
  const json& content = f.need("content");
  f.finish();
  if (content.text()) {
    out.push_back({role, *content.text()});
    return;
  }
  const auto* list = content.get_if<array>();
  if (!list) f.wrong("content", "a string or a list of blocks", content);
  text::chat_message assistant{"assistant"};
  for (std::size_t i = 0; i < list->size(); ++i) {
    fields block((*list)[i], f.name_of("content") + "[" + std::to_string(i) + "]");
    const std::string type = text_of(block, "type");
    block.ignore({"cache_control"});
    if (type == "text") {
      const std::string& words = text_of(block, "text");
      block.ignore({"citations"});
      if (role == "user")
        out.push_back({"user", words});
      else
        assistant.content += words;
    } else if (type == "tool_result" && role == "user") {
      text::chat_message m{"tool"};
      m.tool_call_id = text_of(block, "tool_use_id");
      if (const json* v = block.find("content")) m.content = texts_of(*v, block.name_of("content"));
      if (block.boolean("is_error").value_or(false)) m.content = "Error: " + m.content;
      out.push_back(std::move(m));
    } else if (type == "tool_use" && role == "assistant") {
      const json& input = block.need("input");
      if (!input.is<object>()) block.wrong("input", "an object", input);
      assistant.tool_calls.push_back(
          {text_of(block, "name"), text::python::dumps(input), text_of(block, "id")});
    } else if (type == "thinking" && role == "assistant") {
      assistant.reasoning_content += text_of(block, "thinking");
      block.ignore({"signature"});
    } else {
      unsupported_block(block, type);
    }
    block.finish();
  }
  if (role == "assistant") out.push_back(std::move(assistant));
}

/// What both functions read.
void read_prompt(const served_model& m, fields& f, answer_request& r) {
  const std::string& name = text_of(f, "model");
  if (name != m.name)
    throw refusal(404,
                  "model: " + text::python::shown(json(name)) + " is not here; this server has " + m.name);
  std::vector<text::chat_message> all;
  if (const json* system = f.find("system")) all.push_back({"system", texts_of(*system, "system")});
  const array* list = f.list("messages");
  if (!list || list->empty()) throw refusal(400, "messages: expected a list of messages");
  for (std::size_t i = 0; i < list->size(); ++i)
    read_message((*list)[i], "messages[" + std::to_string(i) + "]", all);
  if (all.empty() || all.back().role == "assistant" || all.back().role == "system")
    throw refusal(400,
                  "messages: the last one must be the user's; going on with an assistant's is not supported");

  array functions;
  if (const array* tools = f.list("tools"))
    for (std::size_t i = 0; i < tools->size(); ++i) {
      fields tool((*tools)[i], "tools[" + std::to_string(i) + "]");
      if (const auto type = tool.string("type"); type && *type != "custom")
        throw refusal(400, tool.name_of("type") + ": tools that run at the server are not supported");
      object function{{"name", text_of(tool, "name")}};
      if (const auto words = tool.string("description")) function.emplace_back("description", *words);
      const json& schema = tool.need("input_schema");
      if (!schema.is<object>()) tool.wrong("input_schema", "a schema", schema);
      function.emplace_back("parameters", schema);
      tool.ignore({"cache_control", "strict"});
      tool.finish();
      functions.push_back(std::move(function));
    }
  if (const json* v = f.find("tool_choice")) {
    fields t(*v, "tool_choice");
    const std::string type = text_of(t, "type");
    const bool one = t.boolean("disable_parallel_tool_use").value_or(false);
    const auto named = t.string("name");
    t.finish();
    if (type != "auto" && type != "any" && type != "tool" && type != "none")
      t.wrong("type", "auto, any, tool or none", json(type));
    array those = functions;
    if (type == "tool")
      std::erase_if(
          those, [&](const json& o) { return o.find("name")->text() && *o.find("name")->text() != named; });
    if (type == "none") functions.clear();
    if (type != "none" && those.empty()) throw refusal(400, "tool_choice: there is no such tool");
    if (type == "any" || type == "tool" || (one && type == "auto")) try {
        r.limit = std::make_shared<const dsv4::grammar>(
            dsv4::calls_grammar(those, {.may_answer = type == "auto", .one = one || type == "tool"}));
      } catch (const dsv4::unsupported& e) {
        throw refusal(400, std::string("tools: ") + e.what());
      }
  }

  std::string think = "off";
  if (const json* v = f.find("thinking")) {
    fields t(*v, "thinking");
    const std::string type = text_of(t, "type");
    if (type != "enabled" && type != "disabled" && type != "adaptive")
      t.wrong("type", "enabled, adaptive or disabled", json(type));
    t.ignore({"budget_tokens", "display"});
    t.finish();
    if (type != "disabled") think = m.think == "off" ? "high" : m.think;
  }
  r.prompts.push_back(chat_prompt(m, std::move(all), functions, nullptr, think, r.mode));
}

void event(std::string& out, const char* name, const object& v) {
  out += std::string("event: ") + name + "\ndata: " + text::python::dumps(v) + "\n\n";
}

/// What the answer says of why it ended.
std::pair<json, json> reason_of(const ending& e) {
  switch (e.why) {
    case ending::at_text: return {"stop_sequence", e.stop_text};
    case ending::length: return {"max_tokens", nullptr};
    case ending::calls: return {"tool_use", nullptr};
    case ending::stop: break;
  }
  return {"end_turn", nullptr};
}

class message_reply final : public reply {
 public:
  message_reply(const served_model& m, const answer_request& r) : m_(m), r_(r), id_(fresh_id("msg_")) {}

  void begun(const token_usage& u, std::string& out) override {
    if (!r_.stream) return;
    object message = head();
    message.emplace_back("content", array{});
    message.emplace_back("stop_reason", nullptr);
    message.emplace_back("stop_sequence", nullptr);
    message.emplace_back("usage", usage_json(u));
    event(out, "message_start", {{"type", "message_start"}, {"message", std::move(message)}});
  }

  void add(std::size_t, const std::vector<part>& parts, const token_entry*, std::string& out) override {
    for (const part& p : parts) switch (p.what) {
        case part::reasoning: words(p, "thinking", "thinking_delta", out); break;
        case part::content: words(p, "text", "text_delta", out); break;
        case part::call: {
          close(out);
          const std::string id = call_id(r_, 0, calls_++, "toolu_");
          open_ = "tool_use";
          blocks_.push_back({"tool_use", "", id, p.words, false});
          start(out, object{{"type", "tool_use"}, {"id", id}, {"name", p.words}, {"input", object{}}});
          break;
        }
        case part::arguments:
          blocks_.back().words += p.words;
          delta(out, {{"type", "input_json_delta"}, {"partial_json", p.words}});
          break;
        case part::call_end:
          blocks_.back().whole = true;
          close(out);
          break;
      }
  }
  void ended(std::size_t, const ending& e, std::string& out) override {
    close(out);
    how_ = e;
  }
  void finished(const token_usage& u, std::string& out) override {
    const auto [reason, text] = reason_of(how_);
    if (r_.stream) {
      object delta{{"stop_reason", reason}, {"stop_sequence", text}};
      if (!how_.malformed.empty()) delta.emplace_back("dsv4_malformed", how_.malformed);
      event(out, "message_delta",
            {{"type", "message_delta"}, {"delta", std::move(delta)}, {"usage", usage_json(u)}});
      event(out, "message_stop", {{"type", "message_stop"}});
      return;
    }
    array content;
    std::string malformed = how_.malformed;
    for (const block& b : blocks_) {
      if (b.type == "text") content.push_back(object{{"type", "text"}, {"text", b.words}});
      if (b.type == "thinking")
        content.push_back(object{{"type", "thinking"}, {"thinking", b.words}, {"signature", ""}});
      if (b.type != "tool_use" || !b.whole) continue;
      // This protocol has the arguments as a value, so here they must be one.
      json input;
      try {
        input = text::python::loads(b.words, text::surrogates::allowed);
      } catch (const text::json_error& e) {
        malformed = "arguments of " + b.name + ": " + e.what();
        continue;
      }
      content.push_back(
          object{{"type", "tool_use"}, {"id", b.id}, {"name", b.name}, {"input", std::move(input)}});
    }
    object message = head();
    message.emplace_back("content", std::move(content));
    message.emplace_back("stop_reason", reason);
    message.emplace_back("stop_sequence", text);
    message.emplace_back("usage", usage_json(u));
    if (!malformed.empty()) message.emplace_back("dsv4_malformed", malformed);
    out += text::python::dumps(message);
  }
  void broken(const std::string& what, std::string& out) override {
    out += "event: error\ndata: " + error_body(500, what) + "\n\n";
  }

 private:
  struct block {
    std::string type, words, id, name;
    bool whole;
  };

  object head() const {
    return object{{"id", id_}, {"type", "message"}, {"role", "assistant"}, {"model", m_.name}};
  }
  static json usage_json(const token_usage& u) {
    return object{{"input_tokens", number(u.prompt - u.reused)},
                  {"cache_creation_input_tokens", number(0)},
                  {"cache_read_input_tokens", number(u.reused)},
                  {"output_tokens", number(u.answer)}};
  }
  void words(const part& p, const std::string& type, const char* kind, std::string& out) {
    if (open_ != type) {
      close(out);
      open_ = type;
      blocks_.push_back({type, "", "", "", true});
      object o{{"type", type}, {type, ""}};
      if (type == "thinking") o.emplace_back("signature", "");
      start(out, std::move(o));
    }
    blocks_.back().words += p.words;
    delta(out, {{"type", kind}, {type, p.words}});
  }
  json place() const { return number(static_cast<index_t>(blocks_.size()) - 1); }
  void start(std::string& out, object block) const {
    if (r_.stream)
      event(out, "content_block_start",
            {{"type", "content_block_start"}, {"index", place()}, {"content_block", std::move(block)}});
  }
  void delta(std::string& out, object d) const {
    if (r_.stream)
      event(out, "content_block_delta",
            {{"type", "content_block_delta"}, {"index", place()}, {"delta", std::move(d)}});
  }
  void close(std::string& out) {
    if (open_.empty()) return;
    if (r_.stream) event(out, "content_block_stop", {{"type", "content_block_stop"}, {"index", place()}});
    open_.clear();
  }

  const served_model& m_;
  answer_request r_;
  std::string id_, open_;  // the kind of the block that is being written
  std::vector<block> blocks_;
  std::size_t calls_ = 0;
  ending how_;
};

}  // namespace

exchange_of messages(const served_model& m, std::string_view body) {
  const json in = read_body(body);
  fields f(in, "");
  answer_request r;
  read_prompt(m, f, r);
  const auto most = f.integer("max_tokens", 1, std::numeric_limits<std::int32_t>::max());
  if (!most) throw refusal(400, "max_tokens: is missing");
  read_sampling(f, r.sampling, 1);
  r.sampling.seed =
      static_cast<std::uint64_t>(f.integer("seed", 0, std::numeric_limits<std::int64_t>::max()).value_or(0));
  r.stop = read_stops(f, "stop_sequences");
  r.stream = f.boolean("stream").value_or(false);
  f.ignore({"metadata", "service_tier"});
  f.finish();
  // Here, a limit beyond the context is the context: clients must send one and do not know it.
  r.max_new = room_for(m, r.prompts, std::nullopt, "max_tokens");
  r.max_new = std::min<index_t>(m.context - static_cast<index_t>(r.prompts[0].size()), *most);
  auto answer = std::make_unique<message_reply>(m, r);
  return {std::move(r), std::move(answer)};
}

std::string count_tokens(const served_model& m, std::string_view body) {
  const json in = read_body(body);
  fields f(in, "");
  answer_request r;
  read_prompt(m, f, r);
  f.finish();
  return text::python::dumps(object{{"input_tokens", number(static_cast<index_t>(r.prompts[0].size()))}});
}

std::string error_body(int status, const std::string& what) {
  const char* type = status == 401   ? "authentication_error"
                     : status == 404 ? "not_found_error"
                     : status == 413 ? "request_too_large"
                     : status == 429 ? "rate_limit_error"
                     : status == 503 ? "overloaded_error"
                     : status >= 500 ? "api_error"
                                     : "invalid_request_error";
  return text::python::dumps(object{{"type", "error"}, {"error", object{{"type", type}, {"message", what}}}});
}

}  // namespace cli::serving::anthropic
