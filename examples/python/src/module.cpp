// SPDX-License-Identifier: MIT
// The module dsv4._dsv4: errors, arrays, JSON, and the order in which the classes are bound.
#include <filesystem>
#include <new>

#include <dsv4/core/error.hpp>
#include <dsv4/num/block_scaled.hpp>

#include "common.hpp"

namespace dsv4_python {

nb::dlpack::dtype numpy_type(dsv4::dtype t) {
  using code = nb::dlpack::dtype_code;
  const auto of = [&](code c, int bits) {
    return nb::dlpack::dtype{static_cast<std::uint8_t>(c), static_cast<std::uint8_t>(bits), 1};
  };
  using dsv4::dtype;
  const auto bits = static_cast<int>(dsv4::bits_of(t));
  switch (t) {
    case dtype::f64:
    case dtype::f32:
    case dtype::f16: return of(code::Float, bits);
    case dtype::c64: return of(code::Complex, bits);
    case dtype::boolean: return of(code::Bool, bits);
    case dtype::i64:
    case dtype::i32:
    case dtype::i16:
    case dtype::i8: return of(code::Int, bits);
    default:
      if (bits != 8 && bits != 16 && bits != 32 && bits != 64)
        throw dsv4::unsupported("an array of " + std::string(dsv4::name_of(t)) + ": NumPy has no type of " +
                                std::to_string(bits) + " bits");
      return of(code::UInt, bits);
  }
}

nb::object array_over(const void* data, dsv4::dtype type, std::span<const index_t> shape,
                      const nb::object& owner, bool writable) {
  const std::vector<std::size_t> extents(shape.begin(), shape.end());
  const nb::dlpack::dtype t = numpy_type(type);
  if (writable)
    return nb::cast(
        nb::ndarray<nb::numpy>(const_cast<void*>(data), extents.size(), extents.data(), owner, nullptr, t),
        nb::rv_policy::reference);
  return nb::cast(nb::ndarray<nb::numpy, nb::ro>(data, extents.size(), extents.data(), owner, nullptr, t),
                  nb::rv_policy::reference);
}

nb::object array_of(std::vector<float> values, std::span<const index_t> shape) {
  const auto kept = std::make_shared<std::vector<float>>(std::move(values));
  return array_over(kept->data(), dsv4::dtype::f32, shape, owner_of(kept), true);
}

nb::object float_copy(const void* data, dsv4::dtype type, std::span<const index_t> shape) {
  std::size_t n = 1;
  for (const index_t s : shape) n *= dsv4::usize(s);
  std::vector<float> out(n);
  const auto* from = static_cast<const std::byte*>(data);
  const auto fill = [&]<class T>(T v, auto&& number) {
    for (std::size_t i = 0; i < n; ++i) {
      std::memcpy(&v, from + i * sizeof v, sizeof v);
      out[i] = static_cast<float>(number(v));
    }
  };
  const auto itself = [](auto v) { return v; };
  switch (type) {
    case dsv4::dtype::bf16:
      fill(std::uint16_t{}, [](std::uint16_t bits) { return dsv4::bf16{bits}.decode(); });
      break;
    case dsv4::dtype::f32: fill(float{}, itself); break;
    case dsv4::dtype::f64: fill(double{}, itself); break;
    default:
      if (!dsv4::is_integer(type))
        throw dsv4::unsupported("float32 values of an array of " + std::string(dsv4::name_of(type)));
      for (std::size_t i = 0; i < n; ++i)
        out[i] = static_cast<float>(dsv4::integer_at(type, from, static_cast<index_t>(i)));
  }
  return array_of(std::move(out), shape);
}

nb::object from_json(const std::string& text) { return nb::module_::import_("json").attr("loads")(text); }
std::string to_json_text(const nb::object& value) {
  return nb::cast<std::string>(nb::module_::import_("json").attr("dumps")(value));
}

namespace {

/// The four kinds of core/error.hpp and their base.  Each is also the built-in exception that a Python program would
/// expect in its place.
struct error_types {
  PyObject *error, *contract, *format, *unsupported, *internal;
};
error_types kinds;

PyObject* new_error(nb::module_& m, const char* name, PyObject* base, PyObject* also, const char* doc) {
  const std::string full = nb::cast<std::string>(m.attr("__name__")) + "." + name;
  const nb::tuple bases =
      also ? nb::make_tuple(nb::borrow(base), nb::borrow(also)) : nb::make_tuple(nb::borrow(base));
  PyObject* type = PyErr_NewExceptionWithDoc(full.c_str(), doc, bases.ptr(), nullptr);
  if (!type) throw nb::python_error();
  m.attr(name) = nb::borrow(type);
  return type;  // lives as long as the interpreter, as every type of an extension does
}

void translate(const std::exception_ptr& p, void*) {
  try {
    std::rethrow_exception(p);
  } catch (const dsv4::contract_violation& e) {
    PyErr_SetString(kinds.contract, e.what());
  } catch (const dsv4::format_error& e) {
    PyErr_SetString(kinds.format, e.what());
  } catch (const dsv4::unsupported& e) {
    PyErr_SetString(kinds.unsupported, e.what());
  } catch (const dsv4::internal_error& e) {
    PyErr_SetString(kinds.internal, e.what());
  } catch (const dsv4::error& e) {
    PyErr_SetString(kinds.error, e.what());
  } catch (const std::filesystem::filesystem_error& e) {
    PyErr_SetString(PyExc_OSError, e.what());
  }
}

}  // namespace

void bind_errors(nb::module_& m) {
  kinds.error = new_error(
      m, "Error", PyExc_Exception, nullptr,
      "What dsv4 raises on purpose: base of the four kinds, and itself for a file that cannot be written.");
  kinds.contract =
      new_error(m, "ContractViolation", kinds.error, PyExc_ValueError,
                "The calling program broke a precondition: a shape, a range, an order of calls.");
  kinds.format =
      new_error(m, "FormatError", kinds.error, PyExc_ValueError,
                "A file is not what it claims to be; the message names file, place, expected and found.");
  kinds.unsupported = new_error(m, "Unsupported", kinds.error, PyExc_NotImplementedError,
                                "Valid input that is not implemented; the message names what.");
  kinds.internal = new_error(m, "InternalError", kinds.error, nullptr, "A bug of dsv4.");
  nb::register_exception_translator(translate);
}

}  // namespace dsv4_python

NB_MODULE(_dsv4, m) {
  m.doc() = "DeepSeek-V4 in C++, for Python.  Use it as `import dsv4`.";
  m.attr("version") = DSV4_VERSION;
  dsv4_python::bind_errors(m);
  dsv4_python::bind_checkpoint(m);
  dsv4_python::bind_text(m);
  dsv4_python::bind_model(m);
  dsv4_python::bind_generate(m);
  dsv4_python::bind_golden(m);
  dsv4_python::bind_train(m);
}
