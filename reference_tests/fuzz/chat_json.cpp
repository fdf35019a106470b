// SPDX-License-Identifier: MIT
// Messages in JSON to a prompt: JSON that is written reads back as written, segments join to the prompt, control
// segments are special tokens, and no other segments touch.
#include <algorithm>

#include <dsv4/text/chat_encoding.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = dsv4::text;
  using dsv4_fuzz::require;
  dsv4_fuzz::read_or_refuse([&] {
    const text::json input = text::python::loads(dsv4_fuzz::text_of(data, size));
    for (const bool ascii : {false, true}) {
      const std::string once = text::python::dumps(input, ascii);
      require(text::python::dumps(text::python::loads(once, text::surrogates::allowed), ascii) == once,
              "dumps, loads, dumps");
    }

    const text::prompt p = text::encode(text::read_request(input));
    std::string joined;
    for (const text::prompt_segment& s : p.segments) {
      const bool first = &s == p.segments.data();
      require(!s.text.empty() && (first || s.control || (&s)[-1].control), "text segments touch");
      const auto is_token = [&](std::string_view t) { return t == s.text; };
      constexpr std::string_view tokens[] = {text::bos_token,       text::eos_token,      text::user_token,
                                             text::assistant_token, text::reminder_token, text::think_token,
                                             text::end_think_token, text::dsml_token};
      require(!s.control || std::any_of(std::begin(tokens), std::end(tokens), is_token) ||
                  std::any_of(text::quick_tasks.begin(), text::quick_tasks.end(),
                              [&](const auto& q) { return is_token(q.token); }),
              "a control segment that is no special token");
      joined += s.text;
    }
    require(joined == p.text, "segments and prompt");
  });
  return 0;
}
