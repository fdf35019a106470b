// SPDX-License-Identifier: MIT
#pragma once
/// `dsv4 golden convert`: another engine's dump (dump.hpp) becomes a bundle, by a map of names (name_map.hpp).
///
///   const auto found = golden::match(golden::dump::open("hf.safetensors"), map, config);
///   golden::convert(found, ids, "hf.v4gold", about);
///
/// Every array that a rule names is brought to the site's own axes and written under the site's name; the
/// values are copied exactly unless a rule says otherwise.  Nothing is guessed: an array whose shape does
/// not fit its site is a misfit that says what was expected; `match` lists all of them, `convert` refuses.
/// Calls: those in the names (prefill/…, decode00056/…, positions of raw files), else one call from 0.
/// How many tokens a call has is what most of its arrays say.
/// @throws format_error the array, its shape, what was expected; contract_violation no ids
#include <memory>

#include "../../core/config_macros.hpp"
#include "../bundle/sinks.hpp"
#include "align.hpp"

namespace dsv4::golden {

struct matched_call {
  dump_call call;
  index_t tokens = 0;                 ///< 0: no array of the call tells
  std::vector<matched_value> values;  ///< in the order of execution
};

struct match_result {
  std::shared_ptr<const dump> source;
  std::shared_ptr<const name_map> map;
  config model;
  index_t sequences = 1;
  std::vector<matched_call> calls;         ///< by position
  std::vector<std::string> unmapped;       ///< names of the dump without a rule
  std::vector<std::string> twice;          ///< names that a better rule's array replaced
  std::vector<std::string> sites_missing;  ///< of the first call: our sites that nothing maps to
  std::vector<std::string> misfits;        ///< arrays that cannot be what their rules say, and why
  std::vector<std::string> left_out;       ///< the same where the rules are optional
  index_t values = 0, ignored = 0;
  index_t closing_nothing = 0;  ///< arrays of compressors in calls in which no entry closes: left out
};

/// Which arrays are which sites, and what is left on both sides (--map-check).  Only a dump or map that is no
/// such thing is thrown; what does not fit is in `misfits`.
match_result match(dump source, name_map rules, const config& c, index_t sequences = 1);

/// Token ids of a dump: an integer array `input_ids`, [t] or [b, t]; empty if it has none.
std::vector<std::vector<std::int32_t>> ids_of(const dump& d, const config& c);

/// Writes the bundle.  `about`: name, created_by; config, oracle and numerics are filled in if empty.
/// Returns what optional rules left out, in words.
/// @throws format_error the first misfit, and how many more there are
std::vector<std::string> convert(const match_result& m, const std::vector<std::vector<std::int32_t>>& ids,
                                 const std::filesystem::path& out, manifest about,
                                 const writer_options& options = {});

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "convert_impl.hpp"
#endif
