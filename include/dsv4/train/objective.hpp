// SPDX-License-Identifier: MIT
#pragma once
/// What is minimised, and which stage of training the attention is in.
/// @paper{DSV4, section 4.2.2: lambda_MTP 0.3 (0.1 in the decay), balance loss 1e-4; stages of sparse attention}
/// axes     none
/// oracle   none: constants
/// deviates the weight of the indexer's objective is not published; it is 1, because its gradient reaches no parameter
///          that another objective reaches
///
///   L = CE + mtp_weight CE_MTP + balance_weight sum over layers L_bal  (+ the indexer's KL, for the indexer alone)
namespace dsv4::train {

/// The indexer's objective: none; over all visible entries (warm-up); over the entries it chose.
enum class index_stage { off, dense, sparse };

struct objective {
  double mtp_weight = 0.3;
  double balance_weight = 1e-4;
  double index_weight = 1;
  index_stage index = index_stage::sparse;
  bool dense_attention = false;  ///< CSA layers attend to every visible entry (the first stage of training)
  bool quantise_index =
      false;  ///< indexer q and keys in FP4, gradients straight through (quantisation-aware training)
};

}  // namespace dsv4::train
