// SPDX-License-Identifier: MIT
#include <dsv4/text/chat_encoding_impl.hpp>
#include <dsv4/text/chat_message_impl.hpp>
#include <dsv4/text/chat_parsing_impl.hpp>
#include <dsv4/text/python_json_impl.hpp>
