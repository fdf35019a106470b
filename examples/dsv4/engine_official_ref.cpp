// SPDX-License-Identifier: MIT
#include "engine_impl.hpp"

const cli::engine cli::official_ref = cli::engine_of<dsv4::official, dsv4::exec::ref>;
