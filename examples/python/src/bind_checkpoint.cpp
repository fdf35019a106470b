// SPDX-License-Identifier: MIT
// A checkpoint: its configuration, and every tensor of its files as an array over the mapped file.
#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/config_out.hpp>
#include <dsv4/model/accounting.hpp>

#include "common.hpp"

namespace dsv4_python {
namespace {

using dsv4::io::checkpoint;

const dsv4::io::tensor_info& find(const checkpoint& c, const std::string& name) {
  const dsv4::io::tensor_info* t = c.find(name);
  if (!t)
    throw nb::key_error(
        (name + ": " + c.path().string() + " has no tensor of this name (Checkpoint.names)").c_str());
  return *t;
}

nb::object open_checkpoint(const path& p, const std::optional<bool>& scan) {
  dsv4::io::checkpoint_options o;
  if (scan) o.scan = *scan ? dsv4::io::scan_rule::always : dsv4::io::scan_rule::never;
  std::shared_ptr<checkpoint> opened;
  {
    const nb::gil_scoped_release unlocked;
    opened = std::make_shared<checkpoint>(checkpoint::open(p, o));
  }
  for (const std::string& note : opened->notes())
    if (PyErr_WarnEx(PyExc_UserWarning, note.c_str(), 1) != 0) throw nb::python_error();
  return nb::cast(opened);
}

}  // namespace

void bind_checkpoint(nb::module_& m) {
  nb::class_<checkpoint>(
      m, "Checkpoint",
      "A checkpoint directory as published on the hub.  Files are mapped: opening one reads hardly "
      "anything of them, and several programs share the memory.")
      .def_static(
          "open", &open_checkpoint, "path"_a, "scan"_a = nb::none(),
          nb::sig("def open(path: str | os.PathLike[str], scan: bool | None = None) -> Checkpoint"),
          "Open a directory, or one .safetensors file beside its config.json.\n\n"
          "scan: read all weights to find NaN and infinity; by default only of checkpoints up to 2 GiB.")
      .def_prop_ro(
          "config",
          [](const checkpoint& c) { return from_json(dsv4::io::to_json(c.configuration()).dump()); },
          nb::sig("def config(self) -> dict[str, typing.Any]"), "The fields of config.json.")
      .def_prop_ro("path", [](const checkpoint& c) { return c.path().string(); })
      .def_prop_ro(
          "names",
          [](const checkpoint& c) {
            std::vector<std::string> names;
            for (const auto& t : c.tensors()) names.push_back(t.stored->name);
            return names;
          },
          "Names of all tensors, in alphabetical order.")
      .def_prop_ro("bytes", &checkpoint::bytes, "Bytes of all tensors.")
      .def_prop_ro("has_mtp", [](const checkpoint& c) { return !c.weights().mtp.empty(); })
      .def(
          "dtype",
          [](const checkpoint& c, const std::string& name) {
            return std::string(dsv4::name_of(find(c, name).type));
          },
          "name"_a, "The stored type as safetensors names it: BF16, F8_E4M3, ...")
      .def(
          "tensor",
          [](const std::shared_ptr<checkpoint>& c, const std::string& name) {
            const auto& t = find(*c, name);
            return array_over(t.data, t.type, t.shape, owner_of(c), false);
          },
          "name"_a, nb::sig("def tensor(self, name: str) -> numpy.typing.NDArray[typing.Any]"),
          "The stored values, read-only, in the mapped file itself: nothing is copied, and the file stays "
          "mapped as "
          "long as the array lives.  BF16 comes as uint16 (to_float32 decodes it), FP8 and FP4 as uint8 or "
          "int8.")
      .def(
          "parameters",
          [](const checkpoint& c) {
            const auto p = dsv4::count_parameters(c.configuration());
            nb::dict out;
            out["total"] = p.total, out["active"] = p.active, out["embedding"] = p.embedding,
            out["mtp"] = p.mtp;
            return out;
          },
          nb::sig("def parameters(self) -> dict[str, int]"),
          "Numbers of parameters: total, active, embedding, mtp.")
      .def(
          "kv_bytes",
          [](const checkpoint& c, index_t tokens) {
            return dsv4::count_kv_bytes(c.configuration()).at(tokens);
          },
          "tokens"_a, "Bytes that a sequence of so many tokens remembers (the paper's formats).")
      .def("__repr__", [](const checkpoint& c) {
        return "<dsv4.Checkpoint " + c.path().string() + ": " +
               std::to_string(c.configuration().num_hidden_layers) + " layers, " + std::to_string(c.bytes()) +
               " bytes>";
      });
}

}  // namespace dsv4_python
