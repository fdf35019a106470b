// SPDX-License-Identifier: MIT
// dsv4 serve: options, the model, and what is kept between runs.
#include "serve.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/text/prompt.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "arguments.hpp"
#include "input.hpp"
#include "serve_protocol.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;
namespace text = dsv4::text;

struct serve_options {
  engine_options engine;
  fs::path tokenizer, key_file, prefixes;
  std::string name, think = "high";
  index_t context = 0, max_new = 4096, prefix_mib = 1024;
  dsv4::batch_limits limits{.running = 16, .queued = 256};
  serving::http_options http;
};

constexpr index_t bytes_per_mib = index_t{1} << 20;

std::vector<std::string> read_keys(const fs::path& file) {
  std::ifstream in(file);
  if (!in) throw dsv4::format_error(file.string() + ": cannot be read");
  std::vector<std::string> keys;
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) keys.push_back(line);
  }
  if (keys.empty()) throw dsv4::format_error(file.string() + ": expected keys, one a line; found none");
  return keys;
}

void serve(serve_options o) {
  serving::expect_http();
  const dsv4::io::checkpoint checkpoint = open_model(o.engine.model);
  const dsv4::config& c = checkpoint.configuration();
  const text::tokenizer tokenizer = open_tokenizer(o.tokenizer.empty() ? o.engine.model : o.tokenizer);
  if (tokenizer.vocab_size() > c.vocab_size)
    throw dsv4::format_error("the tokenizer has " + std::to_string(tokenizer.vocab_size()) +
                             " tokens, the model only " + std::to_string(c.vocab_size));
  if (o.context > c.max_position_embeddings)
    throw usage_error("--context: " + std::to_string(o.context) +
                      " tokens, but the model's context ends at " +
                      std::to_string(c.max_position_embeddings));
  if (!o.key_file.empty()) o.http.keys = read_keys(o.key_file);
  if (!o.prefixes.empty() && !fs::is_directory(o.prefixes))
    throw usage_error("--prefix-cache: " + o.prefixes.string() + " is no folder");

  std::vector<std::int32_t> stop = end_of_text_ids(o.engine.model);
  if (stop.empty() && tokenizer.eos()) stop.push_back(*tokenizer.eos());
  const auto id_of = [&](std::string_view token) { return tokenizer.token_to_id(token).value_or(-1); };
  fs::path folder = fs::absolute(o.engine.model).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  const serving::served_model m{
      .name = o.name.empty() ? folder.filename().string() : o.name,
      .tokenizer = tokenizer,
      .vocabulary = c.vocab_size,
      .context = o.context > 0 ? o.context : std::min(default_context, c.max_position_embeddings),
      .max_new = o.max_new,
      .think = o.think,
      .stop_ids = stop,
      .think_end = id_of(text::end_think_token),
      .dsml = id_of(text::dsml_token),
      // Answers with a grammar are words; of the special tokens they have the one that DSML is made of.
      .spellings = std::make_shared<const dsv4::token_spellings>(c.vocab_size, [&](std::int32_t id) {
        return tokenizer.is_special(id) && id != id_of(text::dsml_token) ? std::string_view()
                                                                         : tokenizer.bytes_of(id);
      })};

  o.limits.prefix_bytes = o.prefix_mib * bytes_per_mib;
  auto engine = serving::open_batch_engine(o.engine, {c, checkpoint.weights(), o.limits, o.engine.threads});
  if (!o.prefixes.empty())
    std::fprintf(stderr, "%s: %zu prefixes\n", o.prefixes.string().c_str(),
                 engine->load_prefixes(o.prefixes));
  if (const std::string note = note_of(o.engine.model); !note.empty())
    std::fprintf(stderr, "Note: %s\n", note.c_str());
  serving::worker worker(std::move(engine), o.limits.running + o.limits.queued);
  serving::serve_http(m, worker, o.http);
  serving::batch_engine& rest = worker.join();
  if (!o.prefixes.empty())
    std::fprintf(stderr, "%s: %zu prefixes saved\n", o.prefixes.string().c_str(),
                 rest.save_prefixes(o.prefixes));
}

}  // namespace

void add_serve(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb =
      cli::add_verb(app, "serve", "answer requests over HTTP: OpenAI's and Anthropic's protocols");
  auto o = std::make_shared<serve_options>();
  add_engine(verb, o->engine);
  verb.add_option("--tokenizer", o->tokenizer, "tokenizer.json (default: the one beside the model)")
      ->type_name("FILE");
  verb.add_option("--name", o->name, "what requests call the model (default: the folder's name)")
      ->type_name("NAME");
  verb.add_option("--host", o->http.host, "address to listen at")
      ->type_name("ADDRESS")
      ->capture_default_str();
  verb.add_option("--port", o->http.port, "port to listen at; 0: any that is free, which is then printed")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  verb.add_option("--api-key-file", o->key_file, "requests must bring one of these keys, one a line")
      ->type_name("FILE");
  verb.add_option("--think", o->think, "reasoning before answers to requests that do not say")
      ->check(CLI::IsMember({"high", "max", "off"}))
      ->capture_default_str();
  verb.add_option("--context", o->context,
                  "tokens of prompt and answer at most (default: 8192, or the model's context)")
      ->check(CLI::PositiveNumber);
  verb.add_option("--max-new", o->max_new, "tokens of an answer to requests that do not say")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--running", o->limits.running, "answers that are worked on at the same time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  verb.add_option("--queued", o->limits.queued, "more that may wait; beyond that: 429")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  verb.add_option("--tokens-in-memory", o->limits.tokens_in_memory,
                  "prompts and answers of all that are worked on, at their longest; 0: no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--prefix-mib", o->prefix_mib,
                  "memory for beginnings of prompts that may come again; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--prefix-cache", o->prefixes, "folder where these are kept between runs")
      ->type_name("DIR");
  verb.add_option("--body-bytes", o->http.body_bytes, "largest body of a request; beyond that: 413")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--connections", o->http.connections, "connections at the same time")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--grace", o->http.grace_seconds,
                  "seconds for answers under way when the server is to stop")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--patience", o->http.patience_seconds,
                  "seconds for a client that neither sends nor takes anything")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  verb.footer(R"(
Examples
  dsv4 serve --model DeepSeek-V4-Flash
  dsv4 serve --model DeepSeek-V4-Flash --port 9000 --running 32 --prefix-cache /var/cache/dsv4
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model": "DeepSeek-V4-Flash", "messages": [{"role": "user", "content": "Hello"}]}'

POST /v1/chat/completions /v1/completions /v1/messages /v1/messages/count_tokens, GET /v1/models /health /metrics;
docs/serve.md says what they understand.  The same request gives the same answer, alone and under load: a request
without a seed has seed 0.  Prints where it listens, and stops at Ctrl-C or SIGTERM when the answers under way have come
to their end (a second one: at once).  No TLS: put a proxy before it (docs/serve.md).)");
  verb.callback([o, &run] { run = [o] { serve(*o); }; });
}

}  // namespace cli
