// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of bundle.hpp.
#include "../../core/config_macros.hpp"
#include "bundle.hpp"

namespace dsv4::golden {

DSV4_INLINE double element(dtype carrier, const std::byte* data, index_t i) {
  const auto load = [&]<class T>(T v) {
    std::memcpy(&v, data + usize(i) * sizeof v, sizeof v);
    return v;
  };
  switch (carrier) {
    case dtype::bf16: return to_double(bf16{load(std::uint16_t{})});
    case dtype::f32: return load(0.0f);
    case dtype::f64: return load(0.0);
    case dtype::i32: return load(std::int32_t{});
    default: return load(std::uint8_t{});
  }
}

DSV4_INLINE tensor_data& tensor_data::operator=(tensor_data&& o) noexcept {
  std::swap(file_, o.file_), std::swap(entry_, o.entry_), std::swap(data_, o.data_);
  return *this;
}

DSV4_INLINE std::vector<double> tensor_data::values() const {
  std::vector<double> out(usize(size()));
  for (index_t i = 0; i < size(); ++i) out[usize(i)] = (*this)[i];
  return out;
}

}  // namespace dsv4::golden

namespace dsv4::golden::detail {

DSV4_INLINE std::string who(const std::filesystem::path& file, const tensor_entry& t) {
  return file.string() + ": " + t.name + " (step " + std::to_string(t.step) + ", sequence " +
         std::to_string(t.sequence) + "): ";
}

DSV4_INLINE void expect_hash(const std::filesystem::path& file, const tensor_entry& t,
                             const sha256_digest& found) {
  constexpr std::size_t shown = 16;
  if (found != t.sha256)
    throw damaged(who(file, t) + "SHA-256 found " + hex(found).substr(0, shown) + "…, expected " +
                  hex(t.sha256).substr(0, shown) + "…");
}

}  // namespace dsv4::golden::detail

namespace dsv4::golden {

DSV4_INLINE bundle bundle::open(const std::filesystem::path& path, const open_options& options) {
  bundle b;
  b.path_ = path;
  b.options_ = options;
  std::error_code none;
  const auto file = manifest_file(path);
  if (!std::filesystem::is_directory(path, none))
    throw missing_input(path.string() + ": no such directory (a bundle is a directory)");
  if (!std::filesystem::exists(file, none))
    throw missing_input(file.string() + ": is not there; a bundle has one");
  refuse_link(file);
  parsed_manifest m = read_manifest(file, options.max_manifest_bytes);
  b.about_ = std::move(m.about);
  b.tensors_ = std::move(m.tensors);
  for (std::size_t i = 0; i < b.tensors_.size(); ++i) b.by_name_[b.tensors_[i].name].push_back(i);
  return b;
}

DSV4_INLINE const tensor_entry* bundle::find(index_t step, index_t sequence, std::string_view name) const& {
  const auto& all = all_of(name);  // by rising step
  auto at = std::lower_bound(all.begin(), all.end(), step,
                             [&](std::size_t i, index_t s) { return tensors_[i].step < s; });
  for (; at != all.end() && tensors_[*at].step == step; ++at)
    if (tensors_[*at].sequence == sequence) return &tensors_[*at];
  return nullptr;
}

DSV4_INLINE std::vector<const tensor_entry*> bundle::find_all(std::string_view name) const& {
  std::vector<const tensor_entry*> out;
  for (const std::size_t i : all_of(name)) out.push_back(&tensors_[i]);
  return out;
}

DSV4_INLINE tensor_data bundle::read(const tensor_entry& t) const {
  auto file = open_shard(t.file);
  const io::tensor_info* found = file->tensors().find(t.key);
  const std::string who = file->path().string() + ": tensor " + io::in_quotes(t.key) + " (" + t.name +
                          ", step " + std::to_string(t.step) + ")";
  if (!found) throw format_error(who + " is in the manifest but not in the file");
  if (found->type != t.carrier || found->shape != t.shape)
    throw format_error(who + ": found " + std::string(name_of(found->type)) + " " +
                       io::shape_text(found->shape) + ", expected " + std::string(name_of(t.carrier)) + " " +
                       io::shape_text(t.shape) + " (manifest)");
  if (options_.check_hashes) confirm(*file, t, found->data);
  return {std::move(file), t, found->data};
}

DSV4_INLINE void bundle::confirm_ids() const {
  sha256 h;
  for (index_t s = 0; s < sequences(); ++s) {
    const auto of_sequence = ids(s);
    h.update(of_sequence.data(), of_sequence.size() * sizeof(std::int32_t));
  }
  if (h.digest() != about_.input.ids_sha256)
    throw damaged(inputs().path().string() + ": the ids' SHA-256 is not that of the manifest");
}

DSV4_INLINE const io::safetensors& bundle::inputs() const& {
  const std::lock_guard lock(*lock_);
  if (!inputs_) inputs_ = std::make_shared<shard>(path_, *find_file("inputs.safetensors"), options_.shards);
  return inputs_->tensors();
}

DSV4_INLINE const file_info* bundle::find_file(std::string_view name) const& {
  for (const file_info& f : about_.files)
    if (f.name == name) return &f;
  return nullptr;
}

DSV4_INLINE std::shared_ptr<const shard> bundle::open_shard(const std::string& name) const {
  const std::lock_guard lock(*lock_);
  for (auto at = shards_.begin(); at != shards_.end(); ++at)
    if (at->first == name) {
      shards_.splice(shards_.begin(), shards_, at);
      return shards_.front().second;
    }
  while (!shards_.empty() && shards_.size() >= options_.open_shards) shards_.pop_back();
  const file_info* info = find_file(name);
  if (!info)
    throw format_error(manifest_file(path_).string() + ": no file " + io::in_quotes(name) + " in 'files'");
  shards_.emplace_front(name, std::make_shared<const shard>(path_, *info, options_.shards));
  return shards_.front().second;
}

DSV4_INLINE void bundle::confirm(const shard& file, const tensor_entry& t, const std::byte* data) const {
  {
    const std::lock_guard lock(*lock_);
    if (confirmed_.contains(t.seq)) return;
  }
  sha256 h;
  pieces({data, t.bytes()}, piece_bytes,
         [&](std::span<const std::byte> piece) { h.update(piece.data(), piece.size()); });
  detail::expect_hash(file.path(), t, h.digest());
  const std::lock_guard lock(*lock_);
  confirmed_.insert(t.seq);
}

DSV4_INLINE const std::vector<std::size_t>& bundle::all_of(std::string_view name) const {
  static const std::vector<std::size_t> none;
  const auto at = by_name_.find(std::string(name));
  return at == by_name_.end() ? none : at->second;
}

DSV4_INLINE std::vector<std::int32_t> bundle::integers(const std::string& name, index_t sequence) const {
  expects_in(sequence, 0, sequences(), "bundle: sequence");
  const io::tensor_info& t = inputs().at(name);
  const index_t tokens = about_.input.tokens[usize(sequence)];
  if (t.type != dtype::i32 || t.shape != std::vector<index_t>{tokens})
    io::fail_format(inputs().path(), "tensor " + io::in_quotes(name) + ": found " +
                                         std::string(name_of(t.type)) + " " + io::shape_text(t.shape) +
                                         ", expected I32 [" + std::to_string(tokens) + "]");
  std::vector<std::int32_t> out(usize(t.elements));
  if (t.bytes) std::memcpy(out.data(), t.data, t.bytes);
  return out;
}

}  // namespace dsv4::golden
