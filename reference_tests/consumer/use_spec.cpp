// A user of dsv4::spec: the specification and the standard library, nothing else.
#include <cstdio>
#include <dsv4/num/round.hpp>
#include <dsv4/op/act_quant.hpp>

#if defined(DSV4_HAS_CPU)
#error "dsv4::spec must not bring the CPU kernels"
#endif

int main() {
  float x[3] = {448, 1.0625f, -0.3f};
  dsv4::exec::ref e;
  dsv4::act_quant_in_place(e, dsv4::view<float, 2>(x, 1, 3), 3, 64);
  std::printf("%g %g %g %g\n", double(x[0]), double(x[1]), double(x[2]), dsv4::rounded<dsv4::bf16>(3.14159));
  return x[0] == 448 && x[1] == 1 && dsv4::rounded<dsv4::bf16>(3.14159) == 3.140625 ? 0 : 1;
}
