// SPDX-License-Identifier: MIT
#include <dsv4/golden/bundle/manifest_json_impl.hpp>
