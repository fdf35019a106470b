// SPDX-License-Identifier: MIT
#pragma once
/// The cases of the released encoder, and helpers for writing conversations in tests.
#include <string>
#include <string_view>
#include <vector>

#include <dsv4/io/zstd_stream.hpp>
#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/chat_parsing.hpp>

#include "data.hpp"

namespace dsv4::text {

/// data/encoding/cases.jsonl.zst, a case per element.
inline const std::vector<json>& released_cases() {
  static const std::vector<json> all = [] {
    const io::owned_bytes bytes = io::read_zstd(test_data("encoding/cases.jsonl.zst"));
    std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size);
    std::vector<json> out;
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      out.push_back(python::loads(rest.substr(0, end)));
      rest.remove_prefix(end + 1);
    }
    return out;
  }();
  return all;
}

inline std::string text_at(const json& object, std::string_view name) { return *object.find(name)->text(); }

/// The prompt of an input in JSON.
inline prompt encode_text(std::string_view input) { return encode(read_request(python::loads(input))); }

/// The texts of the control segments.
inline std::vector<std::string> controls(const prompt& p) {
  std::vector<std::string> out;
  for (const prompt_segment& s : p.segments)
    if (s.control) out.push_back(s.text);
  return out;
}

}  // namespace dsv4::text
