// SPDX-License-Identifier: MIT
#include <dsv4/train/model.hpp>

template class dsv4::train::network<double, dsv4::exec::ref>;
