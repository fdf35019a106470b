// SPDX-License-Identifier: MIT
#include <dsv4/model/transformer.hpp>

template class dsv4::transformer<dsv4::float32<>, dsv4::exec::ref>;
