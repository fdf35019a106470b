// SPDX-License-Identifier: MIT
#pragma once
/// exec::cuda and its kernels.  Compile with nvcc (-std=c++20 --expt-relaxed-constexpr -fmad=false), or with a C++ compiler
/// and Boost.Context to run them on the host machine (docs/cuda.md).
#include "../attn/compressor.cuh"        // entries
#include "../attn/indexer.cuh"           // which of them
#include "../attn/slots.cuh"             // their numbers, for observers
#include "../attn/sparse_attention.cuh"  // attention itself
#include "../exec.hpp"                   // the executor
#include "../mhc/hyper.cuh"              // streams: mixes, Sinkhorn, read, write, head
#include "../model/mtp.cuh"              // multi-token prediction
#include "../moe/expert.cuh"             // experts
#include "../moe/gate.cuh"               // routing
#include "../op/act_quant.cuh"           // FP8 and FP4 activations
#include "../op/embedding.cuh"           // rows of the table, into the streams
#include "../op/hadamard.cuh"            // rotation of the indexer's vectors
#include "../op/linear.cuh"              // products, every weight format
#include "../op/rms_norm.cuh"            // norms, of rows and of heads
#include "../op/rope.cuh"                // angles and rotation
#include "../op/rows.cuh"                // rows joined, picked, remembered
#include "../op/swiglu.cuh"              // the experts' non-linearity
#include "../op/top_k.cuh"               // choices
