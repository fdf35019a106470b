// SPDX-License-Identifier: MIT
// dsv4 tokenize: text to token ids and pieces, and back.
#include <iostream>
#include <iterator>
#include <string>

#include <nlohmann/json.hpp>

#include <dsv4/core/error.hpp>
#include <dsv4/io/json_text.hpp>
#include <dsv4/io/mapped_file.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "commands.hpp"
#include "input.hpp"

namespace cli {
namespace {

using dsv4::text::special_tokens;
using dsv4::text::token_id;
using json = nlohmann::ordered_json;

special_tokens reading(const std::string& name) {
  if (name == "allowed") return special_tokens::allowed;
  if (name == "as-text") return special_tokens::as_text;
  throw usage_error("special: found '" + name + "', expected allowed or as-text");
}

/// "68690a" as bytes.
std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const std::size_t end = hex.find_first_not_of("0123456789abcdefABCDEF", i);
    if (hex.size() % 2 != 0 || end != hex.npos)
      throw usage_error("hex: expected pairs of hexadecimal digits");
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

/// Ids of a JSON list.  Those without a token are refused: decoding would leave them out without a word.
std::vector<token_id> ids_of(const json& list, const dsv4::text::tokenizer& t) {
  std::vector<token_id> ids;
  for (const json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= t.vocab_size() || !t.id_to_token(id.get<token_id>()))
      throw usage_error("ids: found " + id.dump() + " at position " + std::to_string(ids.size()) +
                        ", expected the id of a token, 0 to " + std::to_string(t.vocab_size() - 1));
    ids.push_back(id.get<token_id>());
  }
  return ids;
}

/// One request of --lines: a string, {"text": ...}, {"hex": ...} or {"ids": [...]}.
json answer(const json& asked, const dsv4::text::tokenizer& t, const tokenize_options& o) {
  const auto field = [&](const char* name) { return asked.is_object() && asked.contains(name); };
  if (field("ids") && asked["ids"].is_array())
    return {{"text", t.decode(ids_of(asked["ids"], t), asked.value("skip_special", o.skip_special))}};
  const bool hex = field("hex");
  const json& text = hex ? asked["hex"] : field("text") ? asked["text"] : asked;
  if (!text.is_string())
    throw usage_error("expected a string, {\"text\": ...}, {\"hex\": ...} or {\"ids\": [...]}");
  const special_tokens how = reading(field("special") ? asked["special"].get<std::string>() : o.special);
  const auto& s = text.get_ref<const std::string&>();
  return {{"ids", t.encode(hex ? from_hex(s) : s, how)}};
}

/// One answer a line; a request that cannot be answered gets {"error": ...}, and the next one is read.
void answer_lines(std::istream& in, const dsv4::text::tokenizer& t, const tokenize_options& o) {
  for (std::string line; std::getline(in, line);) {
    json told;
    try {
      told = answer(dsv4::io::parse_json("line", line), t, o);
    } catch (const json::exception& e) {
      told = {{"error", e.what()}};
    } catch (const usage_error& e) {
      told = {{"error", e.what()}};
    } catch (const dsv4::error& e) {
      told = {{"error", e.what()}};
    }
    std::cout << told.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
  }
}

}  // namespace

void tokenize(const tokenize_options& o) {
  const auto t = open_tokenizer(o.tokenizer.empty() ? o.model : o.tokenizer);
  if (!o.ids.empty()) {
    std::cout << t.decode(ids_of(read_integers(o.ids), t), o.skip_special) << '\n';
    return;
  }
  if (o.lines) return answer_lines(std::cin, t, o);

  std::string text;
  if (o.text)
    text = *o.text;
  else if (!o.file.empty()) {
    const dsv4::io::mapped_file file(o.file);
    text = file.text();
  } else
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  const std::vector<token_id> ids = t.encode(text, reading(o.special));
  json told{{"ids", ids}, {"pieces", json::array()}};
  for (const token_id id : ids) told["pieces"].push_back(dsv4::text::repaired(t.bytes_of(id)));
  std::cout << told.dump() << '\n';
}

}  // namespace cli
