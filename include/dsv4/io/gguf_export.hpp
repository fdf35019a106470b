// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint as one GGUF file of the architecture deepseek4; gguf_deepseek4.hpp reads it back to the same bits.
///
/// | a checkpoint's       | in the GGUF                                                       |
/// | FP4                  | MXFP4, the same codes and scales                                  |
/// | FP8                  | BF16: code times scale, exact                                     |
/// | BF16, F16, F32       | the same; vectors F32, as ggml wants them                         |
/// | the expert table     | I32                                                               |
/// GGUF has no FP8: the scales of its tiles go with the file as metadata, `dsv4.fp8_scale.TENSOR`, which other readers
/// pass over, so that the codes come back.  MTP blocks and the tokenizer are not written.
/// @throws unsupported what has no exact place: scales that are no powers of two, stacked experts, other types
/// @throws error the file cannot be written
#include <filesystem>
#include <string>
#include <vector>

namespace dsv4::io {

class checkpoint;

/// Writes all of a checkpoint's weights but MTP.  Returns what was left out, in words.
std::vector<std::string> export_gguf(const checkpoint& model, const std::filesystem::path& out);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "gguf_export_impl.hpp"
#endif
