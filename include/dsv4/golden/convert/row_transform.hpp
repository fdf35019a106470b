// SPDX-License-Identifier: MIT
#pragma once
/// Copies an array of a dump into a site's own layout, doing row by row what its map rule asks for
/// (name_map.hpp): layout, invert, scale, apply.  Without such a wish, values are copied bit for bit.
/// @throws format_error an integer that does not fit, a choice that is no whole number
#include <array>
#include <bit>

#include "../../op/hadamard.hpp"
#include "../../op/rope.hpp"
#include "../bundle/bundle.hpp"
#include "dump.hpp"
#include "name_map.hpp"

namespace dsv4::golden {

namespace detail {

/// IEEE half as a double, exact.
inline double half_value(std::uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude = exponent == 31  ? (mantissa ? std::numeric_limits<double>::quiet_NaN()
                                                       : std::numeric_limits<double>::infinity())
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(mantissa + 1024, exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

/// Element i of an array of a type that `carrier` lets pass, as a double (integers beyond 2^53 are rounded).
inline double load(dtype type, const std::byte* data, index_t i) {
  const auto at = [&]<class T>(T v) {
    std::memcpy(&v, data + usize(i) * sizeof v, sizeof v);
    return v;
  };
  if (is_integer(type)) return static_cast<double>(integer_at(type, data, i));
  return type == dtype::f16 ? half_value(at(std::uint16_t{})) : element(type, data, i);
}

class row_transform {
 public:
  row_transform(const map_rule& rule, const tap_scope& scope, site where, const config& c)
      : r_(rule), where_(where), c_(c), factor_(rule.scale) {
    for (const auto& [field, power] : rule.scale_fields)
      factor_ *= std::pow(double(*config_field(c, field)), power);
    ratio_ = ratio_of(scope, c);
    if (r_.invert == map_inversion::rope) frequencies_ = rotary_frequencies(c, ratio_);
  }

  /// The stored type of a value that comes as `type`.
  dtype carrier(dtype type, const std::string& who) const {
    const bool real = type == dtype::f16 || type == dtype::bf16 || type == dtype::f32 || type == dtype::f64;
    if (!real && !is_integer(type) && type != dtype::boolean)
      throw unsupported(who + ": found " + std::string(name_of(type)) +
                        ", whose codes are no values by themselves; dump integers, F16, BF16, F32 or F64");
    if (info(where_).kind == site_class::integer) return dtype::i32;
    if (r_.type) return *r_.type;
    switch (type) {
      case dtype::f16: return dtype::f32;
      case dtype::bf16:
      case dtype::f32:
      case dtype::f64: return type;
      default:
        throw format_error(who + ": found " + std::string(name_of(type)) +
                           ", expected floating-point values");
    }
  }

  /// Elements along (shape, stride) from `offset`, row-major, as `out_shape` of `carrier`.
  std::vector<std::byte> run(const dump_tensor& t, index_t offset, const std::vector<index_t>& shape,
                             const std::vector<index_t>& stride, const std::vector<index_t>& out_shape,
                             dtype carrier, index_t from, index_t tokens) {
    const auto total = io::detail::checked_elements(out_shape, dtype::f64);
    if (!total)
      io::fail_format(t.file,
                      "array " + io::in_quotes(t.full) + ": " + io::shape_text(out_shape) + " overflows");
    const std::size_t each = usize(bits_of(carrier) / 8);
    constexpr index_t most_picks = index_t{1}
                                   << 30;  // rows times slots: the only output larger than its input
    if (r_.apply == map_transform::picks && *total > most_picks)
      io::fail_format(t.file, "array " + io::in_quotes(t.full) + ": too many slots");
    std::vector<std::byte> out(usize(*total) * each);
    const index_t width = out_shape.size() > 1 ? out_shape.back() : 1, rows = width ? *total / width : 0;
    const bool by_values = touches_values() || carrier != t.type;
    const bool picks = r_.apply == map_transform::picks;
    const index_t in_width = picks ? width - c_.sliding_window : width;
    row_.resize(usize(width));
    std::vector<index_t> at(shape.size(), 0);
    index_t place = offset;
    // The next element along the strides.
    const auto next = [&] {
      for (std::size_t a = shape.size(); a-- > 0;) {
        place += stride[a];
        if (++at[a] < shape[a]) return;
        place -= stride[a] * shape[a], at[a] = 0;
      }
    };
    const index_t per_row = out_shape[0] ? rows / out_shape[0] : 0;
    for (index_t i = 0; i < rows; ++i) {
      std::byte* to = out.data() + usize(i * width) * each;
      if (!by_values) {
        for (index_t x = 0; x < width; ++x, next())
          std::memcpy(to + usize(x) * each, t.data + usize(place) * each, each);
        continue;
      }
      for (index_t x = 0; x < in_width; ++x, next()) row_[usize(x)] = load(t.type, t.data, place);
      const index_t n = per_row ? i / per_row : 0;
      if (picks)
        slots(from + n, in_width, from == 0, tokens);
      else
        transform(is_entry_site(where_) ? (from / ratio_ + n) * ratio_ : from + n);
      for (index_t x = 0; x < width; ++x) store(t, carrier, to + usize(x) * each, row_[usize(x)]);
    }
    return out;
  }

 private:
  bool touches_values() const {
    return r_.half_layout || r_.invert != map_inversion::none || r_.apply != map_transform::none ||
           factor_ != 1;
  }

  void transform(index_t position) {
    const index_t d = static_cast<index_t>(row_.size()), rd = std::min(c_.qk_rope_head_dim, d);
    if (r_.half_layout) {  // the last rd channels: evens, then odds
      std::vector<double> rotary(row_.end() - rd, row_.end());
      for (index_t i = 0; i < rd; ++i) row_[usize(d - rd + i)] = rotary[usize(i / 2 + (i % 2) * (rd / 2))];
    }
    exec::ref e;
    if (r_.invert == map_inversion::rope) {
      tensor<float, 2> cos(1, rd / 2), sin(1, rd / 2);
      const rotary_angles angles{cos.all(), sin.all()};
      angles.set(0, position, frequencies_.all());
      kernel::rope<exec::ref>::run(e, view<double, 3>(row_.data(), 1, 1, d), angles, rotation::inverse);
    }
    if (r_.invert == map_inversion::hadamard) hadamard(e, view<double, 2>(row_.data(), 1, d));
    for (double& v : row_) v *= factor_;
    if (r_.apply == map_transform::sqrt_softplus)
      for (double& v : row_) v = std::sqrt(std::max(v, 0.0) + std::log1p(std::exp(-std::fabs(v))));
  }

  /// Chosen entries of a query -> slots: window, then entries, as attn.topk_idxs numbers them (attention.hpp).
  /// Entry e is seen from the last token of its block on: by position p if (e + 1) ratio <= p + 1.
  void slots(index_t position, index_t k, bool from_zero, index_t tokens) {
    const index_t window = c_.sliding_window, oldest = std::max<index_t>(0, position - window + 1);
    const double offset = static_cast<double>(from_zero ? tokens : window);
    std::vector<double> out;
    for (index_t s = 0; s < window; ++s) {
      const index_t p = oldest + s;
      out.push_back(p > position ? -1.0 : static_cast<double>(from_zero ? p : p % window));
    }
    const double closed = ratio_ > 0 ? static_cast<double>((position + 1) / ratio_) : 0;
    for (index_t i = 0; i < k; ++i) {
      const double e = row_[usize(i)];  // NaN is no entry: `store` refuses it
      out.push_back(e < 0 || e >= closed ? -1 : e + offset);
    }
    row_ = std::move(out);
  }

  static void store(const dump_tensor& t, dtype carrier, std::byte* to, double v) {
    const auto put = [&](auto x) { std::memcpy(to, &x, sizeof x); };
    switch (carrier) {
      case dtype::f64: return put(v);
      case dtype::f32: return put(static_cast<float>(v));
      case dtype::bf16: return put(round_bf16(v).bits);
      default:
        if (!(v >= -2147483648.0 && v <= 2147483647.0) || v != std::floor(v))
          io::fail_format(t.file, "array " + io::in_quotes(t.full) + ": found " + std::to_string(v) +
                                      ", expected whole numbers of 32 bits");
        put(static_cast<std::int32_t>(v));
    }
  }

  const map_rule& r_;
  site where_;
  const config& c_;
  double factor_;
  index_t ratio_ = 0;
  tensor<float, 1> frequencies_;
  std::vector<double> row_;
};

}  // namespace detail

}  // namespace dsv4::golden
