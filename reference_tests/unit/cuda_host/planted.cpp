// SPDX-License-Identifier: MIT
// Every planted fault is found, and said: what the host machine is for.
#include "catch.hpp"
#include "cuda_host/planted_kernels.hpp"

using namespace dsv4_test;

TEST_CASE("Correct kernels pass under every schedule", "[cuda_host]") {
  const finding f = find<fault::none>(dsv4::host_machine::adversaries(6));
  INFO(f.what << ", " << f.schedule);
  CHECK(f.what.empty());
}

TEST_CASE("Planted faults are found without sanitizers", "[cuda_host]") {
  for (std::size_t i = 0; i < std::size(faults); ++i) {
    const named_fault& planted = faults[i];
    if (planted.f == fault::none) continue;
    if (planted.f == fault::relaxed_flag) continue;  // ThreadSanitizer's: ctest cuda_host.thread.relaxed_flag
    const bool out_of_bounds = planted.f == fault::read_past_the_end || planted.f == fault::write_past_shared;
    if (out_of_bounds && dsv4::host_machine::asan::on) continue;  // would end this program
    const finding f = find_numbered(i);
    INFO(planted.name << ": " << f.what << " (" << f.schedule << ")");
    CHECK(!f.what.empty());
    const std::string expected = *planted.report ? planted.report : "wrong values";
    CHECK(f.what.find(expected) != std::string::npos);
  }
}

TEST_CASE("Reports name the thread and the line", "[cuda_host]") {
  // Barriers, collectives, spins: all of them name planted_kernels.hpp and a line.
  for (const fault f :
       {fault::divergent_barrier, fault::left_before_barrier, fault::lane_outside_mask,
        fault::divergent_collective, fault::misaligned_copy, fault::spin_without_cooperation}) {
    const std::string what = find_numbered(static_cast<std::size_t>(f)).what;
    INFO(what);
    CHECK(what.find("planted_kernels.hpp:") != std::string::npos);
    const bool who = what.find("thread ") != std::string::npos || what.find("lane ") != std::string::npos ||
                     f == fault::misaligned_copy;
    CHECK(who);
  }
}

TEST_CASE("A machine goes on after a fault", "[cuda_host]") {
  CHECK(!find<fault::divergent_barrier>().what.empty());
  CHECK(find<fault::none>().what.empty());
  CHECK(!find<fault::spin_without_cooperation>().what.empty());
  CHECK(find<fault::none>().what.empty());
}
