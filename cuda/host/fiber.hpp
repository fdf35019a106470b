// SPDX-License-Identifier: MIT
#pragma once
/// A fiber is a stack and a place to go on from: what a CUDA thread is on the host.
///
/// The switch itself is Boost.Context's (20 ns; x86-64, Arm, POWER, RISC-V).  This header adds what sanitizers
/// must be told: AddressSanitizer which stack is in use, ThreadSanitizer which of its "threads" runs.  A switch
/// orders nothing in memory; only what CUDA promises does (cuda/host/machine.hpp), so a missing barrier is a race
/// that ThreadSanitizer reports although everything runs on one thread of the operating system.
///
/// enter() goes from the scheduler into the fiber, leave() back.  An entry function never returns: it leaves.
/// A fiber that is destroyed in the middle is unwound, so a kernel that was stopped by a fault leaks nothing.
#include <cstddef>
#include <utility>

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>

#if defined(__has_feature)  // clang's way to ask
#if __has_feature(address_sanitizer)
#define DSV4_HOST_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define DSV4_HOST_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define DSV4_HOST_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define DSV4_HOST_TSAN 1
#endif

#if defined(DSV4_HOST_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(DSV4_HOST_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace dsv4::host_machine {

/// What ThreadSanitizer is told.  Without it: nothing.
namespace tsan {
#if defined(DSV4_HOST_TSAN)
inline constexpr bool on = true;
inline void release(void* object) { __tsan_release(object); }
inline void acquire(void* object) { __tsan_acquire(object); }
inline void* current() { return __tsan_get_current_fiber(); }
inline void* create() { return __tsan_create_fiber(0); }
inline void destroy(void* f) { __tsan_destroy_fiber(f); }
inline void go_to(void* f) { __tsan_switch_to_fiber(f, __tsan_switch_to_fiber_no_sync); }
/// The machine's own memory is not the kernel's: between these nothing is looked at.
class own_memory {
 public:
  own_memory() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~own_memory() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  own_memory(const own_memory&) = delete;
  own_memory& operator=(const own_memory&) = delete;
};
#else
inline constexpr bool on = false;
inline void release(void*) {}
inline void acquire(void*) {}
inline void* current() { return nullptr; }
inline void* create() { return nullptr; }
inline void destroy(void*) {}
inline void go_to(void*) {}
struct own_memory {
  own_memory() {}
  ~own_memory() {}
};
#endif
}  // namespace tsan

/// What AddressSanitizer is told.  Without it: nothing.
namespace asan {
/// Where a stack lies.
struct stack {
  const void* bottom = nullptr;
  std::size_t size = 0;
};
#if defined(DSV4_HOST_ASAN)
inline constexpr bool on = true;
inline void poison(const volatile void* p, std::size_t n) { __asan_poison_memory_region(p, n); }
inline void unpoison(const volatile void* p, std::size_t n) { __asan_unpoison_memory_region(p, n); }
/// About to go to stack `to`; `saved` keeps what belongs to this one, null when it will not be used again.
inline void go_to(void** saved, const stack& to) {
  __sanitizer_start_switch_fiber(saved, to.bottom, to.size);
}
/// Arrived; the stack that was left.
inline stack arrived(void* saved) {
  stack from;
  __sanitizer_finish_switch_fiber(saved, &from.bottom, &from.size);
  return from;
}
#else
inline constexpr bool on = false;
inline void poison(const volatile void*, std::size_t) {}
inline void unpoison(const volatile void*, std::size_t) {}
inline void go_to(void**, const stack&) {}
inline stack arrived(void*) { return {}; }
#endif
}  // namespace asan

class fiber {
 public:
#if defined(DSV4_HOST_ASAN) || defined(DSV4_HOST_TSAN)
  static constexpr std::size_t stack_bytes = 256 << 10;  // red zones and shadow frames take room
#else
  static constexpr std::size_t stack_bytes = 64 << 10;
#endif

  /// entry(argument) begins with the caller's first enter().  @throws std::bad_alloc
  fiber(void (*entry)(void*), void* argument) : tsan_(tsan::create()) {
    const auto whole = boost::context::protected_fixedsize_stack(stack_bytes).allocate();
    // Tops of stacks of different colours: at equal offsets in their pages they compete for the same cache lines.
    const std::size_t colour = next_colour();
    void* const top = static_cast<char*>(whole.sp) - colour;
    stack_ = {static_cast<char*>(whole.sp) - whole.size, whole.size};
    // Boost enters the new stack once while it makes it, so ThreadSanitizer must be there too.
    void* const maker = tsan::current();
    tsan::go_to(tsan_);
    inside_ = boost::context::fiber(std::allocator_arg,
                                    boost::context::preallocated(top, whole.size - colour, whole),
                                    boost::context::protected_fixedsize_stack(stack_bytes),
                                    [this, entry, argument](boost::context::fiber&& from) {
                                      outside_ = std::move(from);
                                      const at_end last{this};
                                      outside_stack_ = asan::arrived(nullptr);
                                      leave();
                                      entry(argument);
                                      return std::move(outside_);
                                    });
    tsan::go_to(maker);
    enter();  // to the first leave(): from now on what stands on the stack can be unwound
  }
  fiber(const fiber&) = delete;
  fiber& operator=(const fiber&) = delete;
  ~fiber() {
    if (inside_) {  // unwinds what stands on the stack
      void* const maker = tsan::current();
      void* saved = nullptr;
      asan::go_to(&saved, stack_);
      tsan::go_to(tsan_);
      inside_ = boost::context::fiber();
      tsan::go_to(maker);
      asan::arrived(saved);
    }
    tsan::destroy(tsan_);
  }

  /// From outside: go on in the fiber until it leaves.
  void enter() {
    outside_tsan_ = tsan::current();
    void* saved = nullptr;
    asan::go_to(&saved, stack_);
    tsan::go_to(tsan_);
    inside_ = std::move(inside_).resume();
    asan::arrived(saved);
  }
  /// From inside: back to enter()'s caller.
  void leave() {
    const at_return back{this};
    asan::go_to(const_cast<void**>(&back.saved), outside_stack_);
    tsan::go_to(outside_tsan_);
    outside_ = std::move(outside_).resume();
  }

 private:
  /// Says that this stack is in use again, also when the fiber is entered to be unwound.
  struct at_return {
    fiber* f;
    void* saved = nullptr;
    ~at_return() { f->outside_stack_ = asan::arrived(saved); }
  };
  /// Says, at the very end, that this stack is left for good.
  struct at_end {
    fiber* f;
    ~at_end() { asan::go_to(nullptr, f->outside_stack_); }
  };
  static std::size_t next_colour() {
    constexpr std::size_t line = 64, page = 4096;
    static thread_local std::size_t colour = 0;
    return colour = (colour + 5 * line) % page;
  }

  boost::context::fiber inside_, outside_;
  void* tsan_ = nullptr;
  void* outside_tsan_ = nullptr;
  asan::stack stack_, outside_stack_;
};

}  // namespace dsv4::host_machine
