// SPDX-License-Identifier: MIT
#pragma once
/// The logit lens: the model's read-out applied to the streams between its layers, as if each were the last.
#include <span>
#include <vector>

#include <dsv4/core/config.hpp>
#include <dsv4/model/weights.hpp>

namespace cli {

using dsv4::index_t;

/// Logits [rows, v] of streams [rows, n, d], by the head of the model, on
/// exec::cpu.  `bf16`: rounded as the policy `official` does, so that the last layer's are the model's own; the streams
/// then must be bf16 values.
std::vector<double> lens_logits(const dsv4::config& c, const dsv4::model_weights<>& w,
                                std::span<const float> streams, bool bf16, int threads);

}  // namespace cli
