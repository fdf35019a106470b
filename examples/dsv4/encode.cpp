// SPDX-License-Identifier: MIT
// dsv4 encode, dsv4 parse.
#include "encode.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/chat_parsing.hpp>
#include <dsv4/text/prompt_ids.hpp>

#include "arguments.hpp"
#include "outputs.hpp"

namespace cli {
namespace {

namespace text = dsv4::text;

/// What is printed for one input: {key: value}.
struct answer {
  const char* key;
  text::json value;
};
/// What a verb makes of one input; `where` stands before what it has to say, "" or "line 3: ".
using conversion = std::function<answer(const text::json& input, const std::string& where)>;

struct encode_options {
  std::filesystem::path model, tokenizer;
  bool ids = false, strict = false;
};

/// dsv4 encode: text, or ids in which nothing that a message says is a control token.
conversion encoder(const encode_options& o) {
  std::shared_ptr<const text::tokenizer> tokens;
  if (o.ids)
    tokens =
        std::make_shared<text::tokenizer>(text::tokenizer::load(o.tokenizer.empty() ? o.model : o.tokenizer));
  return [tokens, strict = o.strict](const text::json& input, const std::string& where) -> answer {
    const std::vector<std::string> unread = text::unread_fields(input);
    if (strict && !unread.empty()) throw text::refused("UnknownField", unread.front());
    for (const std::string& what : unread)
      std::fprintf(stderr, "dsv4: warning: %s%s; it is ignored (--strict refuses it)\n", where.c_str(),
                   what.c_str());
    const text::prompt p = text::encode(text::read_request(input));
    if (!tokens) return {"expected", p.text};
    text::json::array list;
    for (const text::token_id id : text::prompt_ids(*tokens, p)) list.emplace_back(static_cast<int>(id));
    return {"ids", std::move(list)};
  };
}
answer parse(const text::json& input, const std::string&) {
  return {"expected", text::to_json(text::parse_completion(input))};
}

/// One line of JSON in ASCII, at once: the reader may wait for it before it writes the next input.
void print(const char* key, const text::json& value) {
  std::cout << text::python::dumps(text::json::object{{key, value}}, true) << '\n';
  check_output_arrives();
}

/// Prints the answer to one input; a refusal is an answer too, and is then passed on.
void convert(const conversion& f, std::string_view input, const std::string& where) {
  try {
    const answer a = f(text::python::loads(input), where);
    print(a.key, a.value);
  } catch (const text::refused& e) {
    print("error", e.kind);
    throw;
  } catch (const text::json_error&) {
    print("error", "JSONDecodeError");
    throw;
  } catch (const dsv4::unsupported&) {
    print("error", "NotImplementedError");
    throw;
  }
}

/// Refusals are told on standard error and do not stop the next line; at the end lines that are no JSON do.
void convert_lines(const conversion& f) {
  std::string line;
  std::size_t number = 0, no_json = 0;
  while (std::getline(std::cin, line)) {
    const std::string where = "line " + std::to_string(++number) + ": ";
    try {
      convert(f, line, where);
    } catch (const text::json_error& e) {
      std::fprintf(stderr, "dsv4: %s%s\n", where.c_str(), e.what());
      ++no_json;
    } catch (const text::refused& e) {
      std::fprintf(stderr, "dsv4: %s%s\n", where.c_str(), e.what());
    } catch (const dsv4::unsupported& e) {
      std::fprintf(stderr, "dsv4: %s%s\n", where.c_str(), e.what());
    }
  }
  if (std::cin.bad()) throw dsv4::error("standard input cannot be read to its end");
  if (no_json)
    throw dsv4::format_error(std::to_string(no_json) + " of " + std::to_string(number) +
                             " lines are no JSON");
}

/// The verb; make() gives its conversion, when it runs.
CLI::App& add_verb(CLI::App& app, std::function<void()>& run, const std::function<conversion()>& make,
                   const char* name, const char* about, const char* footer) {
  CLI::App& verb = cli::add_verb(app, name, about);
  auto lines = std::make_shared<bool>(false);
  verb.add_flag("--lines", *lines, "an input per line, an answer per line; refusals do not stop it");
  verb.footer(footer);
  verb.callback([make, lines, &run] {
    run = [make, lines] {
      const conversion f = make();
      if (*lines) return convert_lines(f);
      const std::string input(std::istreambuf_iterator<char>(std::cin), {});
      if (std::cin.bad()) throw dsv4::error("standard input cannot be read to its end");
      convert(f, input, "");
    };
  });
  return verb;
}

}  // namespace

void add_encode(CLI::App& app, std::function<void()>& run) {
  auto o = std::make_shared<encode_options>();
  CLI::App& verb = add_verb(
      app, run, [o] { return encoder(*o); }, "encode",
      "messages (JSON on standard input) to the prompt that the model reads",
      R"(
Examples
  echo '{"messages":[{"role":"user","content":"Hi"}],"thinking_mode":"chat"}' | dsv4 encode
  dsv4 encode --model DeepSeek-V4-Flash --ids < conversation.json | jq -c .ids > ids.json
  dsv4 generate --model DeepSeek-V4-Flash --ids ids.json --max-new 100
  dsv4 encode --lines < inputs.jsonl > prompts.jsonl

An input is a list of messages, or an object:
  messages               role system, developer, user, assistant, tool, latest_reminder; content, tools, tool_calls,
                         reasoning_content, response_format, task, wo_eos as OpenAI's chat API has them
  thinking_mode          "thinking" (default) or "chat"
  reasoning_effort       null or "high" (the same), or "max"
  drop_thinking          true (default): no reasoning before the last user message, unless there are tools
  add_default_bos_token  true (default)
  context                messages before these: they are taken into account and not printed
  tools                  as in OpenAI's requests: of the system message
Prints {"expected": PROMPT}, or {"error": NAME} with the reason on standard error: NAME is the exception that the
released encoder raises (JSONDecodeError: the input is no JSON; UnknownField: --strict).  Fields that are not in the
list above are ignored, as that encoder ignores them, with a warning on standard error.

--ids prints {"ids": [...]} instead: control tokens where the template has them, and text everywhere else, whatever
it spells.  The prompt as text does not say which is which: in
  dsv4 encode | dsv4 tokenize --special allowed
a user who writes <｜User｜> or </think> speaks as the template does.  That pipe is for prompts whose words you wrote.
Exit codes: 0 done, 3 refused, 4 an unknown role; with --lines 0, or 3 if a line is no JSON.)");
  CLI::Option* model =
      verb.add_option("--model", o->model, "with --ids: a checkpoint directory that has a tokenizer.json")
          ->type_name("DIR");
  CLI::Option* tokenizer = verb.add_option("--tokenizer", o->tokenizer, "with --ids: a tokenizer.json")
                               ->type_name("FILE")
                               ->excludes(model);
  CLI::Option* ids =
      verb.add_flag("--ids", o->ids, "the prompt as token ids, in which no text becomes a control token");
  verb.add_flag("--strict", o->strict, "refuse fields that are not read, instead of a warning");
  model->needs(ids);
  tokenizer->needs(ids);
  verb.parse_complete_callback([o] {
    if (o->ids && o->model.empty() && o->tokenizer.empty())
      throw CLI::ValidationError("--ids", "needs --model or --tokenizer");
  });
}

void add_parse(CLI::App& app, std::function<void()>& run) {
  add_verb(
      app, run, [] { return conversion(parse); }, "parse",
      "a completion (JSON on standard input) back to a message: reasoning, content, tool calls", R"(
Examples
  echo '{"text":"I think</think>Hi<｜end▁of▁sentence｜>","thinking_mode":"thinking"}' | dsv4 parse
  dsv4 parse --lines < completions.jsonl | jq -r .expected.content

An input has the text as the model wrote it, with its end token, and the thinking_mode of its prompt: "thinking"
(default) or "chat".
Prints {"expected": {"role": "assistant", "content": ..., "reasoning_content": ..., "tool_calls": [...]}}, or
{"error": NAME} with the reason on standard error.  Arguments of calls are JSON texts, and not checked: a model
may have written other things in them.
Exit codes: 0 done, 3 refused; with --lines 0, or 3 if a line is no JSON.)");
}

}  // namespace cli
