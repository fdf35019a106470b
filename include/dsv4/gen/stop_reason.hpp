// SPDX-License-Identifier: MIT
#pragma once
/// Why an answer has ended.
namespace dsv4 {

enum class stop_reason {
  length,   ///< max_new tokens were made
  stop_id,  ///< one of stop_ids was made
  caller,   ///< on_token said so
};

}  // namespace dsv4
