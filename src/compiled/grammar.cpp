// SPDX-License-Identifier: MIT
#include <dsv4/gen/grammar_calls_impl.hpp>
#include <dsv4/gen/grammar_impl.hpp>
#include <dsv4/gen/grammar_json_impl.hpp>
