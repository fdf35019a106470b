// expect: -ffast-math changes the results
// What the compiler defines under -ffast-math: the library refuses to be compiled.
#if defined(DSV4_MUST_FAIL)
#define __FAST_MATH__ 1
#endif
#include <dsv4/core/view.hpp>
