// SPDX-License-Identifier: MIT
#include "engine_impl.hpp"

const cli::engine cli::float32_ref = cli::engine_of<dsv4::float32<>, dsv4::exec::ref>;
