// SPDX-License-Identifier: MIT
#pragma once
/// A GGUF of the architecture deepseek4 (llama.cpp, ik_llama.cpp) as the tensors of a checkpoint.
/// oracle: llama.cpp's model loader and converter for deepseek4
///
///   checkpoint::open("model.gguf")        config and weights, converted in memory
///   import_gguf(gguf, config)             the tensors one by one, for those who write them elsewhere
///
/// | stored in the GGUF   | becomes                                        |
/// | F32, F16, BF16       | the same                                       |
/// | MXFP4                | FP4 codes (I8) and E8M0 scales, the same bits   |
/// | Q8_0                 | F32: code times scale, exact                    |
/// | I32                  | I32 (the expert table)                         |
/// | BF16 or F32, with `dsv4.fp8_scale.TENSOR` | FP8 codes and scales: gguf_export.hpp |
/// MTP blocks are not read.
/// @throws format_error a tensor or key is missing, of another type or shape
/// @throws unsupported  another architecture, a type of blocks that is not in the table
#include <functional>
#include <string>
#include <vector>

#include "../core/config.hpp"
#include "gguf.hpp"
#include "safetensors_writer.hpp"

namespace dsv4::io {

/// One tensor of a checkpoint, made from the file when it is asked for (safetensors_writer::add).
struct imported_tensor {
  std::string name;  ///< the hub's
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  std::function<void(index_t, std::span<std::byte>)> make;

  std::size_t bytes() const;
};

/// The model that the file's metadata describe, without MTP.
config config_of(const gguf& file);
/// All weights of that model; `file` must outlive them.
std::vector<imported_tensor> import_gguf(const gguf& file, const config& c);

/// All of them in memory, as the file that a checkpoint would be.  @throws format_error more than `most` bytes
safetensors gguf_in_memory(const gguf& file, const config& c, std::size_t most);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "gguf_deepseek4_impl.hpp"
#endif
