// expect: could not convert .*device|no matching function for call to|no viable conversion
// A view of device memory does not bind to a host kernel: the memory space is part of the type.
#include <dsv4/op/act_quant.hpp>

#if defined(DSV4_MUST_FAIL)
using memory = dsv4::mem::device;
#else
using memory = dsv4::mem::host;
#endif

void f(dsv4::exec::ref e, dsv4::view<float, 2, memory> x) { dsv4::act_quant_in_place(e, x, 64, 64); }
