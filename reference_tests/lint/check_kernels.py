#!/usr/bin/env python3
"""Compositions touch no element: in mhc, attn, moe and model, whatever reads or writes values stands in namespace kernel.

Views of device memory have no elements for the host, so exec::far (reference_tests/far.hpp) proves it for what a model
calls.  This reads the text, and holds it also for what no test instantiates: outside namespace kernel there are no
arithmetic types of elements (widen, store, rounded), no bulk access (copy_n, fill, memcpy, data()[...]), no element
written through a call, and no view that is bound to host memory."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
folders = ("mhc", "attn", "moe", "model")
# Headers whose subject is one token's formula or what the host is told, with the reason.
exempt = {
    "mhc/sinkhorn.hpp": "formulas of one token, called by kernels of every executor",
    "moe/weights.hpp": "an expert table's own accessor, which it has in host memory alone",
    "model/accounting.hpp": "counts operations and bytes, touches no tensor",
    "model/fingerprint.hpp": "reads the stored weights where they are, in host memory, before they are prepared",
    "model/prepare.hpp": "takes the weights from host memory: the crossing itself",
}
# Host views that stay outside kernels.
host_views = {
    "attn/kv_cache.hpp": {"void read(index_t from, index_t to, view<T, 2> out) const", "void write(index_t start, view<const T, 2> rows)"},
    "model/transformer.hpp": {"const tensor<float, 1> frequencies = rotary_frequencies(c, ratio);",
                              "const view<const std::int32_t, 1> ids(ids_.data(), static_cast<index_t>(ids_.size()));"},
}
access = [
    (r"\b(?:widen|store|rounded)<", "arithmetic on elements"),
    (r"\bstd::(?:copy|copy_n|fill|fill_n|transform|accumulate|memcpy|memset)\b", "bulk access to elements"),
    (r"\bstd::span\([^;]*\.data\(\)", "a span over elements"),
    (r"\.data\(\)\[", "an element through data()"),
    (r"\bin_kernel\(", "a kernel's view"),
    (r"^\s*\w+(?:\.\w+)*\([^;]*\) [-+*/]?= (?!default|delete)", "an element written"),
    (r"\bfor \(.*: (?:q|x|h|kv|o|out|logits|scores|weights)\)", "a loop over elements"),
]


def blank(m):
    return re.sub(r"[^\n]", " ", m[0])


def outside_kernels(text):
    """The code without comments, string literals and the contents of namespace kernel: the same lines."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"", blank, text, flags=re.S)
    while m := re.search(r"\bnamespace kernel \{", code):
        depth, end = 1, m.end()
        while depth and end < len(code):
            depth += code[end] == "{"
            depth -= code[end] == "}"
            end += 1
        code = code[:m.start()] + blank([code[m.start():end]]) + code[end:]
    return code


errors, headers, lines = [], 0, 0
for header in (h for folder in folders for h in sorted((root / folder).rglob("*.hpp"))):
    name = str(header.relative_to(root))
    if name in exempt:
        continue
    headers += 1
    for number, line in enumerate(outside_kernels(header.read_text()).split("\n"), 1):
        lines += bool(line.strip())
        for pattern, what in access:
            if re.search(pattern, line):
                errors.append(f"include/dsv4/{name}:{number}: {what}, outside namespace kernel: {line.strip()}")
        if re.search(r"\b(?:view|tensor)<(?:[^<>]|<[^<>]*>)*?, \d>", line) and line.strip().rstrip(" {") not in host_views.get(name, ()):
            errors.append(f"include/dsv4/{name}:{number}: host memory, outside namespace kernel (say the memory space): {line.strip()}")
# model/kernels.hpp names every kernel of the model, and no other; docs/adding-an-executor.md shows the test's executor.
declared = {m[1] for folder in ("core", "num", "op", *folders) for h in (root / folder).rglob("*.hpp")
            for m in re.finditer(r"template <(?:execution|class) E>\nstruct (\w+) \{\n  static_assert\(has_kernel<E>", h.read_text())}
listed = re.findall(r"\bKERNEL\((\w+)\)", (root / "model/kernels.hpp").read_text())
if set(listed) != declared or len(listed) != len(declared):
    errors.append("include/dsv4/model/kernels.hpp: not the kernels of the headers: " + ", ".join(sorted(declared ^ set(listed)))
                  + (" twice: " + ", ".join(sorted(k for k in declared if listed.count(k) > 1))))
project = root.parents[1]
shown = re.search(r"```cpp\n(#include <concepts>.*?)```", (project / "docs/adding-an-executor.md").read_text(), re.S)
if not shown or shown[1] not in (project / "reference_tests/compile/own_executor.cpp").read_text():
    errors.append("docs/adding-an-executor.md: its executor is not that of reference_tests/compile/own_executor.cpp")
for name in [*exempt, *host_views]:
    if not (root / name).exists():
        errors.append(f"kernels: {name} is excused here, but is not there")
if headers < 15:
    errors.append(f"kernels: only {headers} headers found in {root}: this script no longer sees them")
print("\n".join(errors) or f"kernels: {lines} lines of {headers} headers touch no element outside namespace kernel")
sys.exit(bool(errors))
