// SPDX-License-Identifier: MIT
#include <dsv4/text/tokenizer_json_impl.hpp>
