// SPDX-License-Identifier: MIT
#include "golden_engine.hpp"

dsv4::index_t cli::record_official_ref(const golden_job& j) {
  return record_with<dsv4::official, dsv4::exec::ref>(j);
}
