// SPDX-License-Identifier: MIT
#pragma once
/// Anthropic's protocol: /v1/messages, /v1/messages/count_tokens, and its errors.
#include "serve_openai.hpp"

namespace cli::serving::anthropic {

using openai::exchange_of;

/// @throws refusal
exchange_of messages(const served_model& m, std::string_view body);
std::string count_tokens(const served_model& m, std::string_view body);

std::string error_body(int status, const std::string& what);

}  // namespace cli::serving::anthropic
