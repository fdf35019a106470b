// SPDX-License-Identifier: MIT
// A GGUF file: metadata, tensor infos, every byte of every tensor that it promises; and as a model of deepseek4.
#include <dsv4/io/gguf.hpp>
#include <dsv4/io/gguf_deepseek4.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = dsv4::io;
  dsv4_fuzz::read_or_refuse([&] {
    const io::gguf file = io::gguf::parse(dsv4_fuzz::file, {reinterpret_cast<const std::byte*>(data), size});
    for (const io::gguf_tensor& t : file.tensors()) {
      dsv4_fuzz::require(file.find(t.name) == &t, "a tensor is not found under its name");
      dsv4_fuzz::touch(t.data, t.data ? t.bytes : 0);
    }
    for (const auto& [key, value] : file.metadata()) {
      dsv4_fuzz::touch(value.bytes.data(), value.bytes.size());
      dsv4_fuzz::read_or_refuse([&] { file.real(key); });
      dsv4_fuzz::read_or_refuse([&] { file.reals(key); });
      dsv4_fuzz::read_or_refuse([&] { file.text(key); });
    }
    const dsv4::config c = io::config_of(file);
    constexpr std::size_t most = std::size_t{1} << 20;
    io::gguf_in_memory(file, c, most);
  });
  return 0;
}
