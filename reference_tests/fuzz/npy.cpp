// SPDX-License-Identifier: MIT
// .npy, or an .npz archive of them: headers, and every byte of every array.
#include <dsv4/io/npy.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = dsv4::io;
  dsv4_fuzz::read_or_refuse([&] {
    const bool zip = dsv4_fuzz::text_of(data, size).starts_with("PK");
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
    for (const io::npy_array& a : io::npy::parse(dsv4_fuzz::file, bytes, zip)) {
      dsv4_fuzz::require(a.bytes * 8 == static_cast<std::size_t>(a.elements) *
                                            static_cast<std::size_t>(dsv4::bits_of(a.type)),
                         "bytes and elements");
      dsv4_fuzz::touch(a.data, a.bytes);
    }
  });
  return 0;
}
