// SPDX-License-Identifier: MIT
// Speed of the tokenizer: loading, encoding a text as documents and as one string, decoding.
// reference_tests/oracle/speed_tokenizer.py compares it with PyPI `tokenizers` in one run.
//
//   build/bench/tokenizer reference_tests/data/text/tokenizer.json TEXT [BYTES PER DOCUMENT] [ROUNDS]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <vector>

#include <dsv4/io/mapped_file.hpp>
#include <dsv4/text/tokenizer.hpp>

namespace {

using dsv4::text::special_tokens;
using dsv4::text::token_id;

/// Seconds of the fastest round.
template <class Work>
double fastest(int rounds, Work&& work) {
  double best = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = i == 0 || s < best ? s : best;
  }
  return best;
}

/// The text in pieces of about `size` bytes, each but the last ending with a line.
std::vector<std::string_view> documents(std::string_view text, std::size_t size) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const std::size_t line = text.find('\n', size);
    const std::size_t end = line == text.npos ? text.size() : line + 1;
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

int run(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer TOKENIZER.json TEXT [BYTES PER DOCUMENT] [ROUNDS]\n");
    return 2;
  }
  const std::size_t size = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 4096;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 3;

  const double load = fastest(rounds, [&] { dsv4::text::tokenizer::load(argv[1]); });
  const auto t = dsv4::text::tokenizer::load(argv[1]);
  const dsv4::io::mapped_file file(argv[2]);
  const auto parts = documents(file.text(), size);
  std::vector<token_id> ids;
  std::size_t tokens = 0;
  const double by_document = fastest(rounds, [&] {
    tokens = 0;
    for (const std::string_view part : parts) tokens += t.encode(part, special_tokens::allowed).size();
  });
  const double whole = fastest(rounds, [&] { ids = t.encode(file.text(), special_tokens::allowed); });
  const double decode = fastest(rounds, [&] { t.decode(ids); });
  std::printf(
      "{\"bytes\": %zu, \"documents\": %zu, \"load_s\": %.4f, \"documents_s\": %.4f, \"whole_s\": %.4f, "
      "\"decode_s\": %.4f, \"document_tokens\": %zu, \"whole_tokens\": %zu}\n",
      file.size(), parts.size(), load, by_document, whole, decode, tokens, ids.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tokenizer: %s\n", e.what());
    return 1;
  }
}
