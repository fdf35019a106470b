// SPDX-License-Identifier: MIT
#pragma once
/// The baseline a language model has to beat: a trigram model of bytes, interpolated Kneser-Ney.
/// oracle   probabilities of every context sum to 1; Chen and Goodman 1999, equation (23)
///
/// With c the counts of the training text, N(. v w) in how many contexts u the pair v w occurs, and so on:
///   P3(w | u v) = max(c(u v w) - D3, 0) / c(u v)     + D3 N(u v .) / c(u v)     P2(w | v)
///   P2(w | v)   = max(N(. v w) - D2, 0) / N(. v .)   + D2 N(v .)   / N(. v .)   P1(w)
///   P1(w)       = max(N(. w) - D1, 0) / N(. .)       + D1 N(.)     / N(. .)     1 / 256
/// where N(v .) and N(.) count the different w.  D = n1 / (n1 + 2 n2), n1 and n2 of the order's counts that are 1 and
/// 2 (1/2 where there are none).  A context that never occurred leaves everything to the next shorter one.
/// A text is read as if two line breaks stood before it.  The counts take 64 MiB.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv4::trainer {

class trigram {
 public:
  explicit trigram(std::string_view text) : counts_(std::size_t{bytes} * bytes * bytes) {
    std::size_t u = '\n', v = '\n';
    for (const char c : text) {
      const std::size_t w = static_cast<unsigned char>(c);
      ++counts_[(u * bytes + v) * bytes + w];
      u = std::exchange(v, w);
    }
    std::array<std::array<std::size_t, 3>, 3>
        occurring{};  // [order][n]: how many counts are n, for n = 1 and 2
    for (u = 0; u < bytes; ++u)
      for (v = 0; v < bytes; ++v)
        for (std::size_t w = 0; w < bytes; ++w) {
          const std::uint32_t c = counts_[(u * bytes + v) * bytes + w];
          if (c == 0) continue;
          three_[u][v].add(c);
          pairs_[v][w] += 1;
          if (c <= 2) ++occurring[2][c];
        }
    for (v = 0; v < bytes; ++v)
      for (std::size_t w = 0; w < bytes; ++w) {
        const std::uint32_t c = pairs_[v][w];
        if (c == 0) continue;
        two_[v].add(c);
        singles_[w] += 1;
        if (c <= 2) ++occurring[1][c];
      }
    for (const std::uint32_t c : singles_) {
      if (c == 0) continue;
      one_.add(c);
      if (c <= 2) ++occurring[0][c];
    }
    for (std::size_t order = 0; order < 3; ++order) {
      const auto n1 = static_cast<double>(occurring[order][1]), n2 = static_cast<double>(occurring[order][2]);
      discount_[order] = n1 > 0 ? n1 / (n1 + 2 * n2) : 0.5;
    }
  }

  /// Of byte w after bytes u v.
  double probability(unsigned char u, unsigned char v, unsigned char w) const {
    const double p1 = one_.mix(singles_[w], discount_[0], 1.0 / bytes);
    const double p2 = two_[v].mix(pairs_[v][w], discount_[1], p1);
    return three_[u][v].mix(counts_[(std::size_t{u} * bytes + v) * bytes + w], discount_[2], p2);
  }

  /// Mean of -log2 P over the bytes of `text`, which follows `before`.
  double bits_per_byte(std::string_view text, std::string_view before = {}) const {
    unsigned char u = '\n', v = '\n';
    for (const char c : before.substr(before.size() - std::min<std::size_t>(before.size(), 2)))
      u = std::exchange(v, static_cast<unsigned char>(c));
    double bits = 0;
    for (const char c : text) {
      const auto w = static_cast<unsigned char>(c);
      bits -= std::log2(probability(u, v, w));
      u = std::exchange(v, w);
    }
    return text.empty() ? 0 : bits / static_cast<double>(text.size());
  }

 private:
  static constexpr std::size_t bytes = 256;

  /// What follows one context: the sum of its counts, and how many are not zero.
  struct context {
    double sum = 0, kinds = 0;
    void add(std::uint32_t c) { sum += c, kinds += 1; }
    double mix(std::uint32_t c, double discount, double shorter) const {
      return sum > 0 ? (std::max(c - discount, 0.0) + discount * kinds * shorter) / sum : shorter;
    }
  };

  std::vector<std::uint32_t> counts_;  // [u, v, w]
  std::vector<std::array<context, bytes>> three_ = std::vector<std::array<context, bytes>>(bytes);
  std::vector<std::array<std::uint32_t, bytes>> pairs_ =
      std::vector<std::array<std::uint32_t, bytes>>(bytes);  // N(. v w)
  std::array<context, bytes> two_{};
  std::array<std::uint32_t, bytes> singles_{};  // N(. w)
  context one_;
  std::array<double, 3> discount_{};  // D1, D2, D3
};

}  // namespace dsv4::trainer
