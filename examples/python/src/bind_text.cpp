// SPDX-License-Identifier: MIT
// Text to token ids and back; messages to prompts and back.
#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/chat_parsing.hpp>
#include <dsv4/text/prompt_ids.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "common.hpp"

namespace dsv4_python {
namespace {

namespace text = dsv4::text;
using text::tokenizer;

/// A decoder that keeps its tokenizer.
struct stream {
  std::shared_ptr<tokenizer> of;
  text::stream_decoder words;
  stream(std::shared_ptr<tokenizer> t, bool skip_special) : of(std::move(t)), words(*of, skip_special) {}
};

text::special_tokens allowed(bool special) {
  return special ? text::special_tokens::allowed : text::special_tokens::as_text;
}

text::prompt encode_chat(const nb::object& messages, bool thinking, const std::string& effort,
                         bool drop_thinking, bool add_bos, const nb::object& tools) {
  if (effort != "high" && effort != "max")
    throw dsv4::contract_violation("reasoning_effort: found '" + effort + "', expected 'high' or 'max'");
  nb::dict in;
  in["messages"] = messages;
  if (!tools.is_none()) in["tools"] = tools;
  text::chat_request request = text::read_request(text::python::loads(to_json_text(in)));
  request.options = {.mode = thinking ? text::thinking_mode::thinking : text::thinking_mode::chat,
                     .effort = effort == "max" ? text::reasoning_effort::max : text::reasoning_effort::high,
                     .drop_thinking = drop_thinking,
                     .add_bos = add_bos};
  return text::encode(request);
}

}  // namespace

void bind_text(nb::module_& m) {
  nb::class_<text::prompt>(
      m, "Prompt", "A chat as a prompt, in which the template's tokens are told from what people wrote.")
      .def_ro("text", &text::prompt::text)
      .def_prop_ro(
          "segments",
          [](const text::prompt& p) {
            nb::list out;
            for (const auto& s : p.segments) out.append(nb::make_tuple(s.text, s.control));
            return out;
          },
          nb::sig("def segments(self) -> list[tuple[str, bool]]"),
          "(text, whether it is one special token of the template) in order.")
      .def("__str__", [](const text::prompt& p) { return p.text; });

  nb::class_<tokenizer>(m, "Tokenizer", "tokenizer.json of a checkpoint.")
      .def_static(
          "load", [](const path& p) { return std::make_shared<tokenizer>(tokenizer::load(p)); }, "path"_a,
          nb::call_guard<nb::gil_scoped_release>(),
          nb::sig("def load(path: str | os.PathLike[str]) -> Tokenizer"),
          "From a tokenizer.json or the directory it is in.")
      .def(
          "encode",
          [](const tokenizer& t, const std::string& words, bool special) {
            return t.encode(words, allowed(special));
          },
          "text"_a, "special"_a = false, nb::call_guard<nb::gil_scoped_release>(),
          "Token ids.  special: special tokens in the text are meant; else what they spell is ordinary text.")
      .def(
          "decode", [](const tokenizer& t, const token_ids& ids, bool skip) { return t.decode(ids, skip); },
          "ids"_a, "skip_special"_a = false,
          "The text of token ids; bytes that form no character become U+FFFD.")
      .def(
          "encode_prompt", [](const tokenizer& t, const text::prompt& p) { return text::prompt_ids(t, p); },
          "prompt"_a,
          "Ids of a prompt: what a message says never becomes a special token, whatever it spells.")
      .def(
          "piece",
          [](const tokenizer& t, std::int32_t id) {
            const std::string_view bytes = t.bytes_of(id);
            return nb::bytes(bytes.data(), bytes.size());
          },
          "id"_a, "The bytes that a token stands for, often part of a character.")
      .def(
          "token_to_id", [](const tokenizer& t, const std::string& token) { return t.token_to_id(token); },
          "token"_a, "None for a text that is no token.")
      .def("is_special", &tokenizer::is_special, "id"_a)
      .def_prop_ro("vocab_size", &tokenizer::vocab_size)
      .def_prop_ro("bos", &tokenizer::bos, "Id of the begin-of-text token, if there is one.")
      .def_prop_ro("eos", &tokenizer::eos, "Id of the end-of-text token, if there is one.");

  nb::class_<stream>(m, "StreamDecoder",
                     "Text of tokens as they come: a character appears when its last byte has.")
      .def(nb::init<std::shared_ptr<tokenizer>, bool>(), "tokenizer"_a, "skip_special"_a = true)
      .def(
          "push", [](stream& s, std::int32_t id) { return s.words.push(id); }, "id"_a)
      .def(
          "finish", [](stream& s) { return s.words.finish(); },
          "What is left of an unfinished character, as U+FFFD.");

  m.def(
      "encode_chat", &encode_chat, "messages"_a, nb::kw_only(), "thinking"_a = true,
      "reasoning_effort"_a = "high", "drop_thinking"_a = true, "add_bos"_a = true, "tools"_a = nb::none(),
      nb::sig(
          "def encode_chat(messages: collections.abc.Sequence[collections.abc.Mapping[str, typing.Any]], *, "
          "thinking: bool = True, reasoning_effort: str = 'high', drop_thinking: bool = True, add_bos: bool "
          "= True, "
          "tools: collections.abc.Sequence[collections.abc.Mapping[str, typing.Any]] | None = None) -> "
          "Prompt"),
      "The prompt of messages as OpenAI's chat API writes them, byte for byte that of the released encoder.");
  m.def(
      "parse_completion",
      [](const std::string& words, bool thinking) {
        const auto message = text::parse_completion(
            words, thinking ? text::thinking_mode::thinking : text::thinking_mode::chat);
        return from_json(text::python::dumps(text::to_json(message), true));
      },
      "text"_a, nb::kw_only(), "thinking"_a = true,
      nb::sig("def parse_completion(text: str, *, thinking: bool = True) -> dict[str, typing.Any]"),
      "The message that a completion says: content, reasoning, calls of tools.");
}

}  // namespace dsv4_python
