// expect: constraint|no match for|no viable|no matching
// The host cannot read an element of device memory.
#include <dsv4/core/view.hpp>

float first(dsv4::view<float, 2, dsv4::mem::device> x) {
#ifdef DSV4_MUST_FAIL
  return x(0, 0);
#else
  return x.extent(0) ? 1.0f : 0.0f;
#endif
}
