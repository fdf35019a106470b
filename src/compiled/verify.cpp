// SPDX-License-Identifier: MIT
#include <dsv4/golden/judge/verify_impl.hpp>
