// SPDX-License-Identifier: MIT
#include <dsv4/trainer/export_impl.hpp>
