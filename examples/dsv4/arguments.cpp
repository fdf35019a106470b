// SPDX-License-Identifier: MIT
// Options that several verbs have.
#include "arguments.hpp"

#include <tbb/global_control.h>

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cli {
namespace {

/// All of `text` as a number.
template <class T>
bool read_number(std::string_view text, T& to) {
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), to);
  return fault == std::errc() && end == text.data() + text.size();
}

/// "671=-2.5"
dsv4::logit_bias read_bias(const std::string& text) {
  const std::size_t at = text.find('=');
  dsv4::logit_bias b{};
  if (at == std::string::npos || !read_number(std::string_view(text).substr(0, at), b.id) ||
      !read_number(std::string_view(text).substr(at + 1), b.added))
    throw CLI::ValidationError("--logit-bias", "'" + text + "' is not ID=VALUE, e.g. 671=-2.5 or 671=-inf");
  return b;
}

}  // namespace

CLI::App& add_verb(CLI::App& parent, const std::string& name, const std::string& about) {
  return *parent.add_subcommand(name, about);
}

void add_engine(CLI::App& verb, engine_options& o) {
  verb.add_option("--model", o.model, "checkpoint directory, or one .safetensors file beside its config.json")
      ->required()
      ->type_name("DIR");
  verb.add_option("--numerics", o.numerics,
                  "official: bf16 with FP8/FP4 activations; float32: plain mathematics")
      ->check(CLI::IsMember({"official", "float32"}))
      ->capture_default_str();
  verb.add_option("--exec", o.exec, "ref: the readable specification, one thread; cpu: threads and SIMD")
      ->check(CLI::IsMember({"ref", "cpu"}))
      ->capture_default_str();
  verb.add_flag("--fast", o.fast, "cpu with float sums: faster, not bit-equal to ref");
  add_threads(verb, o.threads);
}

void add_threads(CLI::App& verb, int& threads) {
  verb.add_option("--threads", threads, "threads of cpu; 0: all of the machine's")
      ->check(CLI::Range(0, 4096))
      ->each([](const std::string& asked) {
        // oneTBB starts no more threads than the machine has processors unless it is told to.
        static std::optional<tbb::global_control> more;
        using control = tbb::global_control;
        const auto n = static_cast<std::size_t>(std::stoi(asked));
        if (n > control::active_value(control::max_allowed_parallelism))
          more.emplace(control::max_allowed_parallelism, n);
      })
      ->capture_default_str();
}

void add_sampling(CLI::App& verb, dsv4::sampling& s) {
  verb.add_option("--temperature", s.temperature, "0: greedy, ties to the lower id")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--top-k", s.top_k, "keep so many of the likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--top-p", s.top_p, "keep the likeliest tokens up to this mass, above 0")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  verb.add_option("--min-p", s.min_p,
                  "keep tokens with at least this part of the likeliest one's probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  verb.add_option("--seed", s.seed, "of the random numbers; the same seed gives the same tokens")
      ->capture_default_str();
  verb.add_option("--repetition-penalty", s.repetition_penalty,
                  "divides the logits of tokens already there (multiplies negative ones); 1: none")
      ->capture_default_str();
  verb.add_option("--frequency-penalty", s.frequency_penalty,
                  "taken off a logit for each time the token is there")
      ->capture_default_str();
  verb.add_option("--presence-penalty", s.presence_penalty, "taken off once if the token is there")
      ->capture_default_str();
  verb.add_option("--penalty-window", s.penalty_window,
                  "penalties look at so many last tokens of prompt and answer; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [&s](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) s.bias.push_back(read_bias(text));
          },
          "added to the logits of these tokens; -inf forbids one")
      ->delimiter(',')
      ->type_name("ID=VALUE,...");
}

}  // namespace cli
