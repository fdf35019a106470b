// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of config_out.hpp.
#include <utility>

#include <nlohmann/json.hpp>
#include "config_out.hpp"

namespace dsv4::io {

DSV4_INLINE nlohmann::json to_json(const config& c) {
  nlohmann::json j{
      {"architectures", {"DeepseekV4ForCausalLM"}},
      {"model_type", "deepseek_v4"},
      {"vocab_size", c.vocab_size},
      {"hidden_size", c.hidden_size},
      {"moe_intermediate_size", c.moe_intermediate_size},
      {"num_hidden_layers", c.num_hidden_layers},
      {"num_hash_layers", c.num_hash_layers},
      {"num_attention_heads", c.num_attention_heads},
      {"num_key_value_heads", 1},
      {"head_dim", c.head_dim},
      {"qk_rope_head_dim", c.qk_rope_head_dim},
      {"q_lora_rank", c.q_lora_rank},
      {"o_groups", c.o_groups},
      {"o_lora_rank", c.o_lora_rank},
      {"n_routed_experts", c.n_routed_experts},
      {"n_shared_experts", c.n_shared_experts},
      {"num_experts_per_tok", c.num_experts_per_tok},
      {"scoring_func", "sqrtsoftplus"},
      {"routed_scaling_factor", c.routed_scaling_factor},
      {"swiglu_limit", c.swiglu_limit},
      {"rms_norm_eps", c.rms_norm_eps},
      {"hc_mult", c.hc_mult},
      {"hc_sinkhorn_iters", c.hc_sinkhorn_iters},
      {"hc_eps", c.hc_eps},
      {"sliding_window", c.sliding_window},
      {"max_position_embeddings", c.max_position_embeddings},
      {"rope_theta", c.rope_theta},
      {"compress_rope_theta", c.compress_rope_theta},
      {"num_nextn_predict_layers", c.num_nextn_predict_layers},
      {"compress_ratios", c.compress_ratios},
  };
  if (c.index_head_dim > 0) {  // without CSA layers an indexer may have no sizes
    j["index_n_heads"] = c.index_n_heads;
    j["index_head_dim"] = c.index_head_dim;
    j["index_topk"] = c.index_topk;
  }
  if (const dspark_config& d = c.dspark; d.present()) {
    std::vector<index_t> ratios = c.compress_ratios;
    ratios.resize(ratios.size() + usize(d.stages), 0);
    j["compress_ratios"] = ratios;
    j["num_nextn_predict_layers"] = d.stages;
    j["dspark_block_size"] = d.block_size;
    j["dspark_noise_token_id"] = d.noise_token;
    j["dspark_markov_rank"] = d.markov_rank;
    j["dspark_target_layer_ids"] = d.target_layers;
  }
  j["rope_scaling"] = nullptr;
  if (c.has_yarn)
    j["rope_scaling"] = {{"type", "yarn"},
                         {"factor", c.yarn.factor},
                         {"beta_fast", c.yarn.beta_fast},
                         {"beta_slow", c.yarn.beta_slow},
                         {"original_max_position_embeddings", c.yarn.original_max_position_embeddings}};
  return j;
}

}  // namespace dsv4::io
