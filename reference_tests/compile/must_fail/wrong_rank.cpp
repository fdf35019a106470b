// expect: could not convert|no viable conversion
#include <dsv4/core/view.hpp>

#if defined(DSV4_MUST_FAIL)
dsv4::mat<float> f(dsv4::vec<float> x) { return x; }
#else
dsv4::mat<float> f(dsv4::vec<float> x) { return x.reshape(x.size(), 1); }
#endif
