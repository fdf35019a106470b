// SPDX-License-Identifier: MIT
#pragma once
/// The fast CPU executor: every kernel of exec::cpu and exec::cpu_fast.
#include "attn/compressor.hpp"
#include "attn/indexer.hpp"
#include "attn/sparse_attention.hpp"
#include "mhc/hyper.hpp"
#include "moe/expert.hpp"
#include "moe/route.hpp"
#include "op/act_quant.hpp"
#include "op/hadamard.hpp"
#include "op/linear.hpp"
#include "op/rms_norm.hpp"
#include "op/rope.hpp"
#include "op/swiglu.hpp"
#include "optim/muon.hpp"
#include "train/product.hpp"
#include "train/sparse_attention.hpp"
