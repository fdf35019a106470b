// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of tensor_table.hpp.
#include <algorithm>
#include <map>
#include <utility>

#include <nlohmann/json.hpp>
#include "json_text.hpp"
#include "mapped_file.hpp"
#include "tensor_table.hpp"

namespace dsv4::io {

namespace detail {

/// Reads weight_map of model.safetensors.index.json event by event; other fields are skipped.
class index_reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit index_reader(const std::filesystem::path& file) : file_(file) {}
  std::vector<std::pair<std::string, std::string>> entries;  // tensor, shard

  bool start_object(std::size_t) override {
    if (depth_++ == 1) in_map_ = key_ == "weight_map";
    return depth_ == 3 && in_map_ ? refuse() : true;
  }
  bool end_object() override {
    if (depth_-- == 2) in_map_ = false;
    return true;
  }
  bool key(std::string& k) override {
    if (depth_ <= 2) key_ = k;
    return true;
  }
  bool string(std::string& s) override {
    if (in_map_ && depth_ == 2) entries.emplace_back(key_, s);
    return true;
  }
  bool start_array(std::size_t) override {
    ++depth_;
    return in_map_ ? refuse() : true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(number_integer_t) override { return other(); }
  bool number_unsigned(number_unsigned_t) override { return other(); }
  bool number_float(number_float_t, const std::string&) override { return other(); }
  bool binary(binary_t&) override { return other(); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception&) override {
    fail_format(file_, "is not valid JSON, near byte " + std::to_string(at));
  }

 private:
  bool other() const { return in_map_ ? refuse() : true; }
  bool refuse() const {
    fail_format(file_, "weight_map, " + in_quotes(key_) + ": expected the name of a file");
  }

  const std::filesystem::path& file_;
  std::string key_;
  int depth_ = 0;
  bool in_map_ = false;
};

DSV4_INLINE bool ends_with_safetensors(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.zst");
}

DSV4_INLINE std::filesystem::path plain_or_compressed(const std::filesystem::path& path) {
  std::error_code none;
  if (std::filesystem::is_regular_file(path, none)) return path;
  std::filesystem::path compressed = path;
  compressed += ".zst";
  return std::filesystem::is_regular_file(compressed, none) ? compressed : std::filesystem::path();
}

}  // namespace detail

DSV4_INLINE tensor_table tensor_table::open(const std::filesystem::path& path, std::size_t max_decompressed) {
  tensor_table t;
  t.path_ = path;
  t.open_files(path, {max_decompressed, alignment_rule::any});
  t.make_table();
  return t;
}

DSV4_INLINE tensor_table tensor_table::of(const std::filesystem::path& path, safetensors file,
                                          std::vector<std::string> notes) {
  tensor_table t;
  t.path_ = path;
  t.notes_ = std::move(notes);
  t.files_.push_back(std::move(file));
  t.make_table();
  return t;
}

DSV4_INLINE const stored_tensor* tensor_table::find(std::string_view name) const {
  const auto at = first_not_below(name);
  return at != table_.end() && at->name == name ? &*at : nullptr;
}

DSV4_INLINE bool tensor_table::has_prefix(std::string_view prefix) const {
  const auto at = first_not_below(prefix);
  return at != table_.end() && at->name.starts_with(prefix);
}

DSV4_INLINE const stored_tensor* tensor_table::take(std::string_view name) {
  const stored_tensor* t = find(name);
  if (t) table_[usize(t - table_.data())].used = true;
  return t;
}

DSV4_INLINE std::vector<stored_tensor>::const_iterator tensor_table::first_not_below(
    std::string_view name) const {
  return std::lower_bound(table_.begin(), table_.end(), name,
                          [](const stored_tensor& t, std::string_view n) { return t.name < n; });
}

DSV4_INLINE void tensor_table::open_files(const std::filesystem::path& path, const safetensors_options& how) {
  namespace fs = std::filesystem;
  std::error_code none;
  if (!fs::exists(path, none)) fail_format(path, "does not exist");
  path_ = path;
  if (!fs::is_directory(path, none)) {
    if (!detail::ends_with_safetensors(path.filename().string()))
      fail_format(path, "expected a checkpoint directory or a .safetensors file");
    files_.push_back(safetensors::open(path, how));
    return;
  }
  const fs::path index_file = path / "model.safetensors.index.json";
  if (fs::is_regular_file(index_file, none)) {
    open_shards(index_file, how);
    const fs::path whole = detail::plain_or_compressed(path / "model.safetensors");
    const bool is_shard =
        std::any_of(files_.begin(), files_.end(), [&](const safetensors& f) { return f.path() == whole; });
    if (!whole.empty() && !is_shard)
      notes_.push_back(path.string() + ": the shards of " + index_file.filename().string() + " are used; " +
                       whole.filename().string() + ", which it does not name, is not");
    return;
  }
  for (const char* name : {"model.safetensors", "weights.safetensors"}) {
    const fs::path file = detail::plain_or_compressed(path / name);
    if (file.empty()) continue;
    files_.push_back(safetensors::open(file, how));
    return;
  }
  files_.push_back(safetensors::open(only_file(path), how));
}

DSV4_INLINE std::filesystem::path tensor_table::only_file(const std::filesystem::path& directory) {
  for (const char* extension : {".safetensors", ".zst"}) {
    std::vector<std::filesystem::path> found;
    for (const auto& e : std::filesystem::directory_iterator(directory))
      if (e.path().extension() == extension && detail::ends_with_safetensors(e.path().filename().string()))
        found.push_back(e.path());
    if (found.size() == 1) return found[0];
    if (found.size() > 1)
      fail_format(
          directory,
          "holds " + std::to_string(found.size()) +
              " .safetensors files; expected model.safetensors.index.json, model.safetensors, or one file");
  }
  fail_format(directory, "holds no .safetensors file");
}

DSV4_INLINE void tensor_table::open_shards(const std::filesystem::path& index_file,
                                           const safetensors_options& how) {
  const mapped_file text(index_file);
  detail::index_reader reader(index_file);
  read_json_events(index_file, text.text(), reader);
  if (reader.entries.empty()) fail_format(index_file, "weight_map is missing or empty");
  // Shards are plain names of files in the directory: an index cannot reach outside of it.
  std::map<std::string, std::size_t> shards;
  for (const auto& [tensor, shard] : reader.entries) {
    if (shard.find('/') != std::string::npos || shard.find('\0') != std::string::npos ||
        !detail::ends_with_safetensors(shard))
      fail_format(index_file, "weight_map, " + in_quotes(tensor) + ": found " + in_quotes(shard) +
                                  ", expected the plain name of a .safetensors file in the same directory");
    shards.emplace(shard, 0);
  }
  for (auto& [name, number] : shards) {
    const std::filesystem::path file = detail::plain_or_compressed(index_file.parent_path() / name);
    if (file.empty())
      fail_format(index_file, "names the shard " + in_quotes(name) + ", which is not in the directory");
    number = files_.size();
    files_.push_back(safetensors::open(file, how));
  }
  for (const auto& [tensor, shard] : reader.entries)
    if (!files_[shards.at(shard)].find(tensor))
      fail_format(index_file, "places tensor " + in_quotes(tensor) + " in " + in_quotes(shard) +
                                  ", which does not hold it");
}

DSV4_INLINE void tensor_table::make_table() {
  for (std::size_t f = 0; f < files_.size(); ++f)
    for (const tensor_info& t : files_[f].tensors()) {
      std::string name = hub_name(t.name);
      const std::string_view kept =
          name == t.name ? std::string_view(t.name) : renamed_.emplace_back(std::move(name));
      table_.push_back({kept, &t, f, false});
    }
  std::sort(table_.begin(), table_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < table_.size(); ++i) {
    const stored_tensor &a = table_[i - 1], &b = table_[i];
    if (a.name == b.name)
      fail_format(path_of(b), "tensor " + in_quotes(b.stored->name) + " is also in " + path_of(a).string() +
                                  " as " + in_quotes(a.stored->name));
  }
}

}  // namespace dsv4::io
