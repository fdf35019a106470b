// SPDX-License-Identifier: MIT
#pragma once
/// The files of another engine's dump as one list of named arrays, mapped, for convert.hpp.
///
///   x.safetensors, x.safetensors.zst   the names inside
///   x.npz                              the names inside
///   x.npy                              the file's name without extension
///   x.bin (f32), x.i32                 without shape: ds4's PREFIX_NAME-LAYER_posP.bin, or …NAME_LAYER_P.bin
/// or a directory of them (folders inside become parts of names: prefill/kv.npy is prefill/kv).
/// A name may begin with the call it belongs to, and end with its occurrence in that call:
///   prefill/NAME  decode00056/NAME  chunk00005/NAME (position of the first token)  prefill_mtp/NAME  …NAME#2
/// @throws missing_input nothing is there; format_error, unsupported a file is malformed
#include <deque>

#include "../../io/npy.hpp"
#include "../bundle/error.hpp"

namespace dsv4::golden {

/// Which call of the model a value belongs to.
struct dump_call {
  index_t start = 0;  ///< position of its first token
  bool mtp = false;
  bool single = false;  ///< said to be one token
  auto order() const { return std::pair(start, mtp); }
};

struct dump_tensor {
  std::string full;  ///< as it is called in the dump
  std::string name;  ///< without call and occurrence
  dump_call call;
  index_t occurrence = 0;
  std::filesystem::path file;
  bool raw = false;  ///< a file of numbers: shape is not known
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  bool fortran_order = false;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;

  std::string who() const { return file.string() + ": " + io::in_quotes(full); }
  index_t elements() const { return static_cast<index_t>(bytes) * 8 / bits_of(type); }
};

namespace detail {

/// Trailing digits of `text` after the last `before`; removes both.  Nothing if they are not there.
inline std::optional<index_t> take_number(std::string& text, std::string_view before) {
  constexpr std::size_t most_digits = 9;
  std::size_t at = text.size();
  while (at > 0 && '0' <= text[at - 1] && text[at - 1] <= '9') --at;
  const std::size_t digits = text.size() - at;
  if (digits == 0 || digits > most_digits || at < before.size() ||
      text.compare(at - before.size(), before.size(), before) != 0)
    return std::nullopt;
  const index_t n = std::stoll(text.substr(at));
  text.resize(at - before.size());
  return n;
}

/// Splits the call and the occurrence off a name.
inline void split_name(dump_tensor& t) {
  t.name = t.full;
  if (const auto slash = t.name.find('/'); slash != t.name.npos) {
    std::string call = t.name.substr(0, slash);
    bool known = call == "prefill" || call == "prefill_mtp";
    t.call.mtp = call == "prefill_mtp";
    if (!known)
      if (const auto n = take_number(call, "")) {
        known = call == "decode" || call == "chunk" || call == "mtp";
        if (known) t.call = {*n, call == "mtp", call == "decode"};
      }
    if (known) t.name.erase(0, slash + 1);
  }
  if (const auto n = take_number(t.name, "#")) t.occurrence = *n;
}

}  // namespace detail

class dump {
 public:
  static dump open(const std::filesystem::path& path) {
    namespace fs = std::filesystem;
    std::error_code none;
    if (!fs::exists(path, none)) throw missing_input(path.string() + ": no such file or directory");
    dump d;
    d.path_ = path;
    if (!fs::is_directory(path, none)) {
      if (!d.add(path, path.filename().string()))
        io::fail_format(
            path,
            "expected .safetensors, .safetensors.zst, .npy, .npz, .bin or .i32, or a directory of them");
    } else {
      if (fs::exists(path / "manifest.json", none) || fs::exists(path / "manifest.json.zst", none))
        io::fail_format(path, "is a bundle already (it has a manifest.json)");
      constexpr std::size_t most_files = 50'000;  // each is a mapping
      std::vector<fs::path> files;
      for (const auto& e : fs::recursive_directory_iterator(path))
        if (e.is_regular_file(none)) files.push_back(e.path());
      if (files.size() > most_files)
        io::fail_format(path, "holds " + std::to_string(files.size()) + " files, expected at most " +
                                  std::to_string(most_files));
      std::sort(files.begin(), files.end());
      for (const auto& f : files) d.add(f, f.lexically_relative(path).generic_string());
    }
    if (d.tensors_.empty())
      throw missing_input(path.string() + ": no arrays (.safetensors, .npy, .npz, .bin, .i32)");
    return d;
  }

  const std::filesystem::path& path() const { return path_; }
  const std::vector<dump_tensor>& tensors() const { return tensors_; }
  /// The array of this whole name; null if there is none.
  const dump_tensor* find(std::string_view full) const {
    for (const dump_tensor& t : tensors_)
      if (t.full == full) return &t;
    return nullptr;
  }

 private:
  bool add(const std::filesystem::path& file, std::string relative) {
    const std::string name = file.filename().string();
    const auto stem = [&](std::size_t extension) { return relative.substr(0, relative.size() - extension); };
    const std::string folder = relative.substr(0, relative.size() - name.size());
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.zst")) {
      const io::safetensors& f = files_.emplace_back(io::safetensors::open(file));
      for (const io::tensor_info& t : f.tensors())
        push({folder + t.name, {}, {}, 0, file, false, t.type, t.shape, false, t.data, t.bytes});
    } else if (name.ends_with(".npy") || name.ends_with(".npz")) {
      const io::npy& f = arrays_.emplace_back(io::npy::open(file));
      for (const io::npy_array& a : f.arrays())
        push({name.ends_with(".npz") ? folder + a.name : stem(4),
              {},
              {},
              0,
              file,
              false,
              a.type,
              a.shape,
              a.fortran_order,
              a.data,
              a.bytes});
    } else if (name.ends_with(".bin") || name.ends_with(".i32")) {
      const io::mapped_file& f = raw_.emplace_back(file);
      const dtype type = name.ends_with(".i32") ? dtype::i32 : dtype::f32;
      if (f.size() % 4 != 0)
        io::fail_format(file, "found " + std::to_string(f.size()) + " bytes, expected numbers of 4 bytes");
      dump_tensor t{stem(4), {}, {}, 0, file, true, type, {}, false, f.data(), f.size()};
      // NAME-LAYER_posP, else NAME_LAYER_P.
      std::string text = t.full;
      auto position = detail::take_number(text, "_pos");
      std::optional<index_t> layer;
      if (position) {
        layer = detail::take_number(text, "-");
      } else if ((position = detail::take_number(text, "_"))) {
        layer = detail::take_number(text, "_");
      }
      if (!layer || !position)
        io::fail_format(file, "a raw dump is named …NAME-LAYER_posP.bin or …NAME_LAYER_P.bin");
      push(std::move(t));
      dump_tensor& last = tensors_.back();
      last.call.start = *position;
      last.name = text + "-" + std::to_string(*layer);
    } else {
      return false;
    }
    return true;
  }
  void push(dump_tensor t) {
    detail::split_name(t);
    tensors_.push_back(std::move(t));
  }

  std::filesystem::path path_;
  std::deque<io::safetensors> files_;
  std::deque<io::npy> arrays_;
  std::deque<io::mapped_file> raw_;
  std::vector<dump_tensor> tensors_;
};

}  // namespace dsv4::golden
