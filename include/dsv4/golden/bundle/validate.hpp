// SPDX-License-Identifier: MIT
#pragma once
/// What the entries of a manifest must say of each other, of the calls and of the model, before any tensor
/// is read: names, order, positions, shapes, dependencies, places.
/// @throws format_error with the file, the entry, what was expected and what was found
#include <filesystem>
#include <map>
#include <string>
#include <unordered_set>

#include "../../io/safetensors.hpp"
#include "manifest.hpp"

namespace dsv4::golden {

/// A name of a file in the bundle's own directory: no separator, no leading dot.
bool is_plain_file_name(std::string_view name);
/// A name of a tensor or a part of one: words of letters, digits, '_' and '-' between single dots.
bool is_plain_name(std::string_view name);

namespace detail {

class manifest_validator {
 public:
  manifest_validator(const std::filesystem::path& file, const manifest& m) : file_(file), m_(m) {}

  void run(const std::vector<tensor_entry>& tensors);

 private:
  void files();
  void calls();

  void one(const tensor_entry& t);

  void model_site(const tensor_entry& t, const parsed_name& known);

  static std::string range(index_t a, index_t b) {
    return "[" + std::to_string(a) + ", " + std::to_string(b) + ")";
  }
  void require(bool ok, std::string_view field, const std::string& found, const std::string& expected) const;

  struct pair_hash {
    std::size_t operator()(const std::pair<index_t, std::string>& p) const {
      return std::hash<std::string>()(p.second) * 31 + usize(p.first);
    }
    std::size_t operator()(const std::pair<std::string, std::string>& p) const {
      return std::hash<std::string>()(p.second) * 31 + std::hash<std::string>()(p.first);
    }
  };
  const std::filesystem::path& file_;
  const manifest& m_;
  const tensor_entry* entry_ = nullptr;
  std::map<std::string, const file_info*> files_;
  std::unordered_set<std::pair<index_t, std::string>, pair_hash> seen_;
  std::unordered_set<std::pair<std::string, std::string>, pair_hash> places_;
};

}  // namespace detail

void validate(const std::filesystem::path& file, const manifest& m, const std::vector<tensor_entry>& tensors);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "validate_impl.hpp"
#endif
