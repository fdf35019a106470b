// SPDX-License-Identifier: MIT
// A small model from a fuzzed configuration, and a sequence that is led through fuzzed operations: forward in pieces,
// rewind, reset, fork, save and load, calls that are refused, observers that throw.  Whatever was done, its logits are
// those that a fresh sequence computes from the tokens that are left, to the last bit.
//
//   bytes 0-15: the configuration, each byte a small change of one field (what parse_config refuses ends the input)
//   then one operation a byte: its low 3 bits say which, the others how much
#include <map>
#include <optional>

#include <nlohmann/json.hpp>

#include <dsv4/gen/state_file.hpp>
#include <dsv4/io/config_json.hpp>
#include <dsv4/io/config_out.hpp>

#include "../random_model.hpp"
#include "fuzz.hpp"

namespace {
using namespace dsv4;
using policy = official;
using executor = exec::ref;
using model_type = transformer<policy, executor>;
using sequence_type = sequence<policy, executor>;

constexpr std::size_t config_bytes = 16;
constexpr index_t longest = 24;

/// Fields near those of the tests' model; 0 changes nothing, so that a short or quiet input is a good one.
config fuzzed(const std::uint8_t* b) {
  config c = dsv4_test::tiny_config();
  constexpr std::array<index_t, 8> ratios{0, 4, 16, 8, 1, 2, 5, 128};
  c.num_hidden_layers = 1 + (b[0] + 2) % 4;
  c.num_nextn_predict_layers = b[1] % 2;
  c.compress_ratios.clear();
  for (index_t l = 0; l < c.num_hidden_layers + c.num_nextn_predict_layers; ++l)
    c.compress_ratios.push_back(
        ratios[static_cast<std::size_t>((b[2] >> (2 * (l % 3))) + l) % ratios.size()]);
  c.vocab_size = 16;
  c.num_hash_layers = (b[3] + 1) % 3;
  c.sliding_window = 1 + (b[4] + 7) % 12;
  c.hidden_size = b[5] % 2 ? 32 : 16 - b[5] / 2 % 16;
  c.head_dim = b[6] % 2 ? 32 : 16 - b[6] / 2 % 16;
  c.qk_rope_head_dim = 8 + b[7] % 28;
  c.num_attention_heads = 1 + (b[8] + 1) % 4;
  c.o_groups = 1 + (b[9] + 1) % 4;
  c.n_routed_experts = 1 + (b[10] + 5) % 8;
  c.num_experts_per_tok = 1 + (b[10] / 8 + 1) % 4;
  c.index_topk = 1 + (b[11] + 3) % 9;
  c.index_head_dim = index_t{1} << (4 + b[12] % 3);
  c.index_n_heads = 1 + (b[12] / 4 + 3) % 5;
  c.hc_mult = 1 + (b[13] + 3) % 5;
  c.moe_intermediate_size = b[14] % 2 ? 32 : 16 - b[14] / 2 % 16;
  c.hc_sinkhorn_iters = 1 + b[15] % 4;
  c.max_position_embeddings = longest + 8;
  return c;
}

struct observed {
  static constexpr bool on = true;
  long left;
  void operator()(const tap_event&) {
    if (left-- == 0) throw std::runtime_error("the observer's own");
  }
};

/// The sequence, the tokens that it must hold, and the same from scratch.
class player {
 public:
  player(const config& c, bool published, index_t max_rewind)
      : weights_(c, published ? dsv4_test::published : dsv4_test::all_f32),
        model_(weights_.c, weights_.weights),
        identity_(identity_of(model_)),
        max_rewind_(max_rewind),
        s_(model_.new_sequence(longest, max_rewind)) {}

  void play(std::uint8_t op) {
    const index_t much = op >> 3;
    switch (op & 7) {
      case 0:
      case 1: return forward(1 + much % 12);
      case 2: return rewind(std::max<index_t>(0, s_.length() - much));
      case 3: return save_and_load();
      case 4: return fork(1 + much % 4);
      case 5: return refused(much);
      case 6: return thrown(1 + much % 6, much * 5);
      default:
        if (much % 4 == 0) s_.reset(), ids_.clear();
        return forward(2);
    }
  }

 private:
  std::vector<std::int32_t> more(index_t n) {
    return dsv4_test::random_ids(std::min(n, longest - s_.length()), weights_.c.vocab_size, ++seed_);
  }
  std::vector<double> run(sequence_type& s, std::span<const std::int32_t> ids) {
    tensor<double, 2> out(static_cast<index_t>(ids.size()), weights_.c.vocab_size);
    model_.forward(s, ids, out);
    return {out.data(), out.data() + out.size()};
  }
  /// The last rows of all tokens read by a fresh sequence in one call.
  std::vector<double> from_scratch(const std::vector<std::int32_t>& all, std::size_t rows) {
    sequence_type fresh = model_.new_sequence(longest);
    const std::vector<double> x = run(fresh, all);
    return {x.end() - static_cast<std::ptrdiff_t>(rows * static_cast<std::size_t>(weights_.c.vocab_size)),
            x.end()};
  }
  void forward(index_t n) {
    const auto ids = more(n);
    const auto got = run(s_, ids);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    dsv4_fuzz::require(s_.length() == static_cast<index_t>(ids_.size()), "length after forward");
    if (!ids.empty())
      dsv4_fuzz::require(got == from_scratch(ids_, ids.size()), "logits are not those from scratch");
  }
  template <class F>
  static bool violates(F&& f) {
    try {
      f();
    } catch (const contract_violation&) {
      return true;
    }
    return false;
  }
  void rewind(index_t to) {
    const bool reachable = to == 0 || to >= s_.rewind_limit();
    dsv4_fuzz::require(violates([&] { s_.rewind(to); }) == !reachable, "rewind and rewind_limit disagree");
    if (reachable) ids_.resize(static_cast<std::size_t>(to));
    forward(1);
  }
  void save_and_load() {
    state_extras<policy, executor> extras;
    extras.ids = ids_;
    std::string bytes;
    encode_state(identity_, weights_.c, s_, extras).write_to([&](const void* data, std::size_t n) {
      bytes.append(static_cast<const char*>(data), n);
    });
    auto loaded = decode_state<policy, executor>(
        "state", {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}, identity_, weights_.c,
        {longest, max_rewind_});
    dsv4_fuzz::require(loaded.extras.ids == ids_, "ids of a loaded state");
    s_ = std::move(loaded.sequence);
    forward(1);
  }
  void fork(index_t n) {
    sequence_type other = s_;
    const auto ids = more(n);
    auto all = ids_;
    all.insert(all.end(), ids.begin(), ids.end());
    if (!ids.empty())
      dsv4_fuzz::require(run(other, ids) == from_scratch(all, ids.size()), "logits of a copy");
    forward(1);
  }
  void refused(index_t how) {
    std::vector<std::int32_t> ids(1, how % 2 ? -1 : static_cast<std::int32_t>(weights_.c.vocab_size));
    if (how % 4 > 1) ids.assign(static_cast<std::size_t>(longest - s_.length() + 1), 0);
    dsv4_fuzz::require(violates([&] { run(s_, ids); }), "a call that must be refused is not");
    forward(1);
  }
  void thrown(index_t n, long at) {
    const auto ids = more(n);
    tensor<double, 2> out(static_cast<index_t>(ids.size()), weights_.c.vocab_size);
    observed tap{at};
    try {
      model_.forward(s_, ids, out, tap);
      ids_.insert(ids_.end(), ids.begin(), ids.end());
    } catch (const std::runtime_error&) {
      if (!s_.intact()) {
        dsv4_fuzz::require(n > max_rewind_ + 1, "a short call broke the sequence");
        dsv4_fuzz::require(violates([&] { run(s_, {}); }) || s_.length() == 0, "a broken sequence goes on");
        s_.reset();
        ids_.clear();
      }
    }
    forward(1);
  }

  dsv4_test::random_model weights_;
  model_type model_;
  state_identity identity_;
  index_t max_rewind_;
  sequence_type s_;
  std::vector<std::int32_t> ids_;
  std::uint64_t seed_ = 0;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t most_operations = 12;
  if (size <= config_bytes) return 0;
  std::optional<config> c;
  dsv4_fuzz::read_or_refuse([&] { c = io::parse_config(dsv4_fuzz::file, io::to_json(fuzzed(data))); });
  if (!c) return 0;
  const bool whole = c->hidden_size % 32 == 0 && c->head_dim % 32 == 0 && c->moe_intermediate_size % 32 == 0;
  player p(*c, whole && data[15] < 128, data[4] / 12 % 6);
  for (std::size_t i = config_bytes; i < std::min(size, config_bytes + most_operations); ++i) p.play(data[i]);
  return 0;
}
