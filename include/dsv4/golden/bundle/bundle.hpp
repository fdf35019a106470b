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
double element(dtype carrier, const std::byte* data, index_t i);

/// The bytes of one tensor, mapped.  Must not outlive the bundle's entries.
class tensor_data {
 public:
  tensor_data(std::shared_ptr<const shard> file, const tensor_entry& entry, const std::byte* data)
      : file_(std::move(file)), entry_(&entry), data_(data) {}
  ~tensor_data() {
    if (file_) shard::release(data_, entry_->bytes());
  }
  tensor_data(tensor_data&&) noexcept = default;
  tensor_data& operator=(tensor_data&& o) noexcept;

  const tensor_entry& entry() const { return *entry_; }
  /// Raw, little-endian, row-major; NOT necessarily aligned to the element.
  std::span<const std::byte> bytes() const { return {data_, entry_->bytes()}; }
  index_t size() const { return entry_->elements(); }
  /// Element i as a double, exact.
  double operator[](index_t i) const { return element(entry_->carrier, data_, i); }
  /// All values as doubles (small tensors: this copies).
  std::vector<double> values() const;
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
std::string who(const std::filesystem::path& file, const tensor_entry& t);
/// @throws damaged these are not the bytes that were written
void expect_hash(const std::filesystem::path& file, const tensor_entry& t, const sha256_digest& found);
}  // namespace detail

/// What it lends (about, tensors, inputs, …) lives as long as it does: a temporary bundle lends nothing.
class bundle {
 public:
  /// `path`: the directory.
  static bundle open(const std::filesystem::path& path, const open_options& options = {});

  const std::filesystem::path& path() const& { return path_; }
  const std::filesystem::path& path() const&& = delete;
  const manifest& about() const& { return about_; }
  const manifest& about() const&& = delete;
  const config& model() const& { return about_.model; }
  const config& model() const&& = delete;
  /// All tensors by rising seq.
  const std::vector<tensor_entry>& tensors() const& { return tensors_; }
  const std::vector<tensor_entry>& tensors() const&& = delete;

  /// Null if it was not recorded.
  const tensor_entry* find(index_t step, index_t sequence, std::string_view name) const&;
  const tensor_entry* find(index_t step, index_t sequence, std::string_view name) const&& = delete;
  /// Recordings of a name, by rising seq: one per call and sequence.
  std::vector<const tensor_entry*> find_all(std::string_view name) const&;
  std::vector<const tensor_entry*> find_all(std::string_view name) const&& = delete;

  /// The values.  The shard's header must agree with the manifest, and the bytes with their hash.
  tensor_data read(const tensor_entry& t) const;
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
  void confirm_ids() const;
  /// inputs.safetensors: input_ids.S, position_ids.S, and forced.S.NAME (docs/bundle-format.md).
  const io::safetensors& inputs() const&;
  const io::safetensors& inputs() const&& = delete;
  const file_info* find_file(std::string_view name) const&;
  const file_info* find_file(std::string_view name) const&& = delete;
  /// A file of the bundle by name; kept open, the latest few.  Name as in about().files.
  std::shared_ptr<const shard> open_shard(const std::string& name) const;

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
  void confirm(const shard& file, const tensor_entry& t, const std::byte* data) const;
  const std::vector<std::size_t>& all_of(std::string_view name) const;
  std::vector<std::int32_t> integers(const std::string& name, index_t sequence) const;

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

#if !defined(DSV4_COMPILED)
#include "bundle_impl.hpp"
#endif
