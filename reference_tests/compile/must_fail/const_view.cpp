// expect: could not convert|no viable conversion
// Inputs stay inputs: a view of constant elements does not become one of mutable elements.
#include <dsv4/core/view.hpp>

#if defined(DSV4_MUST_FAIL)
dsv4::mat<float> f(dsv4::mat<const float> x) { return x; }
#else
dsv4::mat<const float> f(dsv4::mat<float> x) { return x; }
#endif
