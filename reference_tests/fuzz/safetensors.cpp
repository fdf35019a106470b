// SPDX-License-Identifier: MIT
// A safetensors file, plain or zstd: the header, and every byte of every tensor that it promises.
#include <dsv4/io/safetensors.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = dsv4::io;
  dsv4_fuzz::read_or_refuse([&] {
    std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
    io::owned_bytes raw;
    constexpr std::string_view zstd_magic = "\x28\xB5\x2F\xFD";
    if (dsv4_fuzz::text_of(data, size).starts_with(zstd_magic)) {
      raw = io::zstd_decompress(dsv4_fuzz::file, bytes.data(), size, std::size_t{1} << 20);
      bytes = {raw.data(), raw.size};
    }
    const io::safetensors file = io::safetensors::parse(dsv4_fuzz::file, bytes);
    std::size_t total = 0;
    for (const io::tensor_info& t : file.tensors()) {
      dsv4_fuzz::require(file.find(t.name) == &t, "a tensor is not found under its name");
      dsv4_fuzz::require(t.bytes * 8 == static_cast<std::size_t>(t.elements) *
                                            static_cast<std::size_t>(dsv4::bits_of(t.type)),
                         "bytes and elements");
      dsv4_fuzz::touch(t.data, t.bytes);
      total += t.bytes;
    }
    dsv4_fuzz::require(total <= bytes.size(), "tensors overlap");
  });
  return 0;
}
