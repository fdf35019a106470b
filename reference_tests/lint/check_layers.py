#!/usr/bin/env python3
"""Includes go downward only: layers.txt is the architecture, this script holds the headers to it.

Fails on an include of a higher layer, on a cycle, on a missing file, on a third-party header where
it does not belong, and on an include of our own headers that is not relative and quoted."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
errors = []

# The allowed folders of each folder, closed over what those may include.
direct, external = {}, {}
for line in (pathlib.Path(__file__).parent / "layers.txt").read_text().splitlines():
    line = line.split("#")[0].strip()
    if line:
        name, rest = line.split(":", 1)
        below, third_party = rest.split("|")
        direct[name.strip()], external[name.strip()] = below.split(), third_party.split()


def closure(name):
    seen, todo = set(), [name]
    while todo:
        n = todo.pop()
        if n not in seen:
            seen.add(n)
            todo += direct[n]
    return seen


allowed = {name: closure(name) for name in direct}


def room(path):
    """The folder of layers.txt that a header stands in: golden/judge, or core, or "." for the umbrella."""
    folder = "/".join(path.parts[:-1])
    parts = folder.split("/")
    return next((f for f in ("/".join(parts[:n]) for n in range(len(parts), 0, -1)) if f in direct), folder or ".")


edges = {}
for header in sorted(root.rglob("*.hpp")):
    me = header.relative_to(root)
    layer = room(me)
    edges[str(me)] = []
    if layer not in allowed:
        errors.append(f"{me}: folder {layer} is not in layers.txt")
        continue
    for number, line in enumerate(header.read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not m:
            continue
        where, path = f"include/dsv4/{me}:{number}", m[2]
        if m[1] == "<":
            if path.startswith("dsv4/"):
                errors.append(f"{where}: inside the library, includes are relative and quoted, found <{path}>")
            elif re.search(r"[./]", path) and not any(path.startswith(p) for p in external[layer]):
                errors.append(f"{where}: <{path}> does not belong in {layer} (layers.txt allows: "
                              f"{' '.join(external[layer]) or 'the standard library'})")
            continue
        target = (header.parent / path).resolve()
        if not target.is_file() or root not in target.parents:
            errors.append(f"{where}: no such header of the library: {path}")
            continue
        other = target.relative_to(root)
        if other != me.with_name(me.stem + "_impl.hpp"):  # the last line of a header whose bodies stand beside it
            edges[str(me)].append(str(other))
        to = room(other)
        if to not in allowed[layer]:
            errors.append(f"{where}: {layer} may not include {to} ({other}); it may include "
                          f"{' '.join(sorted(allowed[layer] - {layer})) or 'nothing but itself'}")

# Cycles, within a folder too.
state = {}


def visit(node, path):
    state[node] = "open"
    for other in edges.get(node, []):
        if state.get(other) == "open":
            errors.append("cycle: " + " -> ".join(path[path.index(other):] + [other]))
        elif other not in state:
            visit(other, path + [other])
    state[node] = "done"


for node in edges:
    if node not in state:
        visit(node, [node])

print("\n".join(errors) or f"layers: {len(edges)} headers, {sum(map(len, edges.values()))} includes, all downward")
sys.exit(bool(errors))
