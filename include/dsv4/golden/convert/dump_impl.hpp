// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of dump.hpp.
#include "../../core/config_macros.hpp"
#include "dump.hpp"

namespace dsv4::golden::detail {

DSV4_INLINE std::optional<index_t> take_number(std::string& text, std::string_view before) {
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

DSV4_INLINE void split_name(dump_tensor& t) {
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

}  // namespace dsv4::golden::detail

namespace dsv4::golden {

DSV4_INLINE dump dump::open(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code none;
  if (!fs::exists(path, none)) throw missing_input(path.string() + ": no such file or directory");
  dump d;
  d.path_ = path;
  if (!fs::is_directory(path, none)) {
    if (!d.add(path, path.filename().string()))
      io::fail_format(
          path, "expected .safetensors, .safetensors.zst, .npy, .npz, .bin or .i32, or a directory of them");
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

DSV4_INLINE const dump_tensor* dump::find(std::string_view full) const {
  for (const dump_tensor& t : tensors_)
    if (t.full == full) return &t;
  return nullptr;
}

DSV4_INLINE bool dump::add(const std::filesystem::path& file, std::string relative) {
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

DSV4_INLINE void dump::push(dump_tensor t) {
  detail::split_name(t);
  tensors_.push_back(std::move(t));
}

}  // namespace dsv4::golden
