// SPDX-License-Identifier: MIT
#pragma once
/// Every kernel that a model asks of its executor, by name (docs/adding-an-executor.md).
///
/// The first list has those that exec::ref writes out and a fast executor replaces.  The second has loops over rows
/// and descriptors with one body for every executor that works in host memory; an executor with memory of its own
/// writes them, and of the first list all but add_ape, compressor_pool, index_scores, index_select and
/// sparse_attention, which are the parts for one sequence of the ..._of_batch kernels and of core_attention.
/// reference_tests/lint/check_kernels.py compares both lists with the headers.
#include "transformer.hpp"

// clang-format off: it never lays out a list of calls the same way twice
#define DSV4_REFERENCE_KERNELS(KERNEL) \
  KERNEL(act_quant) KERNEL(act_quant_in_place) KERNEL(add_ape) KERNEL(add_shared) \
  KERNEL(add_to_streams) KERNEL(compressor_pool) KERNEL(experts) KERNEL(fp4_act_quant) \
  KERNEL(gate_scores) KERNEL(grouped_linear) KERNEL(hadamard) KERNEL(hc_collapse) KERNEL(hc_mixes) \
  KERNEL(hc_post) KERNEL(hc_split) KERNEL(head_norm) KERNEL(index_scores) KERNEL(index_select) \
  KERNEL(linear) KERNEL(rms_norm) KERNEL(rope) KERNEL(scale_stored) KERNEL(scope) \
  KERNEL(sparse_attention) KERNEL(swiglu)

#define DSV4_ROW_KERNELS(KERNEL) \
  KERNEL(add_ape_of_batch) KERNEL(adopt_slots) KERNEL(append_rows) KERNEL(check_experts) \
  KERNEL(choose_all_visible) KERNEL(choose_experts) KERNEL(copy) KERNEL(copy_to_streams) \
  KERNEL(core_attention) KERNEL(embed) KERNEL(gather_rows) KERNEL(head_weights_of_streams) \
  KERNEL(index_scores_of_batch) KERNEL(index_select_of_batch) KERNEL(join_rows) KERNEL(number_slots) \
  KERNEL(pool_of_batch) KERNEL(route_weights) KERNEL(set_angles)
// clang-format on
