// SPDX-License-Identifier: MIT
#pragma once
/// Operators one by one: inputs and outputs of every kernel, for somebody who ports that kernel alone.
/// Formats and casts are exhaustive (256 e4m3 codes, 16 e2m1, 256 e8m0, every bf16 into both); the others have
/// the cases that ports get wrong: partial last blocks, blocks of zeros, ties, clamps, more than 64 slots.
/// `dsv4 golden micro` writes the bundle.
#include "../../attn/compressor.hpp"
#include "../../attn/sparse_attention.hpp"
#include "../../mhc/post.hpp"
#include "../../mhc/pre.hpp"
#include "../../moe/gate.hpp"
#include "../../op/hadamard.hpp"
#include "../../op/rms_norm.hpp"
#include "../../op/rope.hpp"
#include "../../op/swiglu.hpp"
#include "../../op/top_k.hpp"
#include "micro_tensor.hpp"

namespace dsv4::golden {

/// Runs every kernel of an executor on the same inputs.  Wide outputs are F64 of exec::ref, F32 of the others.
template <execution E>
class micro_suite : micro_tensors {
 public:
  std::vector<micro_tensor> run() {
    formats();
    quantisers();
    norms_and_rotations();
    products();
    swiglu_clamped();
    hyper_connections();
    attention();
    pooling();
    routing_of_tokens();
    return take();
  }

 private:
  using W = wide_t<E>;

  // ---- quantisers ---------------------------------------------------------------------------------------------
  /// Rows that decide scales: plain, an outlier, zeros, exactly the largest code, one ulp above it, the smallest.
  tensor<bf16, 2> rows_for_scales(index_t k, double largest) {
    constexpr index_t rows = 8;
    tensor<bf16, 2> x = numbers<bf16, 2>("x", {rows, k}, 3);
    for (index_t i = 0; i < k; ++i) {
      x(3, i) = bf16{};
      x(4, i) = bf16::encode(double(i % 7) * 0x1p-130);
      x(5, i) = bf16::encode(std::min(x(5, i).decode(), 1.0));
      x(6, i) = bf16::encode(std::min(x(6, i).decode(), 1.0));
    }
    x(1, k / 2) = bf16::encode(1000);
    x(5, k - 1) = bf16::encode(largest / 4);
    x(6, k - 1) = bf16::encode(-largest / 4 * (1 + 0x1p-7));
    return x;
  }
  void quantisers() {
    begin("act_quant");
    {
      constexpr index_t k = 320;  // two blocks and a half
      auto x = rows_for_scales(k, e4m3_max);
      tensor<e4m3, 2> code(x.extent(0), k);
      tensor<float, 2> scale(x.extent(0), (k + fp8_tile - 1) / fp8_tile);
      act_quant(e_, x.all(), code.all(), scale.all());
      in("x", {"row", "channel"}, x);
      out("code", {"row", "channel"}, code, cls::code);
      out("scale", {"row", "block"}, scale);
    }
    begin("act_quant_kv");  // blocks of 64 of the first 128 channels; the rotary ones stay
    {
      constexpr index_t k = 192, channels = 128;
      auto x = rows_for_scales(k, e4m3_max);
      in("x", {"row", "channel"}, x);
      act_quant_in_place(e_, x.all(), channels, kv_quant_block);
      out("y", {"row", "channel"}, x, cls::code);
    }
    begin("fp4_act_quant");
    {
      auto x = rows_for_scales(80, e2m1_max);
      in("x", {"row", "channel"}, x);
      fp4_act_quant(e_, x.all());
      out("y", {"row", "channel"}, x, cls::code);
    }
  }

  // ---- norms, rotations ---------------------------------------------------------------------------------------
  void norms_and_rotations() {
    constexpr double eps = 1e-6;
    begin("rms_norm");
    {
      auto x = numbers<bf16, 2>("x", {6, 40}, 2);
      auto w = numbers<float, 1>("weight", {40}, 1);
      for (bf16& v : x[4]) v = bf16{};
      tensor<bf16, 2> y(x.extent(0), x.extent(1));
      rms_norm(e_, x.all(), view<const float, 1>(w), eps, y.all());
      in("x", {"row", "channel"}, x);
      in("weight", {"channel"}, w);
      out("y", {"row", "channel"}, y);
    }
    begin("head_norm");
    {
      auto q = numbers<bf16, 3>("q", {6, 2, 32}, 2);
      in("q", {"row", "head", "channel"}, q);
      head_norm(e_, q.all(), eps);
      out("y", {"row", "head", "channel"}, q);
    }
    begin("hadamard");
    {
      auto x = numbers<bf16, 2>("x", {6, 64}, 2);
      in("x", {"row", "channel"}, x);
      hadamard(e_, x.all());
      out("y", {"row", "channel"}, x);
    }
    config c;
    c.qk_rope_head_dim = 64;
    for (const index_t ratio : {index_t{0}, csa_ratio}) {
      begin(ratio ? "rope_compressed" : "rope_window");
      constexpr std::int32_t at[] = {0, 1, 63, 64, 4095, 65535, 1000003};
      constexpr index_t rows = std::size(at);
      const auto frequency = rotary_frequencies(c, ratio);
      tensor<std::int32_t, 1> position(rows);
      tensor<float, 2> cos(rows, c.qk_rope_head_dim / 2), sin(rows, c.qk_rope_head_dim / 2);
      const rotary_angles angles{cos.all(), sin.all()};
      for (index_t t = 0; t < rows; ++t) angles.set(t, position[t] = at[t], frequency.all());
      auto x = numbers<bf16, 3>("x", {rows, 2, 80}, 1);
      in("position", {"row"}, position);
      in("x", {"row", "head", "channel"}, x);
      out("frequency", {"pair"}, frequency);
      out("cos", {"row", "pair"}, cos);
      out("sin", {"row", "pair"}, sin);
      auto back = x;
      rope(e_, x.all(), angles);
      out("y", {"row", "head", "channel"}, x);
      rope(e_, back.all(), angles, rotation::inverse);
      out("y_inverse", {"row", "head", "channel"}, back);
    }
  }

  // ---- products -----------------------------------------------------------------------------------------------
  void products() {
    workspace scratch;
    constexpr index_t columns = 160;  // a whole tile and a partial one
    for (const dtype type : {dtype::f32, dtype::bf16, dtype::f8_e4m3, dtype::i8}) {
      const bool fp8 = type == dtype::f8_e4m3, fp4 = type == dtype::i8;
      const index_t rows = fp8 ? 136 : 24;
      begin(fp8 ? "linear_fp8" : fp4 ? "linear_fp4" : type == dtype::bf16 ? "linear_bf16" : "linear_f32");
      auto x = numbers<bf16, 2>("x", {5, columns}, 1);
      // Weights and scales of the recipe; op.….experts. so that FP4 scales are an expert's.
      const std::string stem = "op." + op() + (fp4 ? ".experts." : ".");
      const io::hub_tensor w{stem + "weight", type, {rows, fp4 ? columns / 2 : columns}, columns};
      const index_t tile_rows = fp8 ? fp8_tile : 1, tile_cols = fp8 ? fp8_tile : fp4_tile_cols;
      const io::hub_tensor s{stem + "scale",
                             dtype::f8_e8m0,
                             {(rows + tile_rows - 1) / tile_rows, (columns + tile_cols - 1) / tile_cols},
                             columns};
      tensor<std::byte, 1> codes(w.bytes()), scales(s.bytes());
      weight_recipe(1, 1).fill(w, 0, {codes.data(), usize(codes.size())});
      weight_recipe(1, 1).fill(s, 0, {scales.data(), usize(scales.size())});
      weight_matrix m{
          .type = fp4 ? dtype::f4_e2m1 : type, .data = codes.data(), .rows = rows, .cols = columns};
      if (fp8 || fp4) m.scale = scales.data(), m.tile_rows = tile_rows, m.tile_cols = tile_cols;
      in("x", {"row", "channel"}, x);
      const dtype stored = fp8 || fp4 ? dtype::u8 : type;
      put(false, "weight", {"output", fp4 ? "pair" : "channel"}, w.shape, stored,
          fp8                   ? "f8_e4m3"
          : fp4                 ? "f4_e2m1x2"
          : type == dtype::bf16 ? "bf16"
                                : "f32",
          cls::stored, codes.data());
      if (m.scale)
        put(false, "scale", {"output_block", "block"}, s.shape, dtype::u8, "f8_e8m0", cls::stored,
            scales.data());
      tensor<bf16, 2> y(x.extent(0), rows);
      quantised_linear<official>(e_, scratch, x.all(), m, y.all());
      out("y", {"row", "output"}, y, fp8 ? cls::gemm_fp8 : fp4 ? cls::gemm_fp4 : cls::gemm_bf16);
      if (m.scale) continue;
      tensor<W, 2> wide(x.extent(0), rows);
      linear(e_, x.all(), m, wide.all());
      out("y_wide", {"row", "output"}, wide, cls::f32_reduction);
    }
    begin("grouped_linear");
    auto x = numbers<bf16, 3>("x", {3, 2, 48}, 1);
    auto w = numbers<bf16, 2>("weight", {20, 48}, -1);
    tensor<bf16, 3> y(3, 2, 10);
    grouped_linear(e_, x.all(),
                   weight_matrix{.type = dtype::bf16,
                                 .data = reinterpret_cast<const std::byte*>(w.data()),
                                 .rows = 20,
                                 .cols = 48},
                   y.all());
    in("x", {"row", "group", "channel"}, x);
    in("weight", {"output", "channel"}, w);
    out("y", {"row", "group", "output"}, y, cls::gemm_bf16);
  }

  void swiglu_clamped() {
    begin("swiglu");
    auto gate = numbers<bf16, 2>("gate", {6, 48}, 4), up = numbers<bf16, 2>("up", {6, 48}, 4), z = gate;
    const auto weight = numbers<W, 1>("weight", {6}, 0);
    swiglu(e_, gate.all(), up.all(), view<const W, 1>(weight.all()), /*limit=*/10, z.all());
    in("gate", {"row", "channel"}, gate);
    in("up", {"row", "channel"}, up);
    in("weight", {"row"}, weight, cls::f32_elementwise);
    out("z", {"row", "channel"}, z);
    swiglu(e_, gate.all(), up.all(), view<const W, 1>{}, 10, z.all());
    out("z_unweighted", {"row", "channel"}, z);
  }

  // ---- hyper connections --------------------------------------------------------------------------------------
  void hyper_connections() {
    constexpr index_t t = 6, n = 4, d = 24, mixes_n = (2 + n) * n, iterations = 20;
    begin("hc_split");
    const auto mixes = numbers<W, 2>("mixes", {t, mixes_n}, 2);
    const auto scale = numbers<float, 1>("scale", {3}, 1);
    const auto base = numbers<float, 1>("base", {mixes_n}, 1);
    tensor<W, 2> pre(t, n), post(t, n);
    tensor<W, 3> comb(t, n, n);
    kernel::hc_split<E>::run(e_, view<const W, 2>(mixes.all()), {scale.all(), base.all(), iterations, 1e-6},
                             {post, comb, pre});
    in("mixes", {"row", "mix"}, mixes, cls::f32_elementwise);
    in("scale", {"part"}, scale);
    in("base", {"mix"}, base);
    out("pre", {"row", "stream"}, pre, cls::f32_elementwise);
    out("post", {"row", "stream"}, post, cls::f32_elementwise);
    out("comb", {"row", "stream", "stream_out"}, comb, cls::f32_elementwise);

    begin("hc_apply");
    auto h = numbers<bf16, 3>("h", {t, n, d}, 1);
    const auto value = numbers<bf16, 2>("value", {t, d}, 1);
    const auto read = numbers<W, 2>("pre", {t, n}, 0), write = numbers<W, 2>("post", {t, n}, 0);
    const auto carry = numbers<W, 3>("comb", {t, n, n}, 0);
    tensor<bf16, 2> y(t, d);
    in("h", {"row", "stream", "channel"}, h);
    in("value", {"row", "channel"}, value);
    in("pre", {"row", "stream"}, read, cls::f32_elementwise);
    in("post", {"row", "stream"}, write, cls::f32_elementwise);
    in("comb", {"row", "stream", "stream_out"}, carry, cls::f32_elementwise);
    kernel::hc_collapse<E>::run(e_, view<const W, 2>(read.all()), view<const bf16, 3>(h.all()), y.all());
    out("y", {"row", "channel"}, y);
    kernel::hc_post<E>::run(e_, view<const bf16, 2>(value.all()), view<const W, 2>(write.all()),
                            view<const W, 3>(carry.all()), h.all());
    out("h_after", {"row", "stream", "channel"}, h, cls::hidden);
  }

  // ---- attention ----------------------------------------------------------------------------------------------
  /// Windows that are not full, just full, and sliding; entries beyond the second softmax block; empty slots.
  void attention() {
    constexpr index_t window = 72, dims = 32, heads = 3, chosen_n = 4;
    for (const index_t start : {index_t{0}, index_t{70}, index_t{100}}) {
      begin("sparse_attention_from_" + std::to_string(start));
      constexpr index_t t = 4;
      const index_t first = std::max(index_t{0}, start - window + 1);
      auto q = numbers<bf16, 3>("q", {t, heads, dims}, 2);
      const auto kv = numbers<bf16, 2>("kv", {start + t - first, dims}, 1);
      const auto entries = numbers<bf16, 2>("entries", {6, dims}, 1);
      const auto sink = numbers<float, 1>("sink", {heads}, 2);
      tensor<std::int32_t, 2> chosen(t, chosen_n);
      for (index_t i = 0; i < chosen.size(); ++i)
        chosen.data()[i] = i % 5 == 4 ? -1 : static_cast<std::int32_t>(i * 5 % 6);
      tensor<bf16, 3> o(t, heads, dims);
      const attention_slots<bf16> slots{start, window, {{}, first, kv.all()}, entries.all(), chosen.all()};
      sparse_attention(e_, q.all(), slots, sink.all(), o.all());
      in("q", {"row", "head", "channel"}, q);
      in("kv", {"position", "channel"}, kv, cls::code);
      in("entries", {"entry", "channel"}, entries, cls::code);
      in("chosen", {"row", "slot"}, chosen, cls::choice);
      in("sink", {"head"}, sink);
      out("o", {"row", "head", "channel"}, o, cls::attention);
    }
  }

  void pooling() {
    constexpr index_t d = 16;
    for (const index_t ratio : {csa_ratio, index_t{8}}) {
      const index_t halves = ratio == csa_ratio ? 2 : 1, rows = 3 * ratio;
      begin(ratio == csa_ratio ? "compressor_pool_csa" : "compressor_pool_hca");
      const auto kv = numbers<W, 2>("kv", {rows, halves * d}, 1);
      const auto score = numbers<W, 2>("score", {rows, halves * d}, 2);
      tensor<bf16, 2> pooled(3, d);
      kernel::compressor_pool<E>::run(e_, compressor_rows<W>{0, kv.all(), score.all()}, ratio, 0,
                                      pooled.all());
      in("kv", {"position", "channel"}, kv, cls::f32_reduction);
      in("score", {"position", "channel"}, score, cls::f32_reduction);
      out("pooled", {"entry", "channel"}, pooled, cls::gemm_bf16);
    }
  }

  // ---- routing ------------------------------------------------------------------------------------------------
  void routing_of_tokens() {
    constexpr index_t t = 6, experts = 16, k = 3;
    begin("gate_scores");
    auto scores = numbers<W, 2>("logits", {t, experts}, 5);  // softplus is linear above 20
    const auto bias = numbers<float, 1>("bias", {experts}, -1);
    in("logits", {"row", "expert"}, scores, cls::f32_reduction);
    in("bias", {"expert"}, bias);
    tensor<W, 2> biased(t, experts);
    kernel::gate_scores<E>::run(e_, scores.all(), bias.all(), biased.all());
    out("scores", {"row", "expert"}, scores, cls::f32_elementwise);
    out("biased", {"row", "expert"}, biased, cls::f32_elementwise);

    begin("top_k");  // few values, so many ties: the lower index wins
    tensor<float, 2> values = numbers<float, 2>("scores", {8, 24}, 1);
    for (float& v : values.all()) v = std::floor(2 * v);
    tensor<std::int32_t, 2> chosen(8, k);
    tensor<std::int32_t, 1> order(24);
    for (index_t i = 0; i < 8; ++i)
      top_k(std::span<const float>(values[i].data(), 24), std::span(order.data(), 24),
            std::span(chosen[i].data(), usize(k)));
    in("scores", {"row", "candidate"}, values);
    out("indices", {"row", "choice"}, chosen, cls::choice);
  }

  E e_{};
};

}  // namespace dsv4::golden
