// SPDX-License-Identifier: MIT
#pragma once
#include "../core/config.hpp"
