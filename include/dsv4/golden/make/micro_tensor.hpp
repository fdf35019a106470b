// SPDX-License-Identifier: MIT
#pragma once
/// What the operators' bundle (micro.hpp) is made of: named inputs and outputs of kernels, and the formats and
/// casts themselves, every code of them.
/// In a bundle each is a tensor op.KERNEL.NAME; outputs have the inputs as `deps`, and inputs have none.
#include <cstring>

#include "../../core/tensor.hpp"
#include "../bundle/bundle_writer.hpp"
#include "recipe.hpp"

namespace dsv4::golden {

/// One input or output of a kernel.
struct micro_tensor {
  std::string op, name;
  std::vector<std::string> axes;
  std::vector<index_t> shape;
  dtype carrier;
  std::string logical;
  tolerance_class cls;
  bool output = false;
  std::vector<std::byte> bytes;
};

/// Collects them, kernel after kernel.
class micro_tensors {
 public:
  std::vector<micro_tensor> take() { return std::move(out_); }

  /// Decoding of every code, encoding of every bf16, and float to bf16 around ties.
  void formats() {
    decode_all<e4m3>("e4m3_decode", 256, "f8_e4m3");
    decode_all<e2m1>("e2m1_decode", 16, "f4_e2m1");
    decode_all<e8m0>("e8m0_decode", 256, "f8_e8m0");
    encode_all<e4m3>("e4m3_encode", "f8_e4m3");
    encode_all<e2m1>("e2m1_encode", "f4_e2m1");
    // float to bf16: every exponent and sign, the low half below, at and above the tie, odd and even neighbours.
    begin("bf16_encode");
    constexpr std::uint32_t halves[] = {0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF}, tops = 1 << 9;
    constexpr index_t lows = std::size(halves), each = 2 * lows;
    tensor<float, 1> x(tops * each);
    tensor<bf16, 1> y(x.size());
    for (index_t i = 0; i < x.size(); ++i) {
      const auto top = static_cast<std::uint32_t>(i / each), odd = static_cast<std::uint32_t>(i / lows % 2);
      x[i] = std::bit_cast<float>(top << 23 | 0x7Eu << 16 | odd << 16 | halves[i % lows]);
      y[i] = bf16::encode(double(x[i]));
    }
    in("x", {"value"}, x);
    out("y", {"value"}, y);
  }

 protected:
  using cls = tolerance_class;
  using names = std::vector<std::string>;

  template <class T>
  static constexpr dtype carrier = std::is_same_v<T, std::uint8_t> || std::is_same_v<T, e4m3> ||
                                           std::is_same_v<T, e2m1> || std::is_same_v<T, e8m0>
                                       ? dtype::u8
                                   : std::is_same_v<T, bf16>   ? dtype::bf16
                                   : std::is_same_v<T, float>  ? dtype::f32
                                   : std::is_same_v<T, double> ? dtype::f64
                                                               : dtype::i32;
  void put(bool output, const std::string& name, names axes, std::vector<index_t> shape, dtype type,
           const std::string& logical, cls kind, const void* data) {
    const auto* p = static_cast<const std::byte*>(data);
    index_t n = bits_of(type) / 8;
    for (const index_t s : shape) n *= s;
    out_.push_back({op_, name, std::move(axes), std::move(shape), type, logical, kind, output, {p, p + n}});
  }
  template <class T, int R>
  void put(bool output, const std::string& name, const names& axes, view<T, R> v, cls kind,
           std::string logical = "") {
    using V = std::remove_const_t<T>;
    const auto n = v.extents();
    if (logical.empty()) {
      constexpr dtype t = carrier<V>;
      logical = t == dtype::bf16          ? "bf16"
                : t == dtype::f32         ? "f32"
                : t == dtype::f64         ? "f64"
                : t == dtype::i32         ? "i32"
                : std::is_same_v<V, e4m3> ? "f8_e4m3"
                                          : "u8";
    }
    put(output, name, axes, {n.begin(), n.end()}, carrier<V>, logical, kind, v.data());
  }
  template <class T, int R>
  void in(const std::string& name, const names& axes, const tensor<T, R>& t, cls kind = cls::stored,
          std::string logical = "") {
    put(false, name, axes, t.all(), kind, std::move(logical));
  }
  template <class T, int R>
  void out(const std::string& name, const names& axes, const tensor<T, R>& t, cls kind = cls::stored,
           std::string logical = "") {
    put(true, name, axes, t.all(), kind, std::move(logical));
  }
  void begin(std::string op) { op_ = std::move(op); }
  const std::string& op() const { return op_; }

  /// Numbers of the recipe, uniform in steps of 2^-7 of the largest, 2^gain; every third row is of another size.
  template <class T, int R>
  tensor<T, R> numbers(const std::string& name, std::array<index_t, R> extents, int gain = 0) {
    tensor<T, R> t = std::apply([](auto... n) { return tensor<T, R>(n...); }, extents);
    const io::hub_tensor source{"op." + op_ + "." + name, dtype::i8, {t.size()}, 1};
    std::vector<std::byte> u(usize(t.size()));
    weight_recipe(1, 1).fill(source, 0, u);
    const index_t row = t.size() / std::max<index_t>(1, extents[0]);
    for (index_t i = 0; i < t.size(); ++i) {
      const int k = std::to_integer<int>(u[usize(i)]) - 128;
      const double v = std::ldexp(double(k), gain - 7 - (R > 1 && i / row % 3 == 2 ? 3 : 0));
      if constexpr (std::is_same_v<T, bf16>)
        t.data()[i] = bf16::encode(v);
      else
        t.data()[i] = static_cast<T>(v);
    }
    return t;
  }

 private:
  template <class F>
  void decode_all(const std::string& op, index_t codes, const std::string& logical) {
    begin(op);
    tensor<std::uint8_t, 1> code(codes);
    tensor<float, 1> value(codes);
    for (index_t i = 0; i < codes; ++i) {
      code[i] = static_cast<std::uint8_t>(i);
      value[i] = static_cast<float>(F::from_bits(static_cast<unsigned>(i)).decode());
    }
    in("code", {"code"}, code, cls::code, logical);
    out("value", {"code"}, value, cls::stored);
  }
  /// Every bf16 into the format: nearest, ties to even, saturated; NaN to its NaN (e2m1: to 0).
  template <class F>
  void encode_all(const std::string& op, const std::string& logical) {
    begin(op);
    constexpr index_t all = index_t{1} << 16;
    tensor<bf16, 1> x(all);
    tensor<std::uint8_t, 1> code(all);
    for (index_t i = 0; i < all; ++i) {
      x[i] = bf16::from_bits(static_cast<unsigned>(i));
      code[i] = F::encode(x[i].decode()).bits;
    }
    in("x", {"value"}, x);
    out("code", {"value"}, code, cls::code, logical);
  }

  std::string op_;
  std::vector<micro_tensor> out_;
};

/// A bundle has a configuration; operators have only the smallest that is valid.
inline config micro_config() {
  config c;
  c.vocab_size = c.num_hidden_layers = c.num_attention_heads = c.o_groups = c.o_lora_rank = c.q_lora_rank = 1;
  c.n_routed_experts = c.num_experts_per_tok = c.sliding_window = c.max_position_embeddings = 1;
  c.hidden_size = c.moe_intermediate_size = fp4_tile_cols;
  c.head_dim = 4, c.qk_rope_head_dim = 2;
  c.swiglu_limit = 10;
  c.has_yarn = false;
  c.compress_ratios = {0};
  return c;
}

/// Writes them as the tensors of one call.
inline void write_micro(bundle_writer& to, const std::vector<micro_tensor>& tensors) {
  to.ids({{0}});
  to.about().input.prefill = 1;
  to.begin_call(call_kind::prefill, {{0, 0, 1}});
  std::vector<std::string> inputs;
  for (const micro_tensor& m : tensors) {
    tensor_entry t;
    t.scope = "op." + m.op, t.site = m.name, t.name = t.scope + "." + m.name;
    if (!inputs.empty() && !inputs.front().starts_with(t.scope + ".")) inputs.clear();
    t.from = 0, t.to = 1;
    t.axes = m.axes, t.shape = m.shape, t.carrier = m.carrier, t.logical = m.logical, t.cls = m.cls;
    if (m.output)
      t.deps = inputs;
    else
      inputs.push_back(t.name);
    to.add(std::move(t), m.bytes);
  }
}

}  // namespace dsv4::golden
