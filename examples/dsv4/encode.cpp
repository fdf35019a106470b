// SPDX-License-Identifier: MIT
// dsv4 encode, dsv4 parse.
#include "encode.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/chat_parsing.hpp>

namespace cli {
namespace {

namespace text = dsv4::text;

/// What a verb makes of one input.
using conversion = text::json (*)(const text::json& input);

text::json encode(const text::json& input) { return text::encode(text::read_request(input)).text; }
text::json parse(const text::json& input) { return text::to_json(text::parse_completion(input)); }

/// One line of JSON in ASCII, at once: the reader may wait for it before it writes the next input.
void answer(const char* key, const text::json& value) {
  std::cout << text::python::dumps(text::json::object{{key, value}}, true) << std::endl;
  if (!std::cout) throw dsv4::error("standard output cannot be written");
}

/// Prints the answer to one input; a refusal is an answer too, and is then passed on.
void convert(conversion f, std::string_view input) {
  try {
    answer("expected", f(text::python::loads(input)));
  } catch (const text::refused& e) {
    answer("error", e.kind);
    throw;
  } catch (const text::json_error&) {
    answer("error", "JSONDecodeError");
    throw;
  } catch (const dsv4::unsupported&) {
    answer("error", "NotImplementedError");
    throw;
  }
}

/// Refusals are told on standard error and do not stop the next line; at the end lines that are no JSON do.
void convert_lines(conversion f) {
  std::string line;
  std::size_t number = 0, no_json = 0;
  while (std::getline(std::cin, line)) {
    ++number;
    try {
      convert(f, line);
    } catch (const text::json_error& e) {
      std::fprintf(stderr, "dsv4: line %zu: %s\n", number, e.what());
      ++no_json;
    } catch (const text::refused& e) {
      std::fprintf(stderr, "dsv4: line %zu: %s\n", number, e.what());
    } catch (const dsv4::unsupported& e) {
      std::fprintf(stderr, "dsv4: line %zu: %s\n", number, e.what());
    }
  }
  if (no_json)
    throw dsv4::format_error(std::to_string(no_json) + " of " + std::to_string(number) +
                             " lines are no JSON");
}

void add_verb(CLI::App& app, std::function<void()>& run, conversion f, const char* name, const char* about,
              const char* footer) {
  CLI::App& verb = *app.add_subcommand(name, about);
  auto lines = std::make_shared<bool>(false);
  verb.add_flag("--lines", *lines, "an input per line, an answer per line; refusals do not stop it");
  verb.footer(footer);
  verb.callback([f, lines, &run] {
    run = [f, lines] {
      if (*lines) return convert_lines(f);
      convert(f, std::string(std::istreambuf_iterator<char>(std::cin), {}));
    };
  });
}

}  // namespace

void add_encode(CLI::App& app, std::function<void()>& run) {
  add_verb(app, run, encode, "encode", "messages (JSON on standard input) to the prompt that the model reads",
           R"(
Examples
  echo '{"messages":[{"role":"user","content":"Hi"}],"thinking_mode":"chat"}' | dsv4 encode
  dsv4 encode < conversation.json | jq -rj .expected > prompt.txt
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
released encoder raises (JSONDecodeError: the input is no JSON).  Message text may hold special tokens; a
tokenizer must be told where they count (docs/chat-encoding.md).
Exit codes: 0 done, 3 refused, 4 an unknown role; with --lines 0, or 3 if a line is no JSON.)");
}

void add_parse(CLI::App& app, std::function<void()>& run) {
  add_verb(app, run, parse, "parse",
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
