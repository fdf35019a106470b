// SPDX-License-Identifier: MIT
#pragma once
/// What every file of the module needs: nanobind, arrays that keep their memory alive, JSON as Python objects, and
/// Ctrl-C.  Each bind_*.cpp adds its classes to the module.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <dsv4/core/contract.hpp>
#include <dsv4/core/dtype.hpp>

namespace dsv4_python {

namespace nb = nanobind;
using namespace nb::literals;
using dsv4::index_t;
using path = std::filesystem::path;
using token_ids = std::vector<std::int32_t>;

void bind_errors(nb::module_& m);
void bind_checkpoint(nb::module_& m);
void bind_text(nb::module_& m);
void bind_model(nb::module_& m);
void bind_generate(nb::module_& m);
void bind_golden(nb::module_& m);
void bind_train(nb::module_& m);

/// How NumPy sees a storage type.  It has no bfloat16 and no FP8: these come as the unsigned integers of their bits
/// (to_float32 of the Python module decodes bfloat16).
nb::dlpack::dtype numpy_type(dsv4::dtype t);

/// An owner for arrays: while one of them lives, so does `memory`.
template <class T>
nb::object owner_of(std::shared_ptr<T> memory) {
  auto* kept = new std::shared_ptr<T>(std::move(memory));
  return nb::capsule(kept, [](void* p) noexcept { delete static_cast<std::shared_ptr<T>*>(p); });
}
/// A NumPy array over memory that `owner` keeps alive; nothing is copied.
nb::object array_over(const void* data, dsv4::dtype type, std::span<const index_t> shape,
                      const nb::object& owner, bool writable);
/// The same for memory that the array itself owns.
nb::object array_of(std::vector<float> values, std::span<const index_t> shape);

/// Values as float32, bfloat16 decoded; a copy.  @throws unsupported for other formats
nb::object float_copy(const void* data, dsv4::dtype type, std::span<const index_t> shape);

/// json.loads(text)
nb::object from_json(const std::string& text);
/// json.dumps(value): None is "null"
std::string to_json_text(const nb::object& value);

/// Ctrl-C, asked about at most every 50 ms: taking the interpreter's lock may have to wait for other threads.
class interrupts {
 public:
  /// @throws nb::python_error KeyboardInterrupt, or what another signal's handler raised
  void poll() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return;
    next_ = now + std::chrono::milliseconds(50);
    check();
  }
  static void check() {
    const nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }

 private:
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now();
};

}  // namespace dsv4_python
