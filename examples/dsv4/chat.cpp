// SPDX-License-Identifier: MIT
// dsv4 chat: questions from a terminal or a pipe, answers as they come.
#include "chat.hpp"

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include <dsv4/io/checkpoint.hpp>

#include "arguments.hpp"
#include "engine.hpp"
#include "input.hpp"
#include "interrupt.hpp"
#include "outputs.hpp"
#include "progress.hpp"
#include "session.hpp"
#include "transcript.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;

struct chat_options {
  engine_options engine;
  fs::path tokenizer, load;
  std::optional<std::string> system, think;  ///< given: also after --load
  dsv4::sampling sampling{.temperature = 1};
  index_t max_new = 4096, context = 0;
  dsv4::draft_settings draft;
  bool stats = false;
};

constexpr const char* help_text = R"(/think high|max|off   whether the next answers begin with reasoning
/system TEXT          the instruction before the conversation; without TEXT: none
/history              the conversation so far
/reset                forget the conversation, keep the instruction
/save FILE            write the conversation and the model's state
/load FILE            go on with a saved one
/stats                after each answer, tokens and speed: on or off
/quit                 or Ctrl-D
A line that ends in \ goes on in the next one.  Ctrl-C stops the answer.
)";

/// Thrown out of a prefill.
struct interrupted {};

class chat {
 public:
  explicit chat(const chat_options& o)
      : o_(o),
        checkpoint_(open_model(o.engine.model)),
        tokenizer_(open_tokenizer(o.tokenizer.empty() ? o.engine.model : o.tokenizer)),
        context_(o.context > 0 ? o.context : std::min(default_context, config().max_position_embeddings)),
        session_(open()),
        stop_(stop_ids()),
        think_end_(tokenizer_.token_to_id(text::end_think_token)) {
    if (tokenizer_.vocab_size() > config().vocab_size)
      throw dsv4::format_error(o.tokenizer.string() + ": the tokenizer has " +
                               std::to_string(tokenizer_.vocab_size()) + " tokens, the model only " +
                               std::to_string(config().vocab_size));
    said_.think = "high";
    if (!o.load.empty()) load(o.load);
    if (o.think) said_.think = *o.think;
    if (o.system) said_.system = *o.system;
  }

  void run() {
    if (terminal_in_) ctrl_c_.emplace();
    greet();
    std::string line;
    while (read(line)) try {
        if (line.empty()) continue;
        if (line[0] == '/') {
          if (!command(line)) return;
        } else {
          ask(line);
        }
        check_output_arrives();
      } catch (const dsv4::error& e) {  // a wrong file, a full context: the conversation goes on
        if (!terminal_in_) throw;
        std::fprintf(stderr, "%s\n", e.what());
      }
  }

 private:
  const dsv4::config& config() const { return checkpoint_.configuration(); }

  std::unique_ptr<session> open() {
    if (context_ > config().max_position_embeddings)
      throw usage_error("--context: " + std::to_string(context_) +
                        " tokens, but the model's context ends at " +
                        std::to_string(config().max_position_embeddings));
    return find_engine(o_.engine).open(
        {config(), checkpoint_.weights(), o_.sampling, context_, o_.draft, o_.engine.threads});
  }
  std::vector<std::int32_t> stop_ids() {
    std::vector<std::int32_t> ids = end_of_text_ids(o_.engine.model);
    if (ids.empty() && tokenizer_.eos()) ids.push_back(*tokenizer_.eos());
    return ids;
  }

  void greet() const {
    if (!terminal_in_) return;
    std::fprintf(signs_, "%s: %lld layers, context %lld tokens.  /help shows the commands, Ctrl-D leaves.\n",
                 o_.engine.model.string().c_str(), static_cast<long long>(config().num_hidden_layers),
                 static_cast<long long>(context_));
    if (const std::string note = note_of(o_.engine.model); !note.empty())
      std::fprintf(signs_, "Note: %s\n", note.c_str());
  }

  // ---- lines

  /// One question: a line and those it goes on in.  False at the end of the input.
  bool read(std::string& line) {
    line.clear();
    for (const char* sign = "> ";; sign = ". ") {
      std::string part;
      if (!read_line(sign, part)) return !line.empty();
      line += part;
      if (line.empty() || line.back() != '\\') return true;
      line.back() = '\n';
    }
  }
  bool read_line(const char* sign, std::string& line) {
    while (terminal_in_) {
      std::cin.clear();  // a Ctrl-D that ended the line before
      std::clearerr(stdin);
      std::fputs(sign, signs_);
      std::fflush(signs_);
      if (ctrl_c_->wait_for_input(STDIN_FILENO)) break;
      ctrl_c_->take();
      std::fputs("\n(Ctrl-D or /quit leaves)\n", signs_);
    }
    if (std::getline(std::cin, line)) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return true;
    }
    if (terminal_in_) std::fputs("\n", signs_);
    return false;
  }

  // ---- commands

  /// False: the end.  @throws usage_error, dsv4::error
  bool command(const std::string& line) {
    const std::size_t space = line.find(' ');
    const std::string verb = line.substr(0, space),
                      rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (verb == "/quit" || verb == "/exit") return false;
    if (verb == "/help") {
      std::fputs(help_text, stdout);
    } else if (verb == "/think") {
      if (rest != "high" && rest != "max" && rest != "off")
        return say("/think high, /think max or /think off");
      said_.think = rest;
    } else if (verb == "/system") {
      said_.system = rest;
    } else if (verb == "/history") {
      for (const text::chat_message& m : said_.messages())
        std::printf(
            "[%s] %s\n", m.role.c_str(),
            m.content.empty() && !m.reasoning_content.empty() ? "(only reasoning)" : m.content.c_str());
    } else if (verb == "/reset") {
      said_.clear();
      session_->reset();
    } else if (verb == "/stats") {
      o_.stats = !o_.stats;
    } else if (verb == "/save" || verb == "/load") {
      if (rest.empty()) return say(verb + " needs the name of a file");
      verb == "/save" ? save(rest) : load(rest);
      std::printf("%s: %zu messages, %lld tokens\n", rest.c_str(), said_.messages().size(),
                  static_cast<long long>(session_->length()));
    } else {
      return say("no command " + verb + "; /help shows them");
    }
    return true;
  }
  static bool say(const std::string& what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    return true;
  }

  // ---- a question and its answer

  void ask(const std::string& question) {
    said_.add_question(question);
    const std::vector<std::int32_t> ids = said_.prompt(tokenizer_);
    const auto n = static_cast<index_t>(ids.size());
    if (n >= context_) {
      said_.take_back();
      throw dsv4::error("the conversation would have " + std::to_string(n) +
                        " tokens, the context has room for " + std::to_string(context_ - 1) +
                        ": /reset forgets it, --context makes room");
    }

    progress bar;
    text::stream_decoder words(tokenizer_);
    std::string answer;
    std::vector<std::int32_t> made;
    bool thinking = said_.thinks();
    shade(thinking);
    const auto on_prefill = [&](index_t done, index_t total) {
      bar("reading", done, total);
      if (ctrl_c_ && ctrl_c_->pressed()) throw interrupted();
    };
    const auto on_token = [&](std::int32_t id) {
      bar.clear();
      const bool end = std::find(stop_.begin(), stop_.end(), id) != stop_.end();
      if (!end) made.push_back(id);
      std::string part = end ? words.finish() : words.push(id);
      answer += part;
      if (thinking && id == think_end_) {
        thinking = false;
        if (terminal_out_) part = "\n";
        shade(false);
      }
      std::fwrite(part.data(), 1, part.size(), stdout);
      return output_arrives() && !(ctrl_c_ && ctrl_c_->pressed());
    };
    std::optional<session_answer> r;
    try {
      r = session_->answer(
          ids, {.max_new = std::min(o_.max_new, context_ - n), .stop_ids = stop_, .on_prefill = on_prefill},
          on_token);
    } catch (const interrupted&) {
    } catch (...) {
      said_.take_back();
      shade(false);
      throw;
    }
    bar.clear();
    shade(false);
    const bool stopped = ctrl_c_ && ctrl_c_->take();
    if (!r) {  // before the first word: as if it had not been asked
      said_.take_back();
      std::fputs("(stopped while reading; the question is forgotten)\n", stdout);
      return;
    }
    if (r->generated.stop != dsv4::stop_reason::stop_id) {
      const std::string rest = words.finish();
      answer += rest;
      std::fwrite(rest.data(), 1, rest.size(), stdout);
    }
    said_.add_answer(tokenizer_, answer, made);
    std::fputs(stopped ? "\n(stopped)\n" : "\n", stdout);
    if (o_.stats) show(*r, n);
  }

  void shade(bool on) const {
    if (terminal_out_) std::fputs(on ? "\x1b[2m" : "\x1b[0m", stdout);
  }
  static void show(const session_answer& r, index_t prompt) {
    const auto rate = [](index_t n, double s) { return s > 0 ? static_cast<double>(n) / s : 0; };
    const index_t read = prompt - r.reused, decoded = std::max(r.generated.tokens - 1, index_t{0});
    std::fprintf(stderr, "read %lld of %lld tokens (%.1f/s), answered %lld (%.1f/s)",
                 static_cast<long long>(read), static_cast<long long>(prompt),
                 rate(read, r.generated.prefill_seconds), static_cast<long long>(r.generated.tokens),
                 rate(decoded, r.generated.decode_seconds));
    if (r.drafted > 0)
      std::fprintf(stderr, ", %lld of %lld drafts accepted", static_cast<long long>(r.accepted),
                   static_cast<long long>(r.drafted));
    std::fputs("\n", stderr);
  }

  // ---- files

  void save(const fs::path& path) { session_->save(path, said_.to_json()); }
  void load(const fs::path& path) {
    const std::string json = session_->load(path);
    try {
      said_ = transcript::from_json(path.string(), json, tokenizer_);
    } catch (...) {  // a state without its words is no conversation
      said_.clear();
      session_->reset();
      throw;
    }
  }

  chat_options o_;
  std::optional<interrupt_guard> ctrl_c_;  // on a terminal; in a pipe Ctrl-C ends the program
  bool terminal_in_ = isatty(STDIN_FILENO) != 0, terminal_out_ = isatty(STDOUT_FILENO) != 0;
  std::FILE* signs_ = terminal_out_ ? stdout : stderr;  // what is for the one who types
  dsv4::io::checkpoint checkpoint_;
  text::tokenizer tokenizer_;
  index_t context_;
  std::unique_ptr<session> session_;
  std::vector<std::int32_t> stop_;
  std::optional<std::int32_t> think_end_;
  transcript said_;
};

}  // namespace

void add_chat(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = cli::add_verb(app, "chat", "a conversation on the terminal");
  auto o = std::make_shared<chat_options>();
  add_engine(verb, o->engine);
  verb.add_option("--tokenizer", o->tokenizer, "tokenizer.json (default: the one beside the model)")
      ->type_name("FILE");
  verb.add_option("--system", o->system, "instruction before the conversation")->type_name("TEXT");
  verb.add_option("--think", o->think, "reasoning before answers (default: high, or as loaded)")
      ->check(CLI::IsMember({"high", "max", "off"}));
  verb.add_option("--context", o->context,
                  "tokens of the conversation at most (default: 8192, or the model's context)")
      ->check(CLI::PositiveNumber);
  verb.add_option("--max-new", o->max_new, "tokens of an answer at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--draft", o->draft.depth,
                  "drafts per call by the MTP block or the DSpark drafter; 0: none")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  verb.add_option("--load", o->load, "go on with a conversation that /save wrote")->type_name("FILE");
  verb.add_flag("--stats", o->stats, "tokens and speed after each answer");
  add_sampling(verb, o->sampling);
  verb.footer(R"(
Examples
  dsv4 chat --model DeepSeek-V4-Flash
  dsv4 chat --model DeepSeek-V4-Flash --think off --temperature 0 --draft 1
  echo 'What is a mixture of experts?' | dsv4 chat --model DeepSeek-V4-Flash --think off

On a terminal:
)" + std::string(help_text) +
              R"(
In a pipe every line is a question or a command, the answers go to standard output, reasoning and </think>
included, and an error of a file or of the context ends the program.  What a user types is never read as a
special token.  The same seed gives the same answers; a loaded conversation goes on to the same bits with the
same sampling options.)");
  verb.callback([o, &run] { run = [o] { chat(*o).run(); }; });
}

}  // namespace cli
