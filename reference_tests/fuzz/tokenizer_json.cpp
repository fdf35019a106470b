// SPDX-License-Identifier: MIT
// tokenizer.json, and after a zero byte a text: what is read must encode and decode any bytes.
// A byte-level vocabulary needs its 256 bytes.  They are put in here, after "vocab":{, so that inputs stay short.
#include <dsv4/text/tokenizer.hpp>

#include "fuzz.hpp"

namespace {

namespace text = dsv4::text;

/// `json` with the bytes as tokens 500 to 755.
std::string with_bytes(std::string json) {
  constexpr std::string_view opening = "\"vocab\":{";
  const std::size_t at = json.find(opening);
  if (at == json.npos) return json;
  std::string bytes;
  for (int b = 0; b < 256; ++b) {
    bytes += b == '"' || b == '\\' ? "\"\\" : "\"";
    text::append_utf8(bytes, text::byte_level.character(static_cast<unsigned char>(b)));
    bytes += "\":" + std::to_string(500 + b) + ',';
  }
  return json.insert(at + opening.size(), bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using dsv4_fuzz::require;
  const std::string_view all = dsv4_fuzz::text_of(data, size);
  const std::size_t end = all.find('\0');
  const std::string_view json = all.substr(0, end), given = end == all.npos ? "" : all.substr(end + 1);
  dsv4_fuzz::read_or_refuse([&] {
    const auto t = text::tokenizer::parse(with_bytes(std::string(json)), dsv4_fuzz::file);
    const auto ids = t.encode(given, text::special_tokens::allowed);
    require(ids == t.encode(given, text::special_tokens::allowed), "the cache changes the tokens");
    for (const text::token_id id : ids) require(t.id_to_token(id).has_value(), "an id without a token");

    const auto plain = t.encode(given);
    for (const text::token_id id : plain) require(!t.is_special(id), "a special token out of a text");
    // Every byte comes back, unless a stage removes some; \u could spell its name.
    if (json.find("Removed") == json.npos && json.find("\\u") == json.npos)
      require(t.decode(plain) == text::repaired(given), "decoding is not the inverse of encoding");

    for (const bool skip : {false, true}) {
      text::stream_decoder stream(t, skip);
      std::string streamed;
      for (const text::token_id id : ids) {
        const std::string part = stream.push(id);
        require(text::valid_prefix(part) == part.size(), "a streamed part is not UTF-8");
        streamed += part;
      }
      require(streamed + stream.finish() == t.decode(ids, skip), "streaming is not decoding");
    }
    t.with_template(ids);
  });
  return 0;
}
