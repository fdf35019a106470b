// SPDX-License-Identifier: MIT
#pragma once
/// Reads a golden bundle (`v4gold/1`, docs/bundle-format.md).
///
///   const auto b = golden::bundle::open("tiny.v4gold");
///   for (const golden::tensor_entry& t : b.tensors()) {          // in the order of execution
///     const golden::tensor_data d = b.read(t);                   // mapped; gone from memory with `d`
///     use(t.name, t.step, t.sequence, d[0], d.as<bf16>());
///   }
///
/// `open` reads the manifest only, and checks everything that it says by itself: fields, names, shapes,
/// order, dependencies, calls.  A shard is opened, and its header compared with the manifest, when one of
/// its tensors is read, and the tensor's hash when it is read first; statistics are `check`'s (check.hpp).
/// Memory: the manifest's entries, and the pages of what is being read; a bundle of gigabytes takes no more.
/// Several threads may read; what reading opens and remembers is behind a lock.
/// @throws missing_input, damaged, format_error (error.hpp)
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "../../num/round.hpp"
#include "manifest_json.hpp"
#include "shard.hpp"

namespace dsv4::golden {

struct open_options {
  std::size_t max_manifest_bytes = std::size_t{1} << 28;
  bool check_hashes = true;  ///< of every tensor, when it is read for the first time
  std::size_t open_shards =
      2;  ///< kept open; each costs address space, and its raw size on disk if compressed
  shard_options shards;
};

/// Element i of raw values, exact for every carrier.
inline double element(dtype carrier, const std::byte* data, index_t i) {
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

/// The bytes of one tensor, mapped.  Must not outlive the bundle's entries.
class tensor_data {
 public:
  tensor_data(std::shared_ptr<const shard> file, const tensor_entry& entry, const std::byte* data)
      : file_(std::move(file)), entry_(&entry), data_(data) {}
  ~tensor_data() {
    if (file_) shard::release(data_, entry_->bytes());
  }
  tensor_data(tensor_data&&) noexcept = default;
  tensor_data& operator=(tensor_data&& o) noexcept {
    std::swap(file_, o.file_), std::swap(entry_, o.entry_), std::swap(data_, o.data_);
    return *this;
  }

  const tensor_entry& entry() const { return *entry_; }
  /// Raw, little-endian, row-major; NOT necessarily aligned to the element.
  std::span<const std::byte> bytes() const { return {data_, entry_->bytes()}; }
  index_t size() const { return entry_->elements(); }
  /// Element i as a double, exact.
  double operator[](index_t i) const { return element(entry_->carrier, data_, i); }
  /// All values as doubles (small tensors: this copies).
  std::vector<double> values() const {
    std::vector<double> out(usize(size()));
    for (index_t i = 0; i < size(); ++i) out[usize(i)] = (*this)[i];
    return out;
  }
  /// A copy as T, which must be the carrier's own type.
  template <class T>
  std::vector<T> as() const {
    expects(sizeof(T) * 8 == usize(bits_of(entry_->carrier)), "tensor_data::as: another element size");
    std::vector<T> out(usize(size()));
    if (!out.empty()) std::memcpy(out.data(), data_, entry_->bytes());
    return out;
  }

 private:
  std::shared_ptr<const shard> file_;
  const tensor_entry* entry_;
  const std::byte* data_;
};

namespace detail {
/// A tensor in a message.
inline std::string who(const std::filesystem::path& file, const tensor_entry& t) {
  return file.string() + ": " + t.name + " (step " + std::to_string(t.step) + ", sequence " +
         std::to_string(t.sequence) + "): ";
}
/// @throws damaged these are not the bytes that were written
inline void expect_hash(const std::filesystem::path& file, const tensor_entry& t,
                        const sha256_digest& found) {
  constexpr std::size_t shown = 16;
  if (found != t.sha256)
    throw damaged(who(file, t) + "SHA-256 found " + hex(found).substr(0, shown) + "…, expected " +
                  hex(t.sha256).substr(0, shown) + "…");
}
}  // namespace detail

class bundle {
 public:
  /// `path`: the directory.
  static bundle open(const std::filesystem::path& path, const open_options& options = {}) {
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

  const std::filesystem::path& path() const { return path_; }
  const manifest& about() const { return about_; }
  const config& model() const { return about_.model; }
  /// All tensors by rising seq.
  const std::vector<tensor_entry>& tensors() const { return tensors_; }

  /// Null if it was not recorded.
  const tensor_entry* find(index_t step, index_t sequence, std::string_view name) const {
    const auto& all = all_of(name);  // by rising step
    auto at = std::lower_bound(all.begin(), all.end(), step,
                               [&](std::size_t i, index_t s) { return tensors_[i].step < s; });
    for (; at != all.end() && tensors_[*at].step == step; ++at)
      if (tensors_[*at].sequence == sequence) return &tensors_[*at];
    return nullptr;
  }
  /// Recordings of a name, by rising seq: one per call and sequence.
  std::vector<const tensor_entry*> find_all(std::string_view name) const {
    std::vector<const tensor_entry*> out;
    for (const std::size_t i : all_of(name)) out.push_back(&tensors_[i]);
    return out;
  }

  /// The values.  The shard's header must agree with the manifest, and the bytes with their hash.
  tensor_data read(const tensor_entry& t) const {
    auto file = open_shard(t.file);
    const io::tensor_info* found = file->tensors().find(t.key);
    const std::string who = file->path().string() + ": tensor " + io::in_quotes(t.key) + " (" + t.name +
                            ", step " + std::to_string(t.step) + ")";
    if (!found) throw format_error(who + " is in the manifest but not in the file");
    if (found->type != t.carrier || found->shape != t.shape)
      throw format_error(who + ": found " + std::string(name_of(found->type)) + " " +
                         io::shape_text(found->shape) + ", expected " + std::string(name_of(t.carrier)) +
                         " " + io::shape_text(t.shape) + " (manifest)");
    if (options_.check_hashes) confirm(*file, t, found->data);
    return {std::move(file), t, found->data};
  }
  /// f(first element, bytes) over pieces of a tensor; a piece's memory is given back after each call.
  template <class F>
  void windows(const tensor_entry& t, F&& f, std::size_t bytes_each = piece_bytes) const {
    const tensor_data d = read(t);
    const std::size_t each = usize(bits_of(t.carrier) / 8);
    pieces(d.bytes(), std::max<std::size_t>(bytes_each / each, 1) * each,
           [&](std::span<const std::byte> piece) {
             f(static_cast<index_t>(usize(piece.data() - d.bytes().data()) / each), piece);
           });
  }

  index_t sequences() const { return static_cast<index_t>(about_.input.tokens.size()); }
  /// Token ids of a sequence.
  std::vector<std::int32_t> ids(index_t sequence = 0) const {
    return integers("input_ids." + std::to_string(sequence), sequence);
  }
  /// Position of every token (0, 1, 2, … in bundles of this program).
  std::vector<std::int32_t> positions(index_t sequence = 0) const {
    return integers("position_ids." + std::to_string(sequence), sequence);
  }
  /// The ids against their hash.  @throws damaged
  void confirm_ids() const {
    sha256 h;
    for (index_t s = 0; s < sequences(); ++s) {
      const auto of_sequence = ids(s);
      h.update(of_sequence.data(), of_sequence.size() * sizeof(std::int32_t));
    }
    if (h.digest() != about_.input.ids_sha256)
      throw damaged(inputs().path().string() + ": the ids' SHA-256 is not that of the manifest");
  }
  /// inputs.safetensors: input_ids.S, position_ids.S, and forced.S.NAME (docs/bundle-format.md).
  const io::safetensors& inputs() const {
    const std::lock_guard lock(*lock_);
    if (!inputs_) inputs_ = std::make_shared<shard>(path_, *find_file("inputs.safetensors"), options_.shards);
    return inputs_->tensors();
  }
  const file_info* find_file(std::string_view name) const {
    for (const file_info& f : about_.files)
      if (f.name == name) return &f;
    return nullptr;
  }
  /// A file of the bundle by name; kept open, the latest few.  Name as in about().files.
  std::shared_ptr<const shard> open_shard(const std::string& name) const {
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

 private:
  static constexpr std::size_t piece_bytes = std::size_t{1} << 22;
  /// f over pieces of a tensor's memory: the next one is asked for early, and what has been looked at is given back.
  template <class F>
  static void pieces(std::span<const std::byte> all, std::size_t each, F&& f) {
    const auto piece_at = [&](std::size_t at) { return all.subspan(at, std::min(each, all.size() - at)); };
    for (std::size_t at = 0; at < all.size(); at += each) {
      const auto piece = piece_at(at);
      if (at + each < all.size()) shard::prefetch(piece_at(at + each).data(), each);
      f(piece);
      if (all.size() > each) shard::release(piece.data(), piece.size());  // a small tensor is used next
    }
  }
  /// The bytes of a tensor against their hash, once.
  void confirm(const shard& file, const tensor_entry& t, const std::byte* data) const {
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
  const std::vector<std::size_t>& all_of(std::string_view name) const {
    static const std::vector<std::size_t> none;
    const auto at = by_name_.find(std::string(name));
    return at == by_name_.end() ? none : at->second;
  }
  std::vector<std::int32_t> integers(const std::string& name, index_t sequence) const {
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

  std::filesystem::path path_;
  open_options options_;
  manifest about_;
  std::vector<tensor_entry> tensors_;
  std::unordered_map<std::string, std::vector<std::size_t>> by_name_;
  std::shared_ptr<std::mutex> lock_ = std::make_shared<std::mutex>();  // of what follows
  mutable std::unordered_set<index_t> confirmed_;  // seq of the tensors whose hash is right
  mutable std::shared_ptr<const shard> inputs_;
  mutable std::list<std::pair<std::string, std::shared_ptr<const shard>>> shards_;  // the latest first
};

}  // namespace dsv4::golden
