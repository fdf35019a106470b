// SPDX-License-Identifier: MIT
#include "train_impl.hpp"

std::unique_ptr<cli::train_session> cli::open_training_ref(train_input&& in) {
  return open_session_of<double, dsv4::exec::ref>(std::move(in));
}
