// SPDX-License-Identifier: MIT
// dsv4: the command line of the library.  This file only reads arguments; commands.hpp has the verbs.
//
// Exit codes: 0 done, 2 usage, 3 a bad input file, 4 valid input that is not implemented, 1 the rest.
// dsv4 golden and dsv4 verify have their own, golden.hpp.  Every verb ends in end_program (outputs.hpp): what could not
// be written to standard output makes a 0 a 1.
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <new>
#include <sstream>
#include <string>

#include <CLI/CLI.hpp>

#include <dsv4/core/error.hpp>

#include "arguments.hpp"
#include "chat.hpp"
#include "commands.hpp"
#include "encode.hpp"
#include "evaluate.hpp"
#include "gguf.hpp"
#include "golden.hpp"
#include "golden_convert.hpp"
#include "golden_weights.hpp"
#include "input.hpp"
#include "look.hpp"
#include "outputs.hpp"
#include "serve.hpp"
#include "train.hpp"
#include "verify.hpp"

namespace {

constexpr int exit_other = 1, exit_usage = 2, exit_bad_file = 3, exit_unsupported = 4;

/// The verb that the arguments name, with its options filled in.
using program = std::function<void()>;

void add_ids(CLI::App& verb, std::string& ids) {
  verb.add_option("--ids", ids, "token ids: 1,5,9 or [1,5,9] or a file that holds such a list")
      ->required()
      ->type_name("FILE|LIST");
}

void add_inspect(CLI::App& app, program& run) {
  CLI::App& verb = cli::add_verb(app, "inspect", "what a checkpoint is: configuration, parameters, bytes");
  auto o = std::make_shared<cli::inspect_options>();
  verb.add_option("DIR", o->path, "checkpoint directory, .safetensors file, or a config.json alone")
      ->required();
  verb.add_option("--context", o->context,
                  "tokens for the size of the KV cache (default: the model's context)")
      ->check(CLI::NonNegativeNumber);
  verb.add_flag("--scan", o->scan, "also read every weight and refuse NaN and infinity");
  verb.add_flag("--json", o->json, "one JSON object instead of text");
  verb.footer(R"(
Examples
  dsv4 inspect DeepSeek-V4-Flash
  dsv4 inspect DeepSeek-V4-Flash/config.json --context 131072     without weights
  dsv4 inspect DeepSeek-V4-Flash --json | jq .parameters.active

KV bytes are those of the published cache formats (FP8, and FP4 for the indexer's keys), MTP not
included.  Opening reads headers only: seconds, whatever the size; --scan reads everything.)");
  verb.callback([o, &run] { run = [o] { cli::inspect(*o); }; });
}

void add_cost(CLI::App& app, program& run) {
  CLI::App& verb = cli::add_verb(app, "cost", "operations and bytes of a decoded token over context lengths");
  auto o = std::make_shared<cli::cost_options>();
  verb.add_option("DIR", o->path, "checkpoint directory, or a config.json alone")->required();
  verb.add_option("--context", o->contexts, "tokens of context (default: powers of four up to the model's)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  verb.add_flag("--json", o->json, "one JSON object instead of text");
  verb.footer(R"(
Examples
  dsv4 cost DeepSeek-V4-Flash/config.json
  dsv4 cost DeepSeek-V4-Pro/config.json --context 131072,1048576 --json | jq .contexts

Operations are in units of one FP8 operation (BF16 counts twice, FP4 x FP4 half), MTP not included; the last columns
divide those of DeepSeek-V3.2 by ours.  docs/claims.md compares them with the published figures.)");
  verb.callback([o, &run] { run = [o] { cli::cost(*o); }; });
}

void add_forward(CLI::App& app, program& run) {
  CLI::App& verb = cli::add_verb(app, "forward", "logits, and any intermediate value, of given tokens");
  auto o = std::make_shared<cli::forward_options>();
  auto chunks = std::make_shared<std::string>();
  cli::add_engine(verb, o->engine);
  add_ids(verb, o->ids);
  verb.add_option("--chunks", *chunks, "lengths of the calls, the last one repeats (default: one call)")
      ->type_name("5,1,9");
  verb.add_option("--taps", o->taps, "record the sites whose name matches (ECMAScript, searched anywhere)")
      ->type_name("REGEX");
  verb.add_flag("--mtp", o->mtp, "also run multi-token prediction on (position i, token i+1)");
  verb.add_option("--out", o->out, "the safetensors file to write")->required()->type_name("FILE");
  verb.add_flag("--json", o->json, "tell what was done as one JSON object");
  verb.footer(R"(
Examples
  dsv4 forward --model DeepSeek-V4-Flash --ids 0,671,6102,294 --out logits.safetensors
  dsv4 forward --model mini --ids prompt.json --exec ref --taps '^layers\.3\.' --out layer3.safetensors
  dsv4 forward --model mini --ids prompt.json --taps '\.ffn\.gate\.(indices|weights)$' --out routing.safetensors
  dsv4 forward --model mini --ids prompt.json --taps . --mtp --chunks 5,1,9 --out everything.safetensors

The file holds `logits` [n, vocabulary], with --mtp `mtp.0.logits` [n - 1, vocabulary], and the taps:
layers.L.SITE, head.SITE, mtp.0.SITE, mtp.0.head.SITE, each [positions, ...] over all calls
(compressor sites: [entries, ...]; none if no entry closed).  Sites:
  hc_attn.{mixes,pre,post,comb,y} attn_norm attn.{qr,q_norm,q_rope,kv_norm,kv,topk_idxs,o,o_derot,o_lora,out}
  attn.compressor.{pooled,norm,entry} attn.indexer.{q_had,q,weights,scores} attn.indexer.compressor.{...}
  mid hc_ffn.{mixes,pre,post,comb,y} ffn_norm ffn.gate.{scores,biased,indices,weights}
  ffn.{routed,shared,out} out                                  and head.{hc_head.pre,hc_head.y,norm,logits}
Types: activations BF16 (official) or F32 (float32), indices I32, the rest F64 from ref and F32 from cpu.

Chunks change no bit.  Two sites are rewritten so that the file does not show them either:
  attn.topk_idxs       below n a position, n + e compressed entry e, -1 empty; width W + k as in one call
                       over all n tokens (mtp.0: n is the number of pairs)
  attn.indexer.scores  entries that did not exist yet when a chunk ran are -inf; in one call the scores
                       of entries that a token cannot see yet are there)");
  verb.callback([o, chunks, &run, &verb] {
    run = [o, chunks, given = verb.count("--chunks") > 0] {
      if (given) o->chunks = cli::parse_chunks(*chunks);
      cli::forward(*o);
    };
  });
}

void add_generate(CLI::App& app, program& run) {
  CLI::App& verb = cli::add_verb(app, "generate", "continue a prompt: text, or token ids");
  auto o = std::make_shared<cli::generate_options>();
  cli::add_engine(verb, o->engine);
  CLI::Option_group& what = *verb.add_option_group("prompt");
  CLI::Option* prompt = what.add_option("--prompt", o->prompt, "the text to continue; -: from standard input")
                            ->type_name("TEXT");
  what.add_option("--ids", o->ids, "token ids: 1,5,9 or [1,5,9] or a file that holds such a list")
      ->type_name("FILE|LIST");
  what.require_option(1);
  verb.add_option("--tokenizer", o->tokenizer, "tokenizer.json (default: the one beside the model)")
      ->type_name("FILE")
      ->needs(prompt);
  verb.add_flag("--special", o->special,
                "special tokens in the prompt are meant (text of users: dsv4 encode --ids instead)")
      ->needs(prompt);
  verb.add_flag("--json", o->json, "with --prompt: one JSON line at the end instead of text as it comes")
      ->needs(prompt);
  verb.add_option("--max-new", o->max_new,
                  "tokens to make at most (default: 256, or what the context has room for)")
      ->check(CLI::NonNegativeNumber);
  cli::add_sampling(verb, o->sampling);
  verb.add_option("--logprobs", o->logprobs,
                  "also tell each token's log-probability, and the likeliest N at its place")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  verb.add_option(
          "--draft", o->draft.depth,
          "drafts per call of the MTP block or, where a checkpoint has one instead, of the DSpark drafter: "
          "the same text when greedy, the same distribution else")
      ->check(CLI::Range(0, 16))
      ->type_name("K");
  verb.add_option(
          "--draft-trust", o->draft.least_trust,
          "DSpark: only drafts that its confidence head gives this probability, and those before them")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  verb.add_flag("--ignore-eos", o->ignore_eos, "go on after the end-of-text token");
  verb.add_option("--stop", o->stop, "end the answer before this text; may be given several times")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all()
      ->needs(prompt);
  verb.footer(R"(
Examples
  dsv4 generate --model DeepSeek-V4-Flash --prompt 'In the beginning' --max-new 100
  dsv4 generate --model DeepSeek-V4-Flash --ids 0,671,6102,294 --max-new 32
  dsv4 generate --model mini --ids prompt.json --max-new 100 --temperature 1 --top-p 0.95 --seed 7
  dsv4 generate --model mini --ids 1,2,3 --max-new 8 2>/dev/null | jq -c .tokens
  dsv4 generate --model DeepSeek-V4-Flash --ids prompt.json --max-new 200 --draft 2
  dsv4 generate --model mini --ids 1,2,3 --max-new 8 --logit-bias 7=-inf,9=1.5 --repetition-penalty 1.1
  dsv4 generate --model mini --ids 1,2,3 --max-new 1 --logprobs 5 | jq .logprobs

Logits are changed in this order: penalties, bias, temperature, top-k, top-p, min-p (gen/sampling.hpp says why).
--prompt: the begin-of-text token, then the text, in which nothing is a special token unless --special says so;
the answer streams to standard output.  It is continued as it stands: dsv4 chat asks questions.  --special reads every
<｜User｜> in it as a control token, also those that a user wrote: dsv4 encode --ids makes ids that are safe from that.
--ids: prints one line, {"tokens":[...],"prompt_tokens":4,"stop":"length"}; so does --prompt with --json or --logprobs,
with "text" too.
On stderr the speed of prefill and decode.  --logprobs adds "logprobs":[{"id":..,"logprob":..,"top":[{"id":..,"logprob":..}]}], natural
logarithms of the model's own distribution, null for minus infinity.  --draft adds "drafts":{"calls":..,
"tokens_per_call":..,"proposed":[..],"accepted":[..]}, counts by depth, and a line on stderr.
It stops (stop: "eos") after eos_token_id of generation_config.json, else of config.json; that token is the
last of the list.  --stop TEXT (stop: "text"): the first place where the answer spells one of the texts ends it; the
text printed ends before that place, the ids with the token that completed it.)");
  verb.callback([o, &run] { run = [o] { cli::generate(*o); }; });
}

void add_tokenize(CLI::App& app, program& run) {
  CLI::App& verb = cli::add_verb(app, "tokenize", "text to token ids, and back");
  auto o = std::make_shared<cli::tokenize_options>();
  auto text = std::make_shared<std::string>();
  CLI::Option_group& which = *verb.add_option_group("tokenizer");
  which.add_option("--tokenizer", o->tokenizer, "a tokenizer.json")->type_name("FILE");
  which.add_option("--model", o->model, "a checkpoint directory that has one")->type_name("DIR");
  which.require_option(1);
  CLI::Option* given = verb.add_option("TEXT", *text, "the text (default: --file, else standard input)");
  CLI::Option* file =
      verb.add_option("--file", o->file, "a file that holds the text")->type_name("FILE")->excludes(given);
  CLI::Option* ids =
      verb.add_option("--ids", o->ids, "print the text of these ids: 1,5,9 or a file with such a list")
          ->type_name("FILE|LIST")
          ->excludes(given)
          ->excludes(file);
  verb.add_option("--special", o->special,
                  "what <|User|> and the like in the text are: as-text, characters; allowed, control tokens")
      ->check(CLI::IsMember({"as-text", "allowed"}))
      ->capture_default_str();
  verb.add_flag("--skip-special", o->skip_special, "leave special tokens out of decoded text");
  verb.add_flag("--lines", o->lines, "JSON in, JSON out, one request a line (below)")
      ->excludes(given)
      ->excludes(file)
      ->excludes(ids);
  verb.footer(R"(
Examples
  dsv4 tokenize --model DeepSeek-V4-Flash 'In the beginning'
  dsv4 tokenize --tokenizer tokenizer.json --file prompt.txt | jq -c .ids > ids.json
  dsv4 tokenize --tokenizer tokenizer.json --ids ids.json
  printf %s 'no newline at the end' | dsv4 tokenize --tokenizer tokenizer.json

Prints {"ids":[...],"pieces":[...]}; a piece is the text of one token, with U+FFFD for a part of a character.
Bytes that are not UTF-8 count as U+FFFD.  --special allowed is for text that you wrote: in a user's text it makes
control tokens of what the user spells.  dsv4 encode --ids turns conversations into ids safely.

--lines reads a JSON string, {"text": "..."}, {"hex": "68690a"} (any bytes) or {"ids": [...]} from each line, and
answers {"ids": [...]}, {"text": "..."} or {"error": "..."} in the same order.  "special" and "skip_special" of a
request stand before the options:
  echo '{"text": "<｜User｜>", "special": "allowed"}' | dsv4 tokenize --tokenizer tokenizer.json --lines)");
  verb.callback([o, text, given, &run] {
    run = [o, text, has_text = given->count() > 0] {
      if (has_text) o->text = *text;
      cli::tokenize(*o);
    };
  });
}

int fail(int code, const char* what) {
  std::fprintf(stderr, "dsv4: %s\n", what);
  return code;
}

/// What the arguments ask for; the exit code.
int run_program(int argc, char** argv, bool golden) {
  CLI::App app("DeepSeek-V4, readable and exact.", "dsv4");
  app.set_version_flag("--version", std::string("dsv4 ") + DSV4_VERSION);
  app.require_subcommand(1);
  app.footer(R"(
dsv4 VERB --help shows examples.
Exit codes: 0 done, 2 usage, 3 bad input file, 4 not implemented (named), 1 anything else.
dsv4 golden and dsv4 verify have more of them: dsv4 verify --help.)");
  program run;
  add_inspect(app, run);
  add_cost(app, run);
  add_forward(app, run);
  add_generate(app, run);
  cli::add_chat(app, run);
  cli::add_serve(app, run);
  add_tokenize(app, run);
  cli::add_encode(app, run);
  cli::add_parse(app, run);
  cli::add_train(app, run);
  cli::add_grad(app, run);
  cli::add_evaluate(app, run);
  cli::add_look(app, run);
  cli::add_trace(app, run);
  cli::add_gguf(app, run);
  cli::add_golden(app, run);
  cli::add_golden_convert(*app.get_subcommand("golden"), run);
  cli::add_golden_weights(*app.get_subcommand("golden"), run);
  cli::add_golden_micro(*app.get_subcommand("golden"), run);
  cli::add_verify(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream help;
    const int code = app.exit(e, help, std::cerr);
    cli::print_text(help.str());
    return code == 0 ? 0 : golden ? cli::exit_golden_usage : exit_usage;
  }
  run();
  return 0;
}

/// The same, its errors as messages and exit codes.
int run_and_tell(int argc, char** argv, bool golden) {
  try {
    return run_program(argc, argv, golden);
  } catch (const cli::exit_with& e) {
    return *e.what() ? fail(e.code, e.what()) : e.code;
  } catch (const cli::usage_error& e) {
    return fail(exit_usage, e.what());
  } catch (const dsv4::contract_violation& e) {
    return fail(exit_usage, e.what());  // of the library's preconditions, arguments can break these only
  } catch (const dsv4::format_error& e) {
    return fail(exit_bad_file, e.what());
  } catch (const dsv4::unsupported& e) {
    return fail(exit_unsupported, e.what());
  } catch (const std::bad_alloc&) {
    return fail(golden ? cli::exit_software : exit_other, "out of memory");
  } catch (const std::exception& e) {
    return fail(exit_other, e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool golden =
      argc > 1 && (std::string_view(argv[1]) == "golden" || std::string_view(argv[1]) == "verify");
  const int bad_file = golden ? cli::exit_io : exit_bad_file;
  cli::begin_program(bad_file);
  return cli::end_program(run_and_tell(argc, argv, golden), golden ? cli::exit_io : exit_other, bad_file);
}
