// SPDX-License-Identifier: MIT
#pragma once
/// What every operator with a mistake in it is made from: the model, the remembered inputs of the right operators,
/// and the three steps that several of them share and in which a mistake can sit: a product with a weight
/// matrix, the rotation by a position, and the simulated FP8 storage of an entry.
#include "../../model/block.hpp"
#include "mistake.hpp"
#include "operator_memory.hpp"

namespace dsv4::golden {

using maybe_values = std::optional<std::vector<double>>;

/// What all mistaken operators need: the model, the memory, and conversions.
template <numerics_policy P>
struct mistaken_context {
  using A = act_t<P>;
  const config& c;
  const model_weights<>& w;
  const operator_memory& memory;
  const std::vector<std::vector<std::int32_t>>* ids = nullptr;  ///< of all sequences
  exec::ref e{};
  workspace scratch{};

  const block_weights<>& block(const tap_scope& s) const {
    const auto n = usize(s.number);
    return s.where == tap_scope::part::mtp ? w.mtp[n].block : w.layers[n];
  }
  index_t ratio(const tap_scope& s) const { return ratio_of(s, c); }
  /// The call's rows of an input, or an empty tensor.
  tensor<A, 2> input(const tap_event& at, site s) const {
    const bool history = s == site::attn_norm || s == site::attn_kv || s == site::compressor_entry ||
                         s == site::indexer_compressor_entry;
    const value_rows* v = history ? memory.history(at.scope, s, at.sequence) : memory.latest(s, at.sequence);
    if (!v) return {};
    const bool entries = is_entry_site(s);
    const index_t from = entries ? v->first : at.start,
                  to = entries ? v->first + v->rows() : at.start + at.tokens;
    return v->has(from, to) ? rows_as<A>(*v, from, to) : tensor<A, 2>{};
  }
  template <class T, int R>
  static std::vector<double> out(const tensor<T, R>& t) {
    std::vector<double> v(usize(t.size()));
    for (index_t i = 0; i < t.size(); ++i) v[usize(i)] = widen<double>(t.data()[i]);
    return v;
  }
  /// y = x w^T as the model does it, or with a mistake in it.
  tensor<A, 2> product(tensor<A, 2> x, const weight_matrix& m, mistake wrong) {
    tensor<A, 2> y(x.extent(0), m.rows);
    if (wrong == mistake::last_tile_dropped)
      for (index_t t = 0; t < x.extent(0); ++t)
        for (index_t k = m.cols - fp8_tile; k < m.cols; ++k) x(t, k) = A{};
    if (wrong == mistake::act_quant_missing)
      linear(e, x.all(), m, y.all());
    else
      quantised_linear<P>(e, scratch, x.all(), m, y.all());
    return y;
  }
  bool product_can(mistake wrong, const weight_matrix& m) const {
    if (wrong == mistake::last_tile_dropped) return m.cols > fp8_tile;
    return wrong == mistake::act_quant_missing && P::quantised && m.quantised();
  }

  double mscale() const { return c.has_yarn ? 0.1 * std::log(c.yarn.factor) + 1 : 1; }

  /// The frequencies a mistake turns by; empty if it is none of these, or changes nothing in this layer.
  std::optional<tensor<float, 1>> frequencies(mistake m, index_t ratio) const {
    const index_t rd = c.qk_rope_head_dim;
    const bool stretched = ratio > 0 && c.has_yarn;
    switch (m) {
      case mistake::rope_other_table: return rotary_frequencies(c, ratio ? 0 : csa_ratio);
      case mistake::rope_plain_base_yarn:
        if (stretched) return rotary_frequencies(c.rope_theta, rd, &c.yarn);
        return std::nullopt;
      case mistake::rope_no_yarn:
        if (stretched) return rotary_frequencies(c.compress_rope_theta, rd, nullptr);
        return std::nullopt;
      case mistake::rope_mscale:
        if (!stretched) return std::nullopt;
        [[fallthrough]];
      case mistake::rope_half_split:
      case mistake::rope_wrong_sign:
      case mistake::rope_first_channels:
      case mistake::rope_shifted:
      case mistake::entry_at_last_token:
      case mistake::entry_at_block_index:
      case mistake::rope_missing: return rotary_frequencies(c, ratio);
      default: return std::nullopt;
    }
  }
  /// x [t, h, d] turned with (or, for a mistake of another kind, without) the mistake.
  void turn(mistake m, index_t ratio, view<A, 3> x, const std::function<index_t(index_t)>& position,
            rotation direction) {
    const auto wrong = frequencies(m, ratio);
    const tensor<float, 1> f = wrong ? *wrong : rotary_frequencies(c, ratio);
    if (m == mistake::rope_missing) return;
    const index_t t = x.extent(0), heads = x.extent(1), d = x.extent(2), rd = c.qk_rope_head_dim,
                  first = d - rd;
    tensor<float, 2> cos(t, rd / 2), sin(t, rd / 2);
    const rotary_angles angles{cos, sin};
    for (index_t i = 0; i < t; ++i) angles.set(i, position(i) + (m == mistake::rope_shifted), f);
    if (m == mistake::rope_mscale)
      for (index_t i = 0; i < cos.size(); ++i)
        cos.data()[i] *= static_cast<float>(mscale()), sin.data()[i] *= static_cast<float>(mscale());
    if (m == mistake::rope_wrong_sign)
      direction = direction == rotation::forward ? rotation::inverse : rotation::forward;
    // Other arrangements of the channels: into the right one, turn, and back.
    const auto source = [&](index_t k) {
      if (m == mistake::rope_half_split) return first + (k - first) / 2 + ((k - first) % 2) * (rd / 2);
      return k - first;  // rope_first_channels
    };
    const bool moved = m == mistake::rope_half_split || m == mistake::rope_first_channels;
    if (!moved) return rope(e, x, angles, direction);
    tensor<A, 3> y(t, heads, d);
    for (index_t i = 0; i < t; ++i)
      for (index_t h = 0; h < heads; ++h)
        for (index_t k = first; k < d; ++k) y(i, h, k) = x(i, h, source(k));
    rope(e, y.all(), angles, direction);
    for (index_t i = 0; i < t; ++i)
      for (index_t h = 0; h < heads; ++h)
        for (index_t k = first; k < d; ++k) x(i, h, source(k)) = y(i, h, k);
  }
  static bool of_entries(mistake m) {
    return m == mistake::entry_at_last_token || m == mistake::entry_at_block_index;
  }

  /// Simulated FP8 storage with a mistake in it; false if the mistake is none of it.
  bool quantise(mistake m, tensor<A, 2>& x) {
    const index_t d = x.extent(1), channels = d - c.qk_rope_head_dim;
    if constexpr (!P::quantised) return false;
    switch (m) {
      case mistake::act_quant_missing: return true;
      case mistake::rope_channels_quantised: act_quant_in_place(e, x.all(), d, kv_quant_block); return true;
      case mistake::kv_block_128:
        if (channels <= kv_quant_block) return false;
        act_quant_in_place(e, x.all(), channels, 2 * kv_quant_block);
        return true;
      case mistake::scale_not_power_of_two:
        for (index_t t = 0; t < x.extent(0); ++t)
          for (index_t from = 0; from < channels; from += kv_quant_block) {
            const index_t to = std::min(from + kv_quant_block, channels);
            double amax = fp8_amax_floor;
            for (index_t k = from; k < to; ++k) amax = std::max(amax, std::fabs(widen<double>(x(t, k))));
            const double s = amax / e4m3_max;
            for (index_t k = from; k < to; ++k)
              x(t, k) = store<A>(
                  e4m3::encode(std::clamp(widen<double>(x(t, k)) / s, -e4m3_max, e4m3_max)).decode() * s);
          }
        return true;
      default: act_quant_in_place(e, x.all(), channels, kv_quant_block); return false;
    }
  }
};

}  // namespace dsv4::golden
