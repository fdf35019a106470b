// expect: fp4_act_quant: no kernel for this executor
// The primary template of a kernel is an error that names the kernel, never a default.
#include <dsv4/op/act_quant.hpp>

struct my_machine {
  using memory = dsv4::mem::host;
  using wide = float;
};
static_assert(dsv4::execution<my_machine>);

void f(dsv4::view<float, 2> x) {
#if defined(DSV4_MUST_FAIL)
  my_machine e;
#else
  dsv4::exec::ref e;
#endif
  dsv4::fp4_act_quant(e, x);
}
