// SPDX-License-Identifier: MIT
#pragma once
/// Dot products of stored weight rows with activation rows, alone and in tiles, in one order of sums.
/// axes     t token · o output row · k input channel (contracted) · b block of k
/// oracle   kernel::linear<exec::ref>
///
/// Order of sums.  Column k belongs to lane k mod 8.  A block is as wide as a scale tile (128 columns of
/// FP8; 256 columns of a format without scales).  Within a block every lane is one chain of FMAs from 0;
/// then total = fma(block, scale, total); after the last block the 8 lanes are added in a fixed tree.
/// That order depends on nothing but the weight's format, so one token, a batch, any cut into tasks and
/// any number of threads give the same float bits.  With W = double the order only has to be accurate.
///
///   one token      dot_rows: 4 rows side by side (4 chains hide the latency of an FMA), each code
///                  decoded in registers, used once
///   many tokens    a tile of weight rows is decoded once into cache, then every 4 rows meet every
///                  panel of 2 or 3 tokens in 12 accumulators: 7 loads for 12 FMAs
///
/// Powers of two.  FP8 codes are cheapest to decode as value * unit (cpu/simd.hpp), unit = 2^-120 or
/// 2^-1016: activations enter times 2^60 (2^508) and the block scale carries the other half back.
#include <algorithm>

#include "../parallel.hpp"
#include "rows.hpp"

namespace dsv4::cpu {

inline constexpr index_t free_block = 256;  // columns of one chain when the format has no scales
// Rows that the kernel for one token works on: their 4 partial sums and 4 totals fit the registers.  With 8 rows,
// which lie 4096 bytes apart, all would compete for the same 8 ways of the first-level cache.
inline constexpr int rows_in_registers = 4;
// How far ahead of their use weights are prefetched.
inline constexpr index_t bytes_ahead = 1 << 15;  // check: 32768 == 2**15
// The tile kernel keeps a sum for each pair of 4 rows and 3 tokens in a register of its own.
inline constexpr index_t rows_at_once = 4;
inline constexpr index_t tokens_at_once = 3;  // check: 12 == 4 * 3
inline constexpr index_t rows_of_tile = 32;   // decoded together: 32 rows x 512 columns of float, 64 KiB
inline constexpr index_t bytes_of_tile_row = 2048;  // check: 2048 == 512 * 4

/// What the activations and the block scales are multiplied by for weights of format F.
template <class W, class F>
inline constexpr W half_unit = 1;
template <>
inline constexpr float half_unit<float, e4m3> = 0x1p60f;  // check: 2**60 * 2**60 == 2**120
template <>
inline constexpr double half_unit<double, e4m3> = 0x1p508;  // check: 2**508 * 2**508 == 2**1016

/// Columns summed by one chain.
inline index_t block_of(const weight_matrix& w) { return w.scale ? w.tile_cols : free_block; }

/// Block scales of rows of w, decoded when a row enters another row of tiles.
template <class W>
class row_scales {
 public:
  row_scales(workspace& scratch, const weight_matrix& w, W factor, index_t slots)
      : w_(w),
        factor_(factor),
        blocks_(ceil_div(w.cols, block_of(w))),
        table_(scratch.take<W>(slots, blocks_)) {}

  /// Pointers to the scales [b] of rows [o, o + n), n <= slots; valid until the next call.
  void point(index_t o, index_t n, const W** at) {
    for (index_t r = 0; r < n; ++r) {
      const index_t tile = w_.scale ? (o + r) / w_.tile_rows : 0;
      if (tile != tile_) {
        slot_ = (slot_ + 1) % table_.extent(0);
        decode(tile, table_[slot_].data());
        tile_ = tile;
      }
      at[r] = table_[slot_].data();
    }
  }

 private:
  void decode(index_t tile, W* out) const {
    for (index_t b = 0; b < blocks_; ++b)
      out[b] = factor_ * static_cast<W>(w_.scale ? scale(tile * blocks_ + b) : 1.0);
  }
  double scale(index_t at) const {
    if (w_.scale_type == dtype::f32) {
      float s;
      std::memcpy(&s, w_.scale + 4 * at, 4);
      return s;
    }
    // Byte b is 2^(b - 127): the exponent field of a double; 255 is refused when a checkpoint is opened.
    const auto b = std::to_integer<std::uint64_t>(w_.scale[at]);
    return std::bit_cast<double>((b + 1023 - 127) << 52);
  }

  const weight_matrix& w_;
  W factor_;
  index_t blocks_;
  view<W, 2> table_;  // [slot, b]
  index_t slot_ = 0, tile_ = -1;
};

// ---- one token ------------------------------------------------------------------------------------------------

/// y[r] = row[r] . x for R rows of k codes of format F.
/// `row`: where each row begins; `scale`: its block scales; `x`: the token as groups, multiplied by half_unit.
/// `next`: rows needed after these; each line read prefetches one of theirs.
template <class W, class F, int R>
[[gnu::noinline]] void dot_rows(const std::byte* const* row, const W* const* scale, const W* x, index_t k,
                                index_t block, const std::byte* next, W* y) {
  using codes = simd::codes<F>;
  constexpr index_t step_bytes = R * codes::bytes;
  const std::byte* p[std::size_t{R}];
  simd::group<W> total[std::size_t{R}];
  DSV4_UNROLL
  for (int r = 0; r < R; ++r) {
    p[r] = row[r];
    total[r] = simd::set_group(W(0));
  }
  for (index_t left = k, b = 0, at = 0; left > 0; left -= block, ++b) {
    simd::group<W> part[std::size_t{R}];
    DSV4_UNROLL
    for (int r = 0; r < R; ++r) part[r] = simd::set_group(W(0));
    // One chain per lane over the block …
    const index_t columns = std::min(block, left);
    for (index_t g = columns / simd::group_size; g > 0; --g, at += codes::bytes, x += simd::group_size) {
      const auto xs = simd::load_group(x);
      DSV4_UNROLL
      for (int r = 0; r < R; ++r) part[r] = simd::fma(codes::template load<W>(p[r] + at), xs, part[r]);
      DSV4_UNROLL
      for (index_t line = 0; line < step_bytes; line += index_t{alignment}) simd::prefetch(next + line);
      next += step_bytes;
    }
    // … the last columns of a row that is no multiple of 8 from a padded copy …
    if (const index_t last_columns = columns % simd::group_size) {
      const auto xs = simd::load_group(x);
      DSV4_UNROLL
      for (int r = 0; r < R; ++r) {
        std::byte last[codes::bytes] = {};
        std::copy_n(p[r] + at, (last_columns * codes::bytes + simd::group_size - 1) / simd::group_size, last);
        part[r] = simd::fma(codes::template load<W>(last), xs, part[r]);
      }
    }
    // … then into the total.
    DSV4_UNROLL
    for (int r = 0; r < R; ++r) total[r] = simd::fma(part[r], simd::set_group(scale[r][b]), total[r]);
  }
  DSV4_UNROLL
  for (int r = 0; r < R; ++r) y[r] = simd::sum(total[r]);
}

// ---- many tokens ----------------------------------------------------------------------------------------------

/// With doubles the order of sums is free: the weights of a tile are multiplied by their scales when they are decoded,
/// and one block spans all columns.
template <class W>
inline constexpr bool scale_in_tile = std::is_same_v<W, double>;

/// total[n][r] += (sum over one block of w[r] . x[n]) * scale[r] for 4 rows and N tokens.
/// w: [step][4][lane] · x: [step][N][lane] · total: [N][4][lane]
template <class W, int N>
[[gnu::noinline]] void multiply_block(const W* w, const W* x, index_t steps, const W* scale, W* total) {
  constexpr int lanes = simd::lanes<W>, R = rows_at_once;
  simd::vector<W> part[std::size_t{R}][std::size_t{N}];
  DSV4_UNROLL
  for (int r = 0; r < R; ++r) {
    DSV4_UNROLL
    for (int n = 0; n < N; ++n) part[r][n] = simd::set(W(0));
  }
  for (index_t s = 0; s < steps; ++s, w += R * lanes, x += N * lanes) {
    simd::vector<W> xs[std::size_t{N}];
    DSV4_UNROLL
    for (int n = 0; n < N; ++n) xs[n] = simd::load(x + n * lanes);
    DSV4_UNROLL
    for (int r = 0; r < R; ++r) {
      const auto ws = simd::load(w + r * lanes);
      DSV4_UNROLL
      for (int n = 0; n < N; ++n) part[r][n] = simd::fma(ws, xs[n], part[r][n]);
    }
  }
  DSV4_UNROLL
  for (int r = 0; r < R; ++r) {
    const auto s = simd::set(scale[r]);
    DSV4_UNROLL
    for (int n = 0; n < N; ++n) {
      W* t = total + (n * R + r) * lanes;
      simd::store(t, simd::fma(part[r][n], s, simd::load(t)));
    }
  }
}

/// The same for all blocks of `width` columns, of which the first is block b and the last may be partial.
template <class W, int N>
inline void multiply_blocks(const W* w, const W* x, index_t width, index_t block, const W* const* scale,
                            index_t b, W* total) {
  if constexpr (scale_in_tile<W>) {
    constexpr W one[rows_at_once] = {1, 1, 1, 1};
    return multiply_block<W, N>(w, x, width / simd::lanes<W>, one, total);
  }
  for (; width > 0; width -= block, ++b, w += block * rows_at_once, x += block * N) {
    const W now[rows_at_once] = {scale[0][b], scale[1][b], scale[2][b], scale[3][b]};
    multiply_block<W, N>(w, x, std::min(width, block) / simd::lanes<W>, now, total);
  }
}

/// Columns that the tile kernel works on at a time: whole blocks, about 2 KiB per row.
template <class W>
index_t columns_at_once(index_t block) {
  return block * std::max<index_t>(1, bytes_of_tile_row / index_t{sizeof(W)} / block);
}

/// Activations packed for the tile kernel, in the order in which it reads them: columns_at_once by
/// columns_at_once, and there panels of 1 to 3 tokens, [panel][step][token of panel][lane].
template <class W>
struct packed_activations {
  const W* data;
  index_t tokens, k;  // k padded
  index_t columns;    // at once

  index_t panels() const { return ceil_div(tokens, tokens_at_once); }
  /// Tokens spread evenly: no panel of one token unless there is only one.
  index_t first(index_t panel) const { return tokens * panel / panels(); }
  /// Where column `from`, a multiple of columns_at_once, of the panel that begins with token t lies.
  index_t offset(index_t t, index_t from) const { return from * tokens + t * std::min(columns, k - from); }
};

/// Packs rows [from, from + tokens) of x, times `factor`.
template <class W, class X>
packed_activations<W> pack(workspace& scratch, const X& x, index_t from, index_t tokens, index_t columns,
                           W factor) {
  W* data = scratch.take<W>(tokens * padded(x.k)).data();
  const packed_activations<W> packed{data, tokens, padded(x.k), columns};
  parallel_for(packed.panels(), 8, [&](index_t begin, index_t end) {
    constexpr index_t lanes = simd::lanes<W>, piece = 128;
    alignas(32) W values[piece];
    for (index_t p = begin; p < end; ++p) {
      const index_t t0 = packed.first(p), n = packed.first(p + 1) - t0;
      for (index_t t = 0; t < n; ++t)
        for (index_t at = 0; at < x.k; at += columns)
          for (index_t c = at; c < std::min(at + columns, x.k); c += piece) {
            const index_t to = std::min({c + piece, at + columns, x.k});
            x.template expand<W>(from + t0 + t, c, to, factor, values);
            W* out = data + packed.offset(t0, at) + (c - at) * n + t * lanes;
            for (index_t i = 0; i < padded(to - c); i += lanes)
              simd::store(out + i * n, simd::load(values + i));
          }
    }
  });
  return packed;
}

/// Decodes columns [from, to) of rows [o, o + rows) into a tile, [row / 4][step][4][lane]; zeros behind the ends.
template <class W, class F>
void decode_tile(const weight_matrix& w, index_t o, index_t rows, index_t from, index_t to, index_t block,
                 const W* const* scale, W* tile) {
  constexpr index_t lanes = simd::lanes<W>, group = simd::group_size;
  using codes = simd::codes<F>;
  const index_t columns = padded(to - from);
  for (index_t r = 0; r < ceil_div(rows, rows_at_once) * rows_at_once; ++r) {
    W* out = tile + (r / rows_at_once) * columns * rows_at_once + (r % rows_at_once) * lanes;
    const auto put = [&](index_t i, simd::group<W> g) {
      if constexpr (lanes == group) {
        simd::store(out + i * rows_at_once, g);
      } else {
        simd::store(out + i * rows_at_once, g.even);
        simd::store(out + (i + lanes) * rows_at_once, g.odd);
      }
    };
    const std::byte* row = w.row(o + std::min(r, rows - 1)) + from / group * codes::bytes;
    for (index_t first = 0, b = from / block; first < to - from; first += block, ++b) {
      const auto s = simd::set_group(scale[r][b]);
      const auto value = [&](const std::byte* p) {
        const auto v = codes::template load<W>(p);
        if constexpr (scale_in_tile<W>)
          return simd::mul(v, s);
        else
          return v;
      };
      const index_t last = std::min(first + block, to - from), whole = last / group * group;
      for (index_t i = first; i < whole; i += group) put(i, value(row + i / group * codes::bytes));
      if (whole == last) continue;
      std::byte end[codes::bytes] = {};
      std::copy_n(row + whole / group * codes::bytes, ((last - whole) * codes::bytes + group - 1) / group,
                  end);
      put(whole, value(end));
    }
  }
}

/// Rows [o, o + rows) of one tile times panels [p0, p1) of x.
template <class W, class F>
void multiply_tile(const weight_matrix& w, index_t o, index_t rows, const packed_activations<W>& x,
                   index_t p0, index_t p1, const destination<W>& y) {
  constexpr index_t lanes = simd::lanes<W>, R = rows_at_once;
  const index_t block = block_of(w), columns = x.columns;
  const index_t t0 = x.first(p0), tokens = x.first(p1) - t0, groups = ceil_div(rows, R);
  workspace& scratch = local_scratch();
  const workspace::scope here(scratch);
  row_scales<W> tables(scratch, w, half_unit<W, F>, w.scale ? std::min(rows, rows / w.tile_rows + 2) : 1);
  const W* scales[rows_of_tile + R];
  tables.point(o, rows, scales);
  std::fill_n(scales + rows, R, scales[0]);  // rows behind the end, not stored
  auto tile = scratch.take<W>(groups * R * padded(std::min(columns, w.cols)));
  auto total = scratch.take<W>(groups * tokens * R * lanes);  // [row / 4][t][4][lane]
  std::fill(total.begin(), total.end(), W(0));

  for (index_t from = 0; from < w.cols; from += columns) {
    const index_t to = std::min(from + columns, w.cols), width = padded(to - from);
    decode_tile<W, F>(w, o, rows, from, to, block, scales, tile.data());
    // Eight rows stay in the first-level cache while the panels pass by.
    constexpr index_t groups_at_once = 2;
    for (index_t g0 = 0; g0 < groups; g0 += groups_at_once)
      for (index_t p = p0, t = t0, next; p < p1; ++p, t = next) {
        next = x.first(p + 1);
        const W* xs = x.data + x.offset(t, from);
        for (index_t g = g0; g < std::min(g0 + groups_at_once, groups); ++g) {
          const W* ws = tile.data() + g * R * width;
          W* sum = total.data() + (g * tokens + t - t0) * R * lanes;
          switch (next - t) {
            case 3: multiply_blocks<W, 3>(ws, xs, width, block, scales + g * R, from / block, sum); break;
            case 2: multiply_blocks<W, 2>(ws, xs, width, block, scales + g * R, from / block, sum); break;
            default: multiply_blocks<W, 1>(ws, xs, width, block, scales + g * R, from / block, sum);
          }
        }
      }
  }
  // Add the lanes and store.
  W sums[rows_of_tile];
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t r = 0; r < rows; ++r)
      sums[r] = simd::sum(simd::load(total.data() + ((r / R * tokens + t) * R + r % R) * lanes));
    y(t0 + t, o, sums, rows);
  }
}

}  // namespace dsv4::cpu
