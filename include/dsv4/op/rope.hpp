// SPDX-License-Identifier: MIT
#pragma once
/// Rotary position embedding on the last rd channels, with YaRN on layers that compress.
/// @paper{DSV4, section 2.3.3; YaRN, arXiv 2309.00071}
/// axes     t token · h head · d channel · i pair (rd/2)
/// oracle   golden/rope; model.py, precompute_freqs_cis and apply_rotary_emb
/// deviates none
///
/// Pairs are interleaved: channels (2i, 2i+1) of the rotary part turn by angle position * inv_freq_i.
/// The product is rounded to float (at a million its rounding matters); cos and sin of that float angle
/// are correctly rounded to float.  Two tables: rope_theta without YaRN for layers of ratio 0 and MTP,
/// compress_rope_theta with YaRN for every q, kv, entry and indexer vector of the others.  No mscale.
/// @post (1) rotating and rotating back is the identity up to two stores   (2) lengths are kept
#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "../core/config.hpp"
#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/tensor.hpp"
#include "../num/formulas.hpp"
#include "../num/round.hpp"

namespace dsv4 {

/// Frequencies of one layer kind.  [rd/2], float.
/// inv_freq_i = base^(-2i/rd); YaRN divides the slow ones by `factor`, keeps the fast ones, and ramps
/// between the pairs that turn beta_fast and beta_slow times over the original context.
inline tensor<float, 1> rotary_frequencies(double base, index_t rd, const yarn_config* yarn) {
  tensor<float, 1> f(rd / 2);
  for (index_t i = 0; i < rd / 2; ++i)
    f[i] = static_cast<float>(1 / std::pow(base, double(2 * i) / double(rd)));
  if (!yarn) return f;
  // Pair (as a real number) that makes `turns` full turns over the original context.
  const auto pair_of = [&](double turns) {
    const double wavelength_ratio =
        double(yarn->original_max_position_embeddings) / (turns * 2 * std::numbers::pi);
    return double(rd) * std::log(wavelength_ratio) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(pair_of(yarn->beta_fast)), 0.0);
  double high = std::min(std::ceil(pair_of(yarn->beta_slow)), double(rd - 1));
  if (low == high) high += 0.001;  // of the released code: no division by zero
  for (index_t i = 0; i < rd / 2; ++i) {
    const float ramp = std::clamp((float(i) - float(low)) / float(high - low), 0.0f, 1.0f);
    const float keep = 1 - ramp;
    const float slow = f[i] / float(yarn->factor) * (1 - keep);
    f[i] = slow + f[i] * keep;
  }
  return f;
}

/// The table of a layer by its compression ratio: the two kinds must never be mixed.
inline tensor<float, 1> rotary_frequencies(const config& c, index_t ratio) {
  if (kind_of_ratio(ratio) == attention_kind::window)
    return rotary_frequencies(c.rope_theta, c.qk_rope_head_dim, nullptr);
  return rotary_frequencies(c.compress_rope_theta, c.qk_rope_head_dim, c.has_yarn ? &c.yarn : nullptr);
}

/// cos and sin of position * inv_freq, one row per position.
template <class Mem>
struct basic_rotary_angles {
  view<float, 2, Mem> cos, sin;  // [t, rd/2]

  void set(index_t t, index_t position, view<const float, 1> inv_freq) const
    requires host_memory<Mem>
  {
    for (index_t i = 0; i < inv_freq.extent(0); ++i) {
      const float angle = rotary_angle(position, inv_freq[i]);
      cos(t, i) = static_cast<float>(std::cos(double(angle)));
      sin(t, i) = static_cast<float>(std::sin(double(angle)));
    }
  }
};

using rotary_angles = basic_rotary_angles<mem::host>;

/// Rows [begin, end) of a batch stand at positions first, first + step, …
struct position_run {
  index_t begin, end, first, step;
};

enum class rotation { forward, inverse };

namespace kernel {
/// run(e, x [t, h, d], angles [t, rd/2], direction), in place on the last rd channels.
template <execution E>
struct rope {
  static_assert(has_kernel<E>, "rope: no kernel for this executor");
};

/// run(e, runs, inv_freq [rd/2], angles [t, rd/2]): the angles of every run's rows.
template <execution E>
struct set_angles {
  static_assert(has_kernel<E>, "set_angles: no kernel for this executor");
};

template <host_execution E>
struct set_angles<E> {
  static void run(E&, std::span<const position_run> runs, view<const float, 1> inv_freq,
                  const rotary_angles& angles) {
    for (const position_run& r : runs)
      for (index_t t = r.begin; t < r.end; ++t) angles.set(t, r.first + (t - r.begin) * r.step, inv_freq);
  }
};

template <>
struct rope<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<A, 3> x, const rotary_angles& angles, rotation direction) {
    const index_t pairs = angles.cos.extent(1), first = x.extent(2) - 2 * pairs;
    for (index_t t = 0; t < x.extent(0); ++t)
      for (index_t h = 0; h < x.extent(1); ++h)
        for (index_t i = 0; i < pairs; ++i) {
          A &even = x(t, h, first + 2 * i), &odd = x(t, h, first + 2 * i + 1);
          const double c = angles.cos(t, i),
                       s = direction == rotation::forward ? angles.sin(t, i) : -angles.sin(t, i);
          const auto turned = rotate_pair(widen<double>(even), widen<double>(odd), c, s);
          even = store<A>(turned.even);
          odd = store<A>(turned.odd);
        }
  }
};
}  // namespace kernel

/// Rotate the last rd channels of every head of row t by the angles of row t, one store per channel.
template <execution E, class A>
void rope(E& e, view<A, 3, mem_of<E>> x /*[t,h,d]*/,
          const basic_rotary_angles<mem_of<E>>& angles /*[t,rd/2]*/, rotation direction = rotation::forward) {
  expects_equal(angles.cos.extent(0), x.extent(0), "rope: rows of the angles against x");
  expects(2 * angles.cos.extent(1) <= x.extent(2), "rope: more rotary channels than the head has");
  kernel::rope<E>::run(e, x, angles, direction);
}

}  // namespace dsv4
