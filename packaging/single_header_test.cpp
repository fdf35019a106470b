// SPDX-License-Identifier: MIT
// Every operator of the specification as it stands in the one header, against reference_tests/data/bundles/micro.v4gold, byte
// for byte.  packaging/check_single_header.py makes the two files, compiles and runs this.
// First the one header, with which everything computes; then what the project's own suite and reader of bundles need beyond it.
#include "dsv4_spec.hpp"
//
#include "rest.hpp"
//
#include <cstdio>

int main(int, char** argv) {
  namespace golden = dsv4::golden;
  const golden::bundle b = golden::bundle::open(argv[1]);
  const auto made = golden::micro_suite<dsv4::exec::ref>().run();
  std::size_t same = 0, bytes = 0;
  for (const golden::micro_tensor& m : made) {
    const std::string name = "op." + m.op + "." + m.name;
    const golden::tensor_entry* t = b.find(0, 0, name);
    if (!t) return std::printf("%s: not in the bundle\n", name.c_str()), 1;
    const golden::tensor_data d = b.read(*t);
    if (!std::equal(m.bytes.begin(), m.bytes.end(), d.bytes().begin(), d.bytes().end()))
      return std::printf("%s: other bytes\n", name.c_str()), 1;
    ++same;
    bytes += m.bytes.size();
  }
  std::printf("%zu of %zu tensors of operators, %zu bytes: the same\n", same, b.tensors().size(), bytes);
  return same == b.tensors().size() && same > 0 ? 0 : 1;
}
