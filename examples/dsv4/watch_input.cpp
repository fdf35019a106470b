// SPDX-License-Identifier: MIT
// What dsv4 look and dsv4 trace read.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <dsv4/text/unicode.hpp>

#include "arguments.hpp"
#include "input.hpp"
#include "look.hpp"

namespace cli {

void add_watched(CLI::App& verb, watch_options& o) {
  add_engine(verb, o.engine);
  auto& what = *verb.add_option_group("prompt");
  CLI::Option* prompt =
      what.add_option("--prompt", o.prompt, "the text to read; -: from standard input")->type_name("TEXT");
  what.add_option("--ids", o.ids, "token ids: 1,5,9 or [1,5,9] or a file that holds such a list")
      ->type_name("FILE|LIST");
  what.require_option(1);
  verb.add_option("--tokenizer", o.tokenizer, "tokenizer.json (default: the one beside the model)")
      ->type_name("FILE");
  verb.add_flag("--special", o.special, "special tokens in the prompt are meant")->needs(prompt);
}

watched_text read_watched(const watch_options& o, const dsv4::config& c) {
  watched_text text;
  const std::filesystem::path beside = o.tokenizer.empty() ? o.engine.model : o.tokenizer;
  // Ids need no tokenizer, but tokens that have texts are easier to read.
  if (o.prompt || !o.tokenizer.empty() || std::filesystem::exists(beside / "tokenizer.json"))
    text.tokenizer = open_tokenizer(beside);
  text.ids = o.prompt ? read_prompt(*text.tokenizer, *o.prompt, o.special, c) : read_ids(o.ids, c);
  const auto n = static_cast<index_t>(text.ids.size());
  if (n > c.max_position_embeddings)
    throw usage_error("--prompt: found " + std::to_string(n) +
                      " tokens, expected at most the model's context of " +
                      std::to_string(c.max_position_embeddings));
  return text;
}

std::string watched_text::piece(std::int32_t id) const {
  if (!tokenizer || id >= tokenizer->vocab_size()) return "#" + std::to_string(id);
  return dsv4::text::repaired(tokenizer->bytes_of(id));
}

double shortened(double x, int digits) {
  if (!std::isfinite(x)) return x;
  char text[40];
  std::snprintf(text, sizeof text, "%.*g", digits, x);
  return std::strtod(text, nullptr);
}

}  // namespace cli
