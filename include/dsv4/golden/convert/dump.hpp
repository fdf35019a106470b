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
std::optional<index_t> take_number(std::string& text, std::string_view before);

/// Splits the call and the occurrence off a name.
void split_name(dump_tensor& t);

}  // namespace detail

class dump {
 public:
  static dump open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<dump_tensor>& tensors() const { return tensors_; }
  /// The array of this whole name; null if there is none.
  const dump_tensor* find(std::string_view full) const;

 private:
  bool add(const std::filesystem::path& file, std::string relative);
  void push(dump_tensor t);

  std::filesystem::path path_;
  std::deque<io::safetensors> files_;
  std::deque<io::npy> arrays_;
  std::deque<io::mapped_file> raw_;
  std::vector<dump_tensor> tensors_;
};

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "dump_impl.hpp"
#endif
