// SPDX-License-Identifier: MIT
#pragma once
/// tokenizer.json as a document: the vocabulary and the merges, nine tenths of the file, become lists while
/// the text is read, and the rest a tree.  A tree of everything would take most of the time of loading.
/// @throws format_error no JSON; an entry of the two lists that is none: file, list, entry, expected, found
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "../io/config_json.hpp"
#include "../io/message.hpp"
#include "bpe.hpp"
#include "token_list.hpp"

namespace dsv4::text {

namespace detail {

/// Reads the document as events: model.vocab and model.merges into lists, the rest into a tree.
class tokenizer_events : public nlohmann::json_sax<nlohmann::json> {
 public:
  using json = nlohmann::json;
  explicit tokenizer_events(const std::filesystem::path& file) : file_(file) {}

  json rest;
  std::vector<std::pair<std::string, token_id>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;

  bool null() override { return value(nullptr, "null"); }
  bool boolean(bool v) override { return value(v, v ? "true" : "false"); }
  bool number_integer(json::number_integer_t v) override { return value(v, std::to_string(v)); }
  bool number_float(json::number_float_t v, const json::string_t& s) override { return value(v, s); }
  bool binary(json::binary_t&) override { return false; }
  bool number_unsigned(json::number_unsigned_t v) override {
    if (in_ != place::vocab) return value(v, std::to_string(v));
    constexpr json::number_unsigned_t most = io::detail::most_vocab;
    if (v >= most) fail(key_, std::to_string(v), "an id below " + std::to_string(most));
    vocab.emplace_back(std::move(key_), static_cast<token_id>(v));
    return true;
  }
  bool string(json::string_t& v) override {
    if (in_ == place::merges) {
      const std::size_t space = v.find(' ');
      if (space == v.npos || v.find(' ', space + 1) != v.npos)
        fail(std::to_string(merges.size()), io::in_quotes(v), "two tokens with one space between them");
      merges.emplace_back(v.substr(0, space), v.substr(space + 1));
      return true;
    }
    if (in_ == place::pair) {
      pair_.push_back(std::move(v));
      return true;
    }
    return value(v, io::in_quotes(v));
  }
  bool start_object(std::size_t) override {
    if (in_ == place::elsewhere && opens("vocab")) {
      in_ = place::vocab;
      return true;
    }
    return open(json::object());
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override {
    if (in_ == place::merges) {
      in_ = place::pair;
      pair_.clear();
      return true;
    }
    if (in_ == place::elsewhere && opens("merges")) {
      in_ = place::merges;
      return true;
    }
    return open(json::array());
  }
  bool end_array() override {
    if (in_ != place::pair) return close();
    if (pair_.size() != 2)
      fail(std::to_string(merges.size()), std::to_string(pair_.size()) + " strings", "two tokens");
    merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    in_ = place::merges;
    return true;
  }
  bool key(json::string_t& k) override {
    key_ = std::move(k);
    if (in_ == place::elsewhere && open_.size() == 1) section_ = key_;
    return true;
  }
  bool parse_error(std::size_t at, const std::string&, const json::exception& e) override {
    io::fail_format(file_, "byte " + std::to_string(at) + ": is not JSON: " + e.what());
  }

 private:
  enum class place { elsewhere, vocab, merges, pair };
  static constexpr std::size_t most_depth = 64;

  [[noreturn]] void fail(const std::string& which, const std::string& found,
                         const std::string& expected) const {
    const char* list = in_ == place::vocab ? "model.vocab" : "model.merges";
    io::fail_format(file_, std::string(list) + ", entry " + io::in_quotes(which) + ": found " + found +
                               ", expected " + expected);
  }
  bool opens(const char* name) const { return open_.size() == 2 && section_ == "model" && key_ == name; }

  /// A value outside the two lists joins the tree.
  json& join(json v) {
    if (open_.empty()) return rest = std::move(v);
    json& parent = *open_.back();
    if (parent.is_object()) return parent[key_] = std::move(v);
    parent.push_back(std::move(v));
    return parent.back();
  }
  bool value(json v, const std::string& shown) {
    if (in_ == place::vocab) fail(key_, shown, "an id");
    if (in_ != place::elsewhere) fail(std::to_string(merges.size()), shown, "two tokens");
    join(std::move(v));
    return true;
  }
  bool open(json v) {
    if (in_ != place::elsewhere) value(nullptr, v.is_object() ? "an object" : "a list");
    if (open_.size() == most_depth)
      io::fail_format(file_, "is nested deeper than " + std::to_string(most_depth));
    open_.push_back(&join(std::move(v)));
    return true;
  }
  bool close() {
    if (in_ == place::elsewhere)
      open_.pop_back();
    else
      in_ = place::elsewhere;
    return true;
  }

  const std::filesystem::path& file_;
  place in_ = place::elsewhere;
  std::vector<json*> open_;
  std::vector<std::string> pair_;
  std::string key_, section_;
};

}  // namespace detail

}  // namespace dsv4::text
