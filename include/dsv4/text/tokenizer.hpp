// SPDX-License-Identifier: MIT
#pragma once
/// Text to token ids and back, as PyPI `tokenizers` does it from the same tokenizer.json.
/// encode: any bytes -> UTF-8 -> added tokens | words -> BPE.   decode: ids -> bytes -> UTF-8.
/// Two readings of a text: `as_text`, the default, never makes an added token, whatever the text spells,
/// and is for everything a user wrote; `allowed` recognises them, and is for what the program wrote.
///
///   const auto tokenizer = text::tokenizer::load("DeepSeek-V4-Flash");
///   auto ids = tokenizer.encode("<｜User｜>", text::special_tokens::allowed);
///   tokenizer.encode(question, text::special_tokens::as_text, ids);
///
/// Every function is const and may be called from several threads at once.
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/view.hpp"
#include "added_tokens.hpp"
#include "bpe.hpp"
#include "pre_tokenizer.hpp"
#include "tokenizer_json.hpp"

namespace dsv4::text {

enum class special_tokens {
  as_text,  ///< no added token is recognised: <｜User｜> is nine characters
  allowed,  ///< every added token is, special or not
};

/// A part of a prompt and how it is read.
struct text_part {
  std::string_view text;
  special_tokens special = special_tokens::as_text;
};

class tokenizer {
 public:
  /// `path`: a tokenizer.json, or the directory it is in.  tokenizer_config.json beside it, if there is one,
  /// names the begin, end and padding tokens.
  /// @throws format_error, unsupported: tokenizer_json.hpp
  static tokenizer load(const std::filesystem::path& path);
  /// From the text of a tokenizer.json; `file` is for the messages.
  static tokenizer parse(std::string_view json, const std::filesystem::path& file = "tokenizer.json") {
    return tokenizer(read_tokenizer_json(file, json));
  }

  /// Appends the tokens of `text` to `out`.  Bytes that are not UTF-8 count as U+FFFD.
  /// @throws unsupported a pattern of the file backtracks without end on this text
  void encode(std::string_view text, special_tokens special, std::vector<token_id>& out) const;
  std::vector<token_id> encode(std::string_view text, special_tokens special = special_tokens::as_text) const;
  /// Each part for itself: no token crosses from one into the next.
  std::vector<token_id> encode(std::span<const text_part> parts) const;
  /// `ids` between the tokens that the file's TemplateProcessing puts around a text; DeepSeek's has none.
  std::vector<token_id> with_template(std::vector<token_id> ids) const {
    ids.insert(ids.begin(), before_.begin(), before_.end());
    ids.insert(ids.end(), after_.begin(), after_.end());
    return ids;
  }

  /// The text of `ids`, always UTF-8: bytes that form no character become U+FFFD.  Ids without a token
  /// (rows that only pad the model's embedding) have no text.
  std::string decode(std::span<const token_id> ids, bool skip_special = false) const;

  /// The bytes that an id stands for, often a part of a character; empty if it has no token.
  std::string_view bytes_of(token_id id) const&& = delete;
  std::string_view bytes_of(token_id id) const& {
    return knows(id) ? std::string_view(bytes_[usize(id)]) : std::string_view();
  }
  /// The token as the file writes it: Ġthe for " the".
  std::optional<std::string_view> id_to_token(token_id id) const& { return tokens_.token(id); }
  std::optional<std::string_view> id_to_token(token_id id) const&& = delete;
  std::optional<token_id> token_to_id(std::string_view token) const { return tokens_.id(token); }
  bool is_special(token_id id) const { return knows(id) && special_[usize(id)]; }
  /// Ids are below this.
  index_t vocab_size() const { return static_cast<index_t>(tokens_.size()); }

  /// Of tokenizer_config.json; without one, DeepSeek's <｜begin▁of▁sentence｜> and <｜end▁of▁sentence｜>.
  std::optional<token_id> bos() const { return bos_; }
  std::optional<token_id> eos() const { return eos_; }
  std::optional<token_id> pad() const { return pad_; }

  /// What the files ask for and this tokenizer does not do, because it cannot matter here: one sentence each.
  const std::vector<std::string>& notes() const& { return notes_; }
  const std::vector<std::string>& notes() const&& = delete;

 private:
  struct workspace {
    regex_workspace matching;
    bpe::workspace merging;
    std::string shadow;
  };
  /// Workspaces that no call is using: as many as calls ever ran at the same time.
  struct workspaces {
    std::mutex mutex;
    std::vector<std::unique_ptr<workspace>> free;
  };
  class lease {
   public:
    explicit lease(workspaces& pool);
    ~lease();
    lease(const lease&) = delete;
    lease& operator=(const lease&) = delete;
    workspace* operator->() const { return mine_.get(); }

   private:
    workspaces& pool_;
    std::unique_ptr<workspace> mine_;
  };

  explicit tokenizer(tokenizer_parts parts);

  bool knows(token_id id) const { return id >= 0 && usize(id) < bytes_.size(); }

  /// Takes merges back that made an added token, in out[from..].
  void undo_added(std::size_t from, std::vector<token_id>& out) const;

  /// bos_token, eos_token and pad_token: a string, or an object whose "content" is one.
  void read_names(std::string_view text, const std::filesystem::path& file);

  token_list tokens_;
  added_tokens added_;
  pre_tokenizer pre_tokenizer_;
  bpe bpe_;
  std::vector<token_id> before_, after_;
  std::vector<std::string> bytes_;                                    ///< [id]
  std::vector<bool> special_;                                         ///< [id]
  std::unordered_map<token_id, std::pair<token_id, token_id>> undo_;  ///< added tokens that merges can make
  std::optional<token_id> bos_, eos_, pad_;
  std::vector<std::string> notes_;
  std::unique_ptr<workspaces> pool_;
};

/// Text of tokens as they come: a character that spans tokens appears when it is whole.
/// @post the texts of all `push` and of `finish` together are `decode` of all ids.
class stream_decoder {
 public:
  /// @pre the tokenizer outlives this
  explicit stream_decoder(const tokenizer&& t, bool skip_special = false) = delete;
  explicit stream_decoder(const tokenizer& t, bool skip_special = false)
      : tokenizer_(&t), skip_special_(skip_special) {}
  std::string push(token_id id);
  /// The end: what is left of an unfinished character, as U+FFFD.
  std::string finish() { return stream_.finish(); }

 private:
  const tokenizer* tokenizer_;
  bool skip_special_;
  utf8_stream stream_;
};

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "tokenizer_impl.hpp"
#endif
