// The example of the README, as a user compiles it: no flags of ours, and so the portable kernels.
// Usage: use_model CHECKPOINT
#include <cstdio>
#include <cstring>
#include <dsv4/dsv4.hpp>

int main(int, char** argv) {
  auto checkpoint = dsv4::io::checkpoint::open(argv[1]);
  dsv4::transformer<dsv4::official, dsv4::exec::cpu> model(checkpoint.configuration(), checkpoint.weights());
  auto sequence = model.new_sequence(/*max_tokens=*/64, /*max_rewind=*/8);
  std::vector<std::int32_t> prompt{0, 17, 42};
  dsv4::tensor<double, 2> logits(std::int64_t(prompt.size()), model.configuration().vocab_size);
  model.forward(sequence, prompt, logits);  // prefill, decode, or any chunk
  sequence.rewind(2);                       // as it was after two tokens

  // The third token again, alone: the same bits.
  dsv4::tensor<double, 2> again(1, model.configuration().vocab_size);
  model.forward(sequence, std::span(prompt).last(1), again);
  const bool same =
      std::memcmp(again.data(), logits[2].data(), sizeof(double) * std::size_t(again.size())) == 0;
  std::printf("%d tokens, rewound and repeated: %s\n", int(sequence.length()),
              same ? "the same bits" : "OTHER BITS");
  return same ? 0 : 1;
}
