// SPDX-License-Identifier: MIT
#include "train_impl.hpp"

const cli::train_engine cli::train_ref = cli::train_engine_of<double, dsv4::exec::ref>;
