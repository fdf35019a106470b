// SPDX-License-Identifier: MIT
#pragma once
/// `dsv4 golden check`: everything a bundle says of itself, confirmed.  The manifest (open does that), every
/// file's hash, every tensor's hash and statistics, that no shard holds a tensor that the manifest does not
/// know, the ids' hash and range, and choices against their margins' shape.
#include "bundle.hpp"
#include "stats.hpp"

namespace dsv4::golden {

struct check_problem {
  enum class kind_t : std::uint8_t { missing, damaged, structure } kind;
  std::string what;
};

struct check_report {
  index_t tensors = 0, files = 0;
  std::size_t bytes = 0;  ///< of tensors
  std::vector<check_problem> problems;
  bool truncated = false;  ///< there were more problems than are listed

  bool ok() const { return problems.empty(); }
  /// 0 ok, 66 something is not there, 74 the bytes are not those that were written, 2 structure.
  int exit_code() const {
    constexpr int structure = 2, no_input = 66, io = 74;
    int code = 0;
    for (const check_problem& p : problems) {
      const int c = p.kind == check_problem::kind_t::missing   ? no_input
                    : p.kind == check_problem::kind_t::damaged ? io
                                                               : structure;
      // The exit code is that of the deepest cause: what is missing explains damage, and damage explains structure.
      if (code == 0 || c == no_input || (c == io && code == structure)) code = c;
    }
    return code;
  }
};

namespace detail {

class checker {
 public:
  check_report run(const std::filesystem::path& path, open_options options) {
    options.check_hashes = false;  // done here, with the statistics
    guarded([&] {
      const bundle b = bundle::open(path, options);
      for (const file_info& f : b.about().files) guarded([&] { file(b, f); });
      guarded([&] { inputs(b); });
      std::string broken;  // a shard that cannot be opened is reported once, not once for each of its tensors
      for (const tensor_entry& t : b.tensors()) {
        if (t.file == broken) continue;
        const std::size_t before = r_.problems.size();
        guarded([&] { b.open_shard(t.file); });
        if (r_.problems.size() > before) {
          broken = t.file;
        } else {
          guarded([&] { tensor(b, t); });
        }
      }
    });
    return std::move(r_);
  }

 private:
  void file(const bundle& b, const file_info& f) {
    ++r_.files;
    const auto path = b.path() / f.name;
    if (const std::size_t size = size_of_file(path); size != f.bytes)
      throw damaged(path.string() + ": found " + std::to_string(size) + " bytes, expected " +
                    std::to_string(f.bytes));
    if (sha256_of_file(path) != f.sha256)
      throw damaged(path.string() + ": the file's SHA-256 is not that of the manifest");
    if (f.name == "inputs.safetensors") return;
    // Every tensor of the file is one of the manifest.
    std::size_t known = 0;
    for (const tensor_entry& t : b.tensors()) known += t.file == f.name;
    const auto found = b.open_shard(f.name)->tensors().tensors().size();
    if (found != known)
      throw format_error(path.string() + ": holds " + std::to_string(found) + " tensors, expected " +
                         std::to_string(known) + " (manifest)");
  }
  void inputs(const bundle& b) {
    b.confirm_ids();
    for (index_t s = 0; s < b.sequences(); ++s) {
      for (const std::int32_t id : b.ids(s))
        if (id < 0 || id >= b.model().vocab_size)
          throw format_error(b.inputs().path().string() + ": input_ids." + std::to_string(s) + ": found " +
                             std::to_string(id) + ", expected 0 to " +
                             std::to_string(b.model().vocab_size - 1));
      b.positions(s);
    }
  }
  void tensor(const bundle& b, const tensor_entry& t) {
    sha256 h;
    stats_accumulator s;
    b.windows(t, [&](index_t, std::span<const std::byte> piece) {
      h.update(piece.data(), piece.size());
      s.add(t.carrier, piece);
    });
    ++r_.tensors;
    r_.bytes += t.bytes();
    const auto path = b.path() / t.file;
    expect_hash(path, t, h.digest());
    if (!confirms(s.result(), t.stats))
      throw format_error(who(path, t) + "field 'stats' is not what the values give");
  }

  template <class F>
  void guarded(F&& f) {
    using kind = check_problem::kind_t;
    try {
      f();
    } catch (const missing_input& e) {
      add(kind::missing, e.what());
    } catch (const damaged& e) {
      add(kind::damaged, e.what());
    } catch (const format_error& e) {
      add(kind::structure, e.what());
    } catch (const unsupported& e) {
      add(kind::structure, e.what());
    }
  }
  void add(check_problem::kind_t kind, const char* what) {
    constexpr std::size_t most = 100;
    if (r_.problems.size() < most)
      r_.problems.push_back({kind, what});
    else
      r_.truncated = true;
  }

  check_report r_;
};

}  // namespace detail

inline check_report check(const std::filesystem::path& path, const open_options& options = {}) {
  return detail::checker().run(path, options);
}

}  // namespace dsv4::golden
