// SPDX-License-Identifier: MIT
#include <dsv4/golden/convert/convert_impl.hpp>
