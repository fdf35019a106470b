// SPDX-License-Identifier: MIT
#pragma once
/// Messages to prompt, byte for byte as the released encoder writes it.
///
///   conversation = <｜begin▁of▁sentence｜> [effort] message*
///   system       = content [\n\n tools] [\n\n format]
///   user         = <｜User｜> (text | <tool_result>content</tool_result>) joined by \n\n          then answer
///   developer    = <｜User｜> content [\n\n tools] [\n\n format]                                    then answer
///   reminder     = <｜latest_reminder｜> content
///   assistant    = [reasoning </think>] content [\n\n calls] <｜end▁of▁sentence｜>
///   answer       = <｜Assistant｜> (<think> | </think>), or the token of a task
///
/// The opening <think> belongs to the message before; an answer is asked for only where an assistant (or a reminder, or
/// nothing) follows.  Reasoning is kept after the last user message only, unless there are tools or drop_thinking
/// is off.  docs/chat-encoding.md explains the rules that surprise.
///
/// oracle    the released encoder: reference_tests/data/encoding
/// deviates  nothing in what is accepted; what is refused in addition is listed in chat_message.hpp
/// @throws refused, unsupported
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../core/config_macros.hpp"
#include "chat_message.hpp"
#include "prompt.hpp"

namespace dsv4::text {

/// The prompt of `messages` that follow `context`; of the context itself nothing is written, and no
/// begin-of-sentence token if there is one.
prompt encode_messages(std::span<const chat_message> messages, const encode_options& options = {},
                       std::span<const chat_message> context = {});

prompt encode(const chat_request& request);

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "chat_encoding_impl.hpp"
#endif
