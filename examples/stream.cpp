// SPDX-License-Identifier: MIT
// Ask a model, and stream what it answers:     build/examples/stream DeepSeek-V4-Flash 'What is a mixture of experts?'
#include <dsv4/dsv4.hpp>
#include <iostream>

int main(int argc, char** argv) try {
  if (argc != 3) return std::cerr << "usage: stream MODEL_DIRECTORY QUESTION\n", 2;
  const auto checkpoint = dsv4::io::checkpoint::open(argv[1]);
  const auto tokenizer = dsv4::text::tokenizer::load(argv[1]);
  dsv4::transformer<dsv4::official, dsv4::exec::cpu> model(checkpoint.configuration(), checkpoint.weights());
  const std::vector<dsv4::text::chat_message> messages{{"user", argv[2]}};
  const auto prompt = dsv4::text::encode_messages(messages, {.mode = dsv4::text::thinking_mode::chat});
  const auto ids = dsv4::text::prompt_ids(tokenizer, prompt);
  const std::vector<std::int32_t> stop{tokenizer.eos().value()};
  auto sequence = model.new_sequence(/*max_tokens=*/1024);
  dsv4::sampler sampler({.temperature = 1}, checkpoint.configuration().vocab_size);
  dsv4::text::stream_decoder words(tokenizer, /*skip_special=*/true);
  dsv4::generate(model, sequence, std::span(ids), {.max_new = 200, .stop_ids = stop}, sampler,
                 [&](std::int32_t id) { return bool(std::cout << words.push(id) << std::flush); });
  std::cout << words.finish() << '\n';
} catch (const std::exception& e) {
  return std::cerr << "stream: " << e.what() << '\n', 1;
}
