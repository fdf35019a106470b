// SPDX-License-Identifier: MIT
#pragma once
/// OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models, and its errors.
#include <memory>
#include <string>
#include <string_view>

#include "serve_protocol.hpp"

namespace cli::serving::openai {

/// A request and how it is answered.
struct exchange_of {
  answer_request request;
  std::unique_ptr<reply> answer;
};

/// @throws refusal
exchange_of chat(const served_model& m, std::string_view body);
exchange_of completions(const served_model& m, std::string_view body);

std::string models(const served_model& m, std::int64_t since);
/// One model of the list.  @throws refusal 404
std::string model(const served_model& m, std::int64_t since, std::string_view name);

std::string error_body(int status, const std::string& what, const std::string& param = {},
                       const std::string& code = {});

}  // namespace cli::serving::openai
