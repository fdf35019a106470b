// SPDX-License-Identifier: MIT
/// `using namespace dsv4` beside the C library's headers, which declare a function `index` in the global namespace.
#include <strings.h>

#include <dsv4/dsv4.hpp>

using namespace dsv4;

index_t rows_of(const view<const float, 2>& v) { return v.extent(0); }
