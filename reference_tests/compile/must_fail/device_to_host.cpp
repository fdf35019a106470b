// expect: could not convert|no matching function|no viable conversion
#include <dsv4/core/view.hpp>

void host_kernel(dsv4::mat<const float> x);
#if defined(DSV4_MUST_FAIL)
void f(dsv4::mat<float, dsv4::mem::device> x) { host_kernel(x); }
#else
void f(dsv4::mat<float, dsv4::mem::host> x) { host_kernel(x); }
#endif
