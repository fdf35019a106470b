// SPDX-License-Identifier: MIT
// The batchers of dsv4 serve, one for each policy and executor.
#include <algorithm>
#include <set>

#include <dsv4/cpu/cpu.hpp>
#include <dsv4/gen/batcher.hpp>
#include <dsv4/gen/prefix_file.hpp>

#include "serve_worker.hpp"

namespace cli::serving {
namespace {

namespace fs = std::filesystem;

template <dsv4::numerics_policy P, dsv4::execution E>
class model_engine final : public batch_engine {
 public:
  explicit model_engine(const batch_job& job)
      : model_(job.config, job.weights, executor(job.threads)), batcher_(model_, job.limits) {}

  std::uint64_t submit(dsv4::batch_request r, std::shared_ptr<dsv4::batch_listener> l) override {
    return batcher_.submit(std::move(r), std::move(l));
  }
  void cancel(std::uint64_t ticket) override { batcher_.cancel(ticket); }
  bool step() override { return batcher_.step(); }
  bool idle() const override { return batcher_.idle(); }
  index_t running() const override { return batcher_.running(); }
  index_t queued() const override { return batcher_.queued(); }
  dsv4::batch_counts counts() const override { return batcher_.counts(); }
  index_t prefixes() const override { return static_cast<index_t>(batcher_.prefixes().all().size()); }
  index_t prefix_bytes() const override { return batcher_.prefixes().bytes(); }

  std::size_t load_prefixes(const fs::path& folder) override {
    const dsv4::state_identity identity = dsv4::identity_of(model_);
    std::size_t n = 0;
    std::vector<fs::path> files;
    for (const auto& f : fs::directory_iterator(folder))
      if (f.path().extension() == extension) files.push_back(f.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& f : files) try {
        batcher_.prefixes().put(dsv4::load_prefix<P>(f, identity, model_.configuration(),
                                                     model_.configuration().max_position_embeddings));
        ++n;
      } catch (const dsv4::format_error& e) {  // of another model, or damaged: as if it were not there
        std::fprintf(stderr, "dsv4: not reused: %s\n", e.what());
      }
    return n;
  }
  std::size_t save_prefixes(const fs::path& folder) override {
    const dsv4::state_identity identity = dsv4::identity_of(model_);
    std::set<std::string> kept;
    for (const auto& p : batcher_.prefixes().all()) {
      const std::span<const std::int32_t> ids = p->ids();
      const std::string name =
          dsv4::io::hex(dsv4::io::sha256_of(ids.data(), ids.size_bytes())).substr(0, 32) + extension;
      kept.insert(name);
      if (!fs::exists(folder / name)) dsv4::save_prefix(folder / name, identity, *p);
    }
    // What the shelf has let go of goes here too.
    std::vector<fs::path> old;
    for (const auto& f : fs::directory_iterator(folder))
      if (f.path().extension() == extension && !kept.count(f.path().filename().string()))
        old.push_back(f.path());
    for (const fs::path& f : old) fs::remove(f);
    return kept.size();
  }

 private:
  static constexpr const char* extension = ".dsv4-prefix";
  static E executor(int threads) {
    E e{};
    if constexpr (requires { e.threads; }) e.threads = threads;
    return e;
  }
  dsv4::transformer<P, E> model_;
  dsv4::batcher<P, E> batcher_;
};

}  // namespace

// Each combination is another half minute for the compiler: those that somebody would serve are here.
std::unique_ptr<batch_engine> open_batch_engine(const engine_options& o, const batch_job& job) {
  const bool official = o.numerics == "official";
  if (o.exec == "ref")
    throw usage_error(
        "--exec ref: dsv4 serve has exec cpu alone, whose answers are the same; dsv4 generate has both");
  if (!official && o.fast) throw usage_error("--fast: dsv4 serve has it for --numerics official alone");
  if (!official) return std::make_unique<model_engine<dsv4::float32<>, dsv4::exec::cpu>>(job);
  if (o.fast) return std::make_unique<model_engine<dsv4::official, dsv4::exec::cpu_fast>>(job);
  return std::make_unique<model_engine<dsv4::official, dsv4::exec::cpu>>(job);
}

}  // namespace cli::serving
