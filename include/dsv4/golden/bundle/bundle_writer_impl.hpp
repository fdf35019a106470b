// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of bundle_writer.hpp.
#include "../../core/config_macros.hpp"
#include "bundle_writer.hpp"

namespace dsv4::golden::detail {

DSV4_INLINE void compress_file(const std::filesystem::path& from, const std::filesystem::path& to,
                               int level) {
  struct free_stream {
    void operator()(ZSTD_CCtx* s) const { ZSTD_freeCCtx(s); }
  };
  const std::unique_ptr<ZSTD_CCtx, free_stream> stream(ZSTD_createCCtx());
  if (!stream) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(stream.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(stream.get(), ZSTD_c_checksumFlag, 1);
  const io::mapped_file in(from);
  io::atomic_file out(to);
  std::vector<char> buffer(ZSTD_CStreamOutSize());
  ZSTD_inBuffer source{in.data(), in.size(), 0};
  for (std::size_t left = 1; left != 0;) {
    ZSTD_outBuffer space{buffer.data(), buffer.size(), 0};
    left = ZSTD_compressStream2(stream.get(), &space, &source, ZSTD_e_end);
    if (ZSTD_isError(left))
      throw internal_error(to.string() + ": zstd cannot compress: " + ZSTD_getErrorName(left));
    out.write(buffer.data(), space.pos);
  }
  out.commit();
}

}  // namespace dsv4::golden::detail

namespace dsv4::golden {

DSV4_INLINE void write_manifest(const std::filesystem::path& dir, const manifest& about,
                                const std::vector<tensor_entry>& tensors, bool compressed) {
  const auto file = dir / (compressed ? compressed_manifest : plain_manifest);
  validate(file, about, tensors);
  const std::string text = manifest_text(about, tensors);
  // A reader never sees half a manifest.
  if (!compressed) return io::write_whole(file, text);
  io::write_zstd(file, text.data(), text.size(), detail::smallest_level);
}

DSV4_INLINE void write_manifest(const std::filesystem::path& dir, const manifest& about,
                                const std::vector<tensor_entry>& tensors) {
  write_manifest(dir, about, tensors, manifest_file(dir).filename() == compressed_manifest);
}

DSV4_INLINE bundle_writer::bundle_writer(std::filesystem::path dir, manifest about,
                                         const writer_options& options)
    : folder_(std::move(dir), "a bundle"), about_(std::move(about)), options_(options) {
  if (options_.small) options_.zstd = true, options_.zstd_level = detail::smallest_level;
  about_.calls.clear();
  about_.files.clear();
}

DSV4_INLINE void bundle_writer::ids(const std::vector<std::vector<std::int32_t>>& sequences) {
  expects(about_.calls.empty(), "bundle_writer::ids: before the first call");
  sha256 h;
  about_.input.tokens.clear();
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const auto n = static_cast<index_t>(sequences[s].size());
    about_.input.tokens.push_back(n);
    h.update(sequences[s].data(), sequences[s].size() * sizeof(std::int32_t));
    input("input_ids." + std::to_string(s), dtype::i32, {n}, sequences[s].data());
    std::vector<std::int32_t> positions(sequences[s].size());
    for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
    input("position_ids." + std::to_string(s), dtype::i32, {n}, positions.data());
  }
  about_.input.ids_sha256 = h.digest();
}

DSV4_INLINE void bundle_writer::input(const std::string& name, dtype type, const std::vector<index_t>& shape,
                                      const void* data) {
  const auto elements = io::detail::checked_elements(shape, type);
  expects(elements.has_value(), "bundle_writer::input: shape");
  const auto* p = static_cast<const std::byte*>(data);
  inputs_.add(name, type, shape, std::vector<std::byte>(p, p + *elements * bits_of(type) / 8));
}

DSV4_INLINE index_t bundle_writer::begin_call(call_kind kind, std::vector<call_part> parts) {
  const auto step = static_cast<index_t>(about_.calls.size());
  about_.calls.push_back({step, kind, std::move(parts)});
  return step;
}

DSV4_INLINE const tensor_entry& bundle_writer::add(tensor_entry t, std::span<const std::byte> raw) {
  expects(!about_.calls.empty(), "bundle_writer::add: begin_call comes first");
  expects_equal(static_cast<index_t>(raw.size()), static_cast<index_t>(t.bytes()),
                "bundle_writer::add: bytes of " + t.name);
  constexpr std::size_t header_each = 128;  // of a shard's header, about
  if (shard_entries_ > 0 &&
      shard_bytes_ + raw.size() + (shard_entries_ + 1) * header_each > options_.shard_bytes)
    flush();
  t.step = about_.calls.back().step;
  t.call = about_.calls.back().kind;
  t.seq = static_cast<index_t>(entries_.size());
  constexpr int digits = 8;
  std::string number = std::to_string(t.seq);
  t.key = "t" + std::string(usize(std::max<int>(0, digits - static_cast<int>(number.size()))), '0') + number;
  t.file = shard_name();
  t.sha256 = sha256_of(raw.data(), raw.size());
  t.stats = stats_of(t.carrier, raw);
  shard_.add(t.key, t.carrier, t.shape, std::vector<std::byte>(raw.begin(), raw.end()));
  shard_bytes_ += raw.size();
  ++shard_entries_;
  return entries_.emplace_back(std::move(t));
}

DSV4_INLINE void bundle_writer::finish() {
  flush();
  const std::string name = "inputs.safetensors";
  inputs_.write(folder_.file(name));
  list(name, std::filesystem::file_size(path() / name));
  inputs_ = {};
  about_.config_sha256 = sha256_of(about_.model);
  folder_.file(options_.small ? compressed_manifest
                              : plain_manifest);  // goes with the others, should it fail
  write_manifest(path(), about_, entries_, options_.small);
  folder_.keep();
}

DSV4_INLINE std::string bundle_writer::shard_name() const {
  char name[32];
  std::snprintf(name, sizeof name, "taps-%03zu.safetensors", shards_);
  return options_.zstd ? std::string(name) + ".zst" : name;
}

DSV4_INLINE void bundle_writer::list(const std::string& name, std::size_t raw) {
  const auto file = path() / name;
  about_.files.push_back({name, std::filesystem::file_size(file), raw, sha256_of_file(file)});
}

DSV4_INLINE void bundle_writer::flush() {
  if (shard_entries_ == 0) return;
  const std::string name = shard_name();
  const auto raw = folder_.file(options_.zstd ? std::filesystem::path(name).stem().string() : name);
  shard_.write(raw);
  shard_ = {};
  const std::size_t raw_bytes = std::filesystem::file_size(raw);
  if (options_.zstd) {
    detail::compress_file(raw, folder_.file(name), options_.zstd_level);
    std::filesystem::remove(raw);
  }
  list(name, raw_bytes);
  ++shards_;
  shard_bytes_ = shard_entries_ = 0;
}

}  // namespace dsv4::golden
