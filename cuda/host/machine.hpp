// SPDX-License-Identifier: MIT
#pragma once
/// The machine: runs the grid of one launch, every CUDA thread a fiber of the calling thread.
///
/// A thread runs until it must meet others (barrier, warp collective) or spins on a flag; who goes on is the choice of
/// the schedule.  So between two meetings a thread is never interrupted: what depends on that is found by running under
/// several schedules, and by ThreadSanitizer, to which every fiber is a thread of its own and which is told of exactly
/// the orders that CUDA promises (__syncthreads, __syncwarp, acquire and release, the ends of a launch).
///
/// Reported as `fault`, with thread and source line: barriers and collectives that some threads do not reach, deadlock,
/// threads that leave early, asynchronous copies nobody waited for, writes past the end of shared memory, launches that
/// no device would take.  Shared memory begins as NaN bytes, so a value that is read before it is written shows.
///
/// One launch runs at a time on a thread of the host; different threads have machines of their own.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "fiber.hpp"
#include "schedule.hpp"

/// CUDA's own type, in CUDA's own namespace.
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace dsv4::host_machine {

/// A kernel did what CUDA leaves undefined, or a launch asked for what no device has.
struct fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A place in a kernel's source.  (std::source_location: clang 14 has none that works with libstdc++.)
struct where {
  const char* file = "";
  unsigned line = 0;
  static constexpr where current(const char* f = __builtin_FILE(), unsigned l = __builtin_LINE()) {
    return {f, l};
  }
  bool operator==(const where& o) const { return line == o.line && std::strcmp(file, o.file) == 0; }
};
inline std::string text(const where& w) {
  const std::string file = w.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(w.line);
}

/// What a device has; the defaults are those of an H100.
struct limits {
  unsigned threads_per_block = 1024;
  unsigned shared_bytes = 227 << 10;  // of one block
  unsigned blocks_together = 132;     // of a cooperative launch: one for each multiprocessor
  unsigned grid_y_and_z = (1 << 16) - 1;
};

struct block;

/// Bytes on their way from global to shared memory (cp.async).
struct async_copy {
  void* to;
  const void* from;
  std::size_t bytes;
  unsigned group;
};

/// One CUDA thread.
struct thread {
  enum class state { ready, waiting, spinning, done };

  fiber own;
  block* in = nullptr;
  dim3 id;
  unsigned flat = 0;     // number in the block
  std::size_t rank = 0;  // place in the schedule
  state is = state::done;

  // Where it waits, and for a warp collective: with whom and with what.
  const char* what = "";
  where at;
  unsigned mask = 0;
  void* operand = nullptr;

  unsigned warp_syncs = 0;        // __syncwarp passed
  std::deque<async_copy> copies;  // not yet waited for
  unsigned group = 0;             // number of the group that the next copy joins
  char sync_object[2];            // what ThreadSanitizer knows __syncwarp by, of the lowest lane

  thread() : own(&thread::run_kernel, this) {}
  static void run_kernel(void* self);
};

/// One block of a grid.
struct block {
  dim3 id;
  unsigned number = 0;  // in the grid
  std::vector<thread*> threads;
  std::byte* shared = nullptr;
  unsigned shared_bytes = 0;

  unsigned arrived = 0, left = 0;  // at the barrier, for good
  unsigned barriers = 0;           // passed
  where barrier;                   // of those who arrived
  char sync_object[2];  // two, by turns: a fast warp may release the next before a slow one acquires this
};

/// Counts since the beginning, for tests and for timing.
struct statistics {
  std::uint64_t launches = 0, blocks = 0, threads = 0, switches = 0, barriers = 0, collectives = 0,
                products = 0;
};

class machine {
 public:
  schedule how;
  limits device;
  statistics counts;

  thread* self = nullptr;  // who runs now
  dim3 grid, size;         // of the launch

  // ---- for those who wait, in cuda/host/collective.hpp
  /// Stops the launch: it throws `fault`.  Called by a thread, which is unwound.
  [[noreturn]] void fail(const std::string& what) {
    error_ = what;
    for (;;) self->own.leave();
  }
  /// Leaves until somebody calls make_ready.
  void wait(const char* what, const where& at) {
    self->is = thread::state::waiting;
    self->what = what;
    self->at = at;
    leave();
  }
  /// Leaves until nobody else can go on: the thread looks at a flag that another must set.
  void spin(const char* what, const where& at) {
    self->is = thread::state::spinning;
    self->what = what;
    self->at = at;
    leave();
  }
  void make_ready(thread& t) {
    t.is = thread::state::ready;
    ready_.insert(t.rank);
  }
  /// Something happened that a spinning thread may wait for.
  void progress() {
    const tsan::own_memory own;
    ++progress_;
  }
  std::string name(const thread& t) const {
    return "thread " + std::to_string(t.flat) + " of block " + std::to_string(t.in->number);
  }

  /// Runs kernel(a...) on grid x size threads.  @throws fault
  template <class... P, class... A>
  void launch(void (*kernel)(P...), dim3 grid_, dim3 size_, unsigned shared, bool cooperative, A&&... a) {
    const tsan::own_memory own;
    check_launch(grid_, size_, shared, cooperative);
    std::tuple<void (*)(P...), std::tuple<P...>> call(kernel, std::tuple<P...>(static_cast<P>(a)...));
    call_ = &call;
    body_ = [](void* c) {
      auto& [f, arguments] = *static_cast<decltype(call)*>(c);
      std::apply(f, arguments);
    };
    grid = grid_;
    size = size_;
    run_grid(shared, cooperative);
  }

 private:
  friend struct thread;

  static unsigned count(const dim3& n) { return n.x * n.y * n.z; }
  void check_launch(const dim3& g, const dim3& s, unsigned shared, bool cooperative) const {
    const auto shape = [](const dim3& n) {
      return std::to_string(n.x) + " x " + std::to_string(n.y) + " x " + std::to_string(n.z);
    };
    if (self) throw fault("launch: from within a kernel");
    if (count(s) == 0 || count(s) > device.threads_per_block)
      throw fault("launch: a block of " + shape(s) + " threads, at most " +
                  std::to_string(device.threads_per_block));
    if (count(g) == 0 || g.y > device.grid_y_and_z || g.z > device.grid_y_and_z)
      throw fault("launch: a grid of " + shape(g) + " blocks");
    if (shared > device.shared_bytes)
      throw fault("launch: " + std::to_string(shared) + " bytes of shared memory, a block has " +
                  std::to_string(device.shared_bytes));
    if (cooperative && count(g) > device.blocks_together)
      throw fault("launch: " + std::to_string(count(g)) + " blocks of a cooperative launch, together fit " +
                  std::to_string(device.blocks_together));
  }

  void leave() {
    ++counts.switches;
    self->own.leave();
  }

  // ---- shared memory: as long as asked for, behind it a fence
  static constexpr std::size_t fence_bytes = 128, shared_alignment = 128;
  static constexpr unsigned char unwritten = 0xFF,
                                 fence_byte = 0xA5;  // NaN in every format but FP4; anything else
  std::byte* fence(const block& b) const { return b.shared + b.shared_bytes; }
  std::size_t room(const block& b) const {
    return (b.shared_bytes + 2 * shared_alignment - 1) / shared_alignment * shared_alignment;
  }
  void begin(block& b, unsigned number, unsigned shared) {
    b.number = number;
    b.id = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
    b.shared_bytes = shared;
    b.shared = static_cast<std::byte*>(std::aligned_alloc(shared_alignment, room(b)));
    if (!b.shared) throw std::bad_alloc();
    std::memset(b.shared, unwritten, shared);
    std::memset(fence(b), fence_byte, room(b) - shared);
    asan::poison(fence(b), room(b) - shared);
    const unsigned n = count(size);
    for (unsigned i = 0; i < n; ++i) {
      thread* const t = take();
      t->in = &b;
      t->flat = i;
      t->id = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
      t->copies.clear();
      t->group = t->warp_syncs = 0;
      b.threads.push_back(t);
    }
    ++counts.blocks;
    counts.threads += n;
  }
  void end(block& b) {
    asan::unpoison(fence(b), room(b) - b.shared_bytes);
    for (std::byte* p = fence(b); p < b.shared + room(b) && error_.empty(); ++p)
      if (*p != std::byte{fence_byte})
        error_ = "block " + std::to_string(b.number) + " wrote " + std::to_string(p - fence(b)) +
                 " bytes past the end of its " + std::to_string(b.shared_bytes) + " bytes of shared memory";
    std::free(b.shared);
    // To ThreadSanitizer the next thread on a fiber comes after this one.  Shuffled, or thread i of every block would
    // come after thread i of the block before, and a race between blocks would not show.
    for (thread* t : b.threads) free_.push_back(t);
    std::shuffle(free_.begin(), free_.end(), random_);
  }
  thread* take() {
    if (free_.empty()) {
      pool_.push_back(std::make_unique<thread>());
      return pool_.back().get();
    }
    thread* const t = free_.back();
    free_.pop_back();
    return t;
  }

  void run_grid(unsigned shared, bool cooperative) {
    error_.clear();
    cooperative_ = cooperative;
    random_.seed(how.seed);
    tsan::release(&launch_begins_);
    ++counts.launches;
    std::vector<unsigned> numbers(count(grid));
    for (unsigned i = 0; i < numbers.size(); ++i) numbers[i] = i;
    if (how.threads == order::reverse) std::reverse(numbers.begin(), numbers.end());
    if (how.threads == order::priority || how.threads == order::random)
      std::shuffle(numbers.begin(), numbers.end(), random_);
    const std::size_t together = cooperative ? numbers.size() : 1;
    for (std::size_t i = 0; i < numbers.size(); i += together) {
      std::vector<block> resident(together);
      for (std::size_t j = 0; j < together; ++j) begin(resident[j], numbers[i + j], shared);
      run(resident);
      self = nullptr;
      for (block& b : resident) end(b);
      if (!error_.empty()) {
        // Those who stand in the middle of the kernel are unwound; the next launch makes new ones.
        free_.clear();
        pool_.clear();
        throw fault(error_);
      }
    }
    tsan::acquire(&launch_ends_);
  }

  /// Runs the threads of these blocks to their ends, or to an error.
  void run(std::vector<block>& resident) {
    threads_.clear();
    for (block& b : resident) threads_.insert(threads_.end(), b.threads.begin(), b.threads.end());
    constexpr unsigned warp = 32;
    const unsigned warps = (count(size) + warp - 1) / warp;
    const block* const first = resident.data();
    rank(threads_, how, random_,
         [&](const thread& t) { return static_cast<std::size_t>(t.in - first) * warps + t.flat / warp; });
    ready_.reset(threads_.size());
    for (std::size_t i = 0; i < threads_.size(); ++i) {
      threads_[i]->rank = i;
      make_ready(*threads_[i]);
    }
    std::size_t alive = threads_.size();
    std::uint64_t before = progress_;
    while (alive) {
      const std::size_t next =
          ready_.take(how.threads == order::random ? random_() % threads_.size() : std::size_t{0});
      if (next ==
          ready_set::none) {  // only spinning threads are left: has anything happened since they looked?
        const auto spins = [](const thread* t) { return t->is == thread::state::spinning; };
        if (progress_ == before || std::none_of(threads_.begin(), threads_.end(), spins)) {
          error_ = deadlock();
          return;
        }
        before = progress_;
        for (thread* t : threads_)
          if (spins(t)) make_ready(*t);
        continue;
      }
      self = threads_[next];
      ++counts.switches;
      self->own.enter();
      if (!error_.empty()) return;
      if (self->is == thread::state::done) {
        --alive;
        ++progress_;
      }
    }
  }
  std::string deadlock() const {
    std::string s =
        cooperative_ ? "deadlock" : "deadlock (blocks of a launch that is not cooperative do not meet)";
    std::vector<std::string> seen;
    for (const thread* t : threads_) {
      if (t->is == thread::state::done) continue;
      const std::string place = std::string(t->what) + " at " + text(t->at);
      if (std::find(seen.begin(), seen.end(), place) != seen.end()) continue;
      seen.push_back(place);
      s += "; " + name(*t) + (t->is == thread::state::spinning ? " spins in " : " waits in ") + place;
    }
    return s;
  }

  void (*body_)(void*) = nullptr;
  void* call_ = nullptr;
  bool cooperative_ = false;
  char launch_begins_ = 0, launch_ends_ = 0;  // what ThreadSanitizer knows the ends of a launch by
  std::string error_;
  std::mt19937 random_;
  std::uint64_t progress_ = 0;
  ready_set ready_;
  std::vector<thread*> threads_, free_;
  std::vector<std::unique_ptr<thread>> pool_;
};

/// The machine of this thread of the host.
inline machine& the_machine() {
  static thread_local machine m;
  return m;
}
/// The CUDA thread that runs.  A pointer by itself, not a member: threadIdx is read in every line of a kernel.
inline thread& self() { return *the_machine().self; }

inline void thread::run_kernel(void* argument) {
  thread& t = *static_cast<thread*>(argument);
  machine& m = the_machine();
  for (;;) {  // one kernel after another: fibers are kept
    tsan::acquire(&m.launch_begins_);
    m.body_(m.call_);
    tsan::release(&m.launch_ends_);
    const tsan::own_memory own;
    if (!t.copies.empty()) m.error_ = m.name(t) + " ends with asynchronous copies that it did not wait for";
    block& b = *t.in;
    ++b.left;
    if (b.arrived) m.error_ = m.name(t) + " has left, others wait at the barrier at " + text(b.barrier);
    t.is = state::done;
    t.own.leave();
  }
}

}  // namespace dsv4::host_machine
