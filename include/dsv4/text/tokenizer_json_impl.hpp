// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of tokenizer_json.hpp.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "../io/config_json.hpp"
#include "../io/json_fields.hpp"
#include "../io/json_text.hpp"
#include "../io/message.hpp"
#include "tokenizer_events.hpp"
#include "tokenizer_json.hpp"

namespace dsv4::text {

namespace detail {

DSV4_INLINE std::string bytes_of_token(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const utf8_step s = step_at(token, at);
    const int b = s.valid ? byte_level.byte(code_point_at(token, at)) : -1;
    if (b < 0) return std::string(token);
    bytes += static_cast<char>(static_cast<unsigned char>(b));
    at += usize(s.length);
  }
  return bytes;
}

/// From the parsed document to the parts.
class tokenizer_reader {
 public:
  using json = nlohmann::json;
  tokenizer_reader(const std::filesystem::path& file, std::string_view text) : file_(file), events_(file) {
    io::read_json_events(file, text, events_);
    if (!events_.rest.is_object()) io::fail_format(file_, "expected an object, found " + shown(events_.rest));
  }

  tokenizer_parts read() {
    read_batching();
    only(events_.rest, "", "normalizer", {nullptr, {{"type", "Sequence"}, {"normalizers", json::array()}}});
    read_model(need(events_.rest, "", "model"));
    read_added();
    read_tokens();
    read_merges();
    read_pre_tokenizer(need(events_.rest, "", "pre_tokenizer"), "pre_tokenizer");
    if (!byte_level_seen_) io::fail_unsupported(file_, "pre_tokenizer: without ByteLevel at the end");
    const json& decoder = need(events_.rest, "", "decoder");
    if (const std::string type = text(decoder, "decoder", "type"); type != "ByteLevel")
      io::fail_unsupported(file_, "decoder: " + io::in_quotes(type) + ", only ByteLevel is implemented");
    if (const json* post = find(events_.rest, "post_processor")) read_post_processor(*post, "post_processor");
    return std::move(parts_);
  }

 private:
  // ---- fields -------------------------------------------------------------------------------------------------
  static std::string shown(const json& v) { return io::detail::json_fields::shown(v); }
  [[noreturn]] void bad(const std::string& place, const json& found, const std::string& expected) const {
    io::fail_format(file_, place + ": found " + shown(found) + ", expected " + expected);
  }
  static std::string inside(const std::string& place, const std::string& name) {
    return place.empty() ? name : place + "." + name;
  }
  /// Null and absent are the same.
  static const json* find(const json& object, const char* name) {
    const auto at = object.find(name);
    return at == object.end() || at->is_null() ? nullptr : &*at;
  }
  const json& need(const json& object, const std::string& place, const char* name) const {
    if (!object.is_object()) bad(place, object, "an object");
    const json* v = find(object, name);
    if (!v) io::fail_format(file_, inside(place, name) + " is missing");
    return *v;
  }
  std::string text(const json& object, const std::string& place, const char* name) const {
    const json& v = need(object, place, name);
    if (!v.is_string()) bad(inside(place, name), v, "a string");
    return v.get<std::string>();
  }
  const json& list(const json& object, const std::string& place, const char* name) const {
    const json& v = need(object, place, name);
    if (!v.is_array()) bad(inside(place, name), v, "a list");
    return v;
  }
  bool flag(const json& object, const std::string& place, const char* name, bool absent) const {
    if (!object.is_object()) bad(place, object, "an object");
    const json* v = find(object, name);
    if (v && !v->is_boolean()) bad(inside(place, name), *v, "true or false");
    return v ? v->get<bool>() : absent;
  }
  token_id id(const json& v, const std::string& place) const {
    if (!v.is_number_unsigned() || v.get<std::uint64_t>() >= std::uint64_t{io::detail::most_vocab})
      bad(place, v, "an id");
    return v.get<token_id>();
  }
  /// The field is absent, or one of the values that ask for nothing special.
  void only(const json& object, const std::string& place, const char* name,
            const std::vector<json>& plain) const {
    if (!object.is_object()) bad(place, object, "an object");
    const json* v = find(object, name);
    if (v && std::find(plain.begin(), plain.end(), *v) == plain.end())
      io::fail_unsupported(file_, inside(place, name) + ": found " + shown(*v) + ", not implemented");
  }

  /// truncation and padding: left behind by a program that saved its tokenizer after it had used it.
  void read_batching() {
    const auto hint = [](const json& v) {
      return ": found " + shown(v) + ", which would change what a text is read as; set it to null";
    };
    if (const json* v = find(events_.rest, "truncation"))
      io::fail_unsupported(file_, "truncation" + hint(*v));
    const json* v = find(events_.rest, "padding");
    if (!v) return;
    const bool to_the_longest = v->is_object() && v->value("strategy", json()) == "BatchLongest" &&
                                v->value("pad_to_multiple_of", json()).is_null();
    if (!to_the_longest) io::fail_unsupported(file_, "padding" + hint(*v));
    parts_.notes.push_back(
        file_.string() +
        ": padding to the longest text of a batch is set; texts are read one by one here, and it "
        "is ignored");
  }

  // ---- vocabulary ---------------------------------------------------------------------------------------------
  void read_model(const json& model) {
    if (const std::string type = text(model, "model", "type"); type != "BPE")
      io::fail_unsupported(file_, "model.type: found " + io::in_quotes(type) + ", only BPE is implemented");
    only(model, "model", "dropout", {0.0});
    only(model, "model", "continuing_subword_prefix", {""});
    only(model, "model", "end_of_word_suffix", {""});
    only(model, "model", "byte_fallback", {false});
    // unk_token and fuse_unk are for what has no token; here every byte has one.
    parts_.ignore_merges = flag(model, "model", "ignore_merges", false);
    if (events_.vocab.empty()) io::fail_format(file_, "model.vocab: no tokens");
  }

  void read_added() {
    const json* all = find(events_.rest, "added_tokens");
    if (!all) return;
    if (!all->is_array()) bad("added_tokens", *all, "a list");
    for (const json& t : *all) {
      const std::string place = "added_tokens[" + std::to_string(parts_.added.size()) + "]";
      added_token a;
      a.id = id(need(t, place, "id"), place + ".id");
      a.content = text(t, place, "content");
      a.special = flag(t, place, "special", false);
      a.normalized = flag(t, place, "normalized", !a.special);
      a.single_word = flag(t, place, "single_word", false);
      a.lstrip = flag(t, place, "lstrip", false);
      a.rstrip = flag(t, place, "rstrip", false);
      constexpr std::size_t longest = 1024;  // bytes; bounds the steps per byte of the search
      if (a.content.empty() || a.content.size() > longest)
        bad(place + ".content", t["content"], "1 to " + std::to_string(longest) + " bytes");
      parts_.added.push_back(std::move(a));
    }
  }

  void read_tokens() {
    // Ids may leave holes; but a short file must not ask for gigabytes.
    constexpr std::size_t holes = 65536;  // check: 2**16
    const std::size_t most = 2 * (events_.vocab.size() + parts_.added.size()) + holes;
    token_id highest = 0;
    for (const auto& [token, id] : events_.vocab) highest = std::max(highest, id);
    for (const added_token& a : parts_.added) highest = std::max(highest, a.id);
    if (usize(highest) >= most)
      io::fail_format(file_, "found id " + std::to_string(highest) + " among " +
                                 std::to_string(events_.vocab.size() + parts_.added.size()) +
                                 " tokens, expected ids below " + std::to_string(most));
    token_list& tokens = parts_.tokens = token_list(usize(highest) + 1);
    for (auto& [token, id] : events_.vocab)
      if (!tokens.add(std::move(token), id))
        io::fail_format(file_, "model.vocab: id " + std::to_string(id) + " or its token is there twice");
    // An added token may be in the vocabulary too, under the same id.
    std::vector<bool> seen(tokens.size());
    for (const added_token& a : parts_.added) {
      const auto i = usize(a.id);
      const bool known = tokens.id(a.content) == a.id;
      if (seen[i] || (!known && !tokens.add(a.content, a.id)))
        io::fail_format(file_, "added_tokens: " + io::in_quotes(a.content) + " with id " +
                                   std::to_string(a.id) + ": the id or the content belongs to another token");
      seen[i] = true;
    }

    for (int b = 0; b < 256; ++b) {
      std::string character;
      append_utf8(character, byte_level.character(static_cast<unsigned char>(b)));
      const bool in_utf8 = b < 0xC0 || (b > 0xC1 && b < 0xF5);
      const std::optional<token_id> found = tokens.id(character);
      if (!found && in_utf8)
        io::fail_format(file_, "model.vocab: byte " + std::to_string(b) + " has no token, expected " +
                                   io::in_quotes(character) + " (this is no byte-level vocabulary)");
      parts_.byte_ids[usize(b)] = found.value_or(-1);
      if (found && std::any_of(parts_.added.begin(), parts_.added.end(),
                               [&](const added_token& a) { return a.special && a.id == *found; }))
        io::fail_unsupported(file_,
                             "added_tokens: the byte " + io::in_quotes(character) + " is a special token");
    }
  }

  void read_merges() {
    const token_list& tokens = parts_.tokens;
    parts_.merges.reserve(events_.merges.size());
    std::string product;
    for (const auto& [left, right] : events_.merges) {
      if (left.empty() || right.empty())
        io::fail_format(file_,
                        "model.merges, entry " + std::to_string(parts_.merges.size()) + ": an empty token");
      product.assign(left).append(right);
      const std::string* texts[] = {&left, &right, &product};
      token_id ids[3];
      for (int i = 0; i < 3; ++i) {
        const std::optional<token_id> found = tokens.id(*texts[i]);
        if (!found)
          io::fail_format(file_, "model.merges, entry " + std::to_string(parts_.merges.size()) + ": " +
                                     io::in_quotes(*texts[i]) + " is not in model.vocab");
        ids[i] = *found;
      }
      parts_.merges.push_back({ids[0], ids[1], ids[2]});
    }
  }

  // ---- pre_tokenizer, post_processor --------------------------------------------------------------------------
  void read_pre_tokenizer(const json& p, const std::string& place) {
    const std::string type = text(p, place, "type");
    if (byte_level_seen_) io::fail_unsupported(file_, place + ": a stage after ByteLevel");
    constexpr std::size_t most_stages = 64;
    if (parts_.stages.size() == most_stages)
      io::fail_unsupported(file_, place + ": more than " + std::to_string(most_stages) + " stages");
    if (type == "Sequence") {
      std::size_t i = 0;
      for (const json& each : list(p, place, "pretokenizers"))
        read_pre_tokenizer(each, place + ".pretokenizers[" + std::to_string(i++) + "]");
    } else if (type == "Split") {
      const json& pattern = need(p, place, "pattern");
      const bool literal = pattern.is_object() && pattern.contains("String");
      parts_.stages.push_back({compiled(text(pattern, place + ".pattern", literal ? "String" : "Regex"),
                                        literal, place + ".pattern"),
                               behavior(text(p, place, "behavior"), place + ".behavior"),
                               flag(p, place, "invert", false)});
    } else if (type == "ByteLevel") {
      only(p, place, "add_prefix_space", {false});
      if (flag(p, place, "use_regex", true))
        parts_.stages.push_back({compiled(std::string(gpt2_words), false, place)});
      byte_level_seen_ = true;
    } else {
      io::fail_unsupported(
          file_, place + ".type: " + io::in_quotes(type) + "; Sequence, Split and ByteLevel are implemented");
    }
  }

  regex compiled(const std::string& pattern, bool literal, const std::string& place) const {
    try {
      return literal ? regex::literal(pattern) : regex::compile(pattern);
    } catch (const unsupported& e) {
      io::fail_unsupported(file_, place + ": " + e.what());
    } catch (const format_error& e) {
      io::fail_format(file_, place + ": " + e.what());
    }
  }

  split_behavior behavior(const std::string& name, const std::string& place) const {
    constexpr std::pair<const char*, split_behavior> all[] = {
        {"Isolated", split_behavior::isolated},
        {"Removed", split_behavior::removed},
        {"MergedWithPrevious", split_behavior::merged_with_previous},
        {"MergedWithNext", split_behavior::merged_with_next},
        {"Contiguous", split_behavior::contiguous}};
    for (const auto& [known, b] : all)
      if (name == known) return b;
    bad(place, name, "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
  }

  void read_post_processor(const json& p, const std::string& place) {
    const std::string type = text(p, place, "type");
    if (type == "ByteLevel") return;  // moves offsets only, and there are none here
    if (type == "Sequence") {
      std::size_t i = 0;
      for (const json& each : list(p, place, "processors"))
        read_post_processor(each, place + ".processors[" + std::to_string(i++) + "]");
    } else if (type == "TemplateProcessing") {
      read_template(p, place);
    } else {
      io::fail_unsupported(file_, place + ".type: " + io::in_quotes(type) +
                                      "; ByteLevel, TemplateProcessing and Sequence are implemented");
    }
  }

  /// "single": special tokens, the text once, special tokens.
  void read_template(const json& p, const std::string& place) {
    bool text_seen = false;
    for (const json& item : list(p, place, "single")) {
      if (item.is_object() && item.contains("Sequence")) {
        if (text_seen) io::fail_unsupported(file_, place + ".single: the text twice");
        text_seen = true;
        continue;
      }
      const std::string name = text(need(item, place + ".single", "SpecialToken"), place + ".single", "id");
      const json& token = need(need(p, place, "special_tokens"), place + ".special_tokens", name.c_str());
      for (const json& i : list(token, place + ".special_tokens." + name, "ids")) {
        const token_id known = id(i, place + ".special_tokens." + name + ".ids");
        if (!parts_.tokens.token(known))
          bad(place + ".special_tokens." + name + ".ids", i, "the id of a token");
        (text_seen ? parts_.after : parts_.before).push_back(known);
      }
    }
    if (!text_seen) io::fail_format(file_, place + ".single: the text is not in it");
  }

  const std::filesystem::path& file_;
  tokenizer_events events_;
  tokenizer_parts parts_;
  bool byte_level_seen_ = false;
};

}  // namespace detail

DSV4_INLINE tokenizer_parts read_tokenizer_json(const std::filesystem::path& file, std::string_view text) {
  return detail::tokenizer_reader(file, text).read();
}

}  // namespace dsv4::text
