// SPDX-License-Identifier: MIT
// float32<double>: nothing is rounded between operations; what gradients and other engines are held against.
#include <dsv4/model/transformer.hpp>

template class dsv4::transformer<dsv4::float32<double>, dsv4::exec::ref>;
