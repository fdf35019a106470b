// SPDX-License-Identifier: MIT
#include <dsv4/golden/judge/mutate_impl.hpp>
