// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>
#include <dsv4/model/transformer.hpp>

template class dsv4::transformer<dsv4::official, dsv4::exec::cpu>;
