// SPDX-License-Identifier: MIT
#pragma once
/// Every kernel of exec::cpu that training uses.
#include "product.hpp"
#include "sparse_attention.hpp"
