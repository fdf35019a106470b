#!/usr/bin/env python3
"""Every header compiles alone, without a warning: one translation unit each that includes nothing else.

Headers of the specification see the standard library and include/ only.  Units are compiled as for dsv4::compiled, where
a header brings declarations without the bodies of its *_impl.hpp and so the fewest includes: what is complete there is
complete header-only too, which has the same text and more.  A *_impl.hpp is no header that anybody includes but the one
it belongs to: the objects of dsv4::compiled and the header-only umbrella (check_warnings.py) have all of them.  Nothing is
generated (-fsyntax-only); templates that bodies use are instantiated.

Most of the time would go into reading the same few headers two hundred times.  So hubs are precompiled, and a header is read
behind the largest hub that it includes anyway.  That hides nothing: includes stand before all else in a header, so a hub
can only be missed by what is included before it, and that is checked as a header of its own, as is the hub."""
import argparse
import collections
import concurrent.futures
import functools
import os
import pathlib
import re
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--system", help="file with include folders of third parties, one a line")
arguments.add_argument("--flag", action="append", default=[])
arguments.add_argument("--scratch", required=True, help="folder for the translation units")
arguments.add_argument("--xtensor", action="store_true", help="xtensor is installed")
arguments = arguments.parse_args()

root = pathlib.Path(__file__).resolve().parents[2] / "include"
spec = {"core", "num", "op", "mhc", "attn", "moe", "engram", "dspark", "model", "optim", "train", "post"}
folders = pathlib.Path(arguments.system).read_text().split() if arguments.system else []
system = [f"-isystem{d}" for d in dict.fromkeys(folders) if d != "/usr/include"]
scratch = pathlib.Path(arguments.scratch)
scratch.mkdir(parents=True, exist_ok=True)


# What many others include.
hubs = [root / "dsv4" / name for name in (
    "core/contract.hpp", "core/tensor.hpp", "num/weight_info.hpp", "model/weights.hpp", "op/linear.hpp", "moe/gate.hpp",
    "io/message.hpp", "io/atomic_file.hpp", "io/mapped_file.hpp", "io/safetensors.hpp", "model/transformer.hpp",
    "golden/bundle/manifest.hpp", "golden/bundle/bundle.hpp", "text/unicode.hpp", "cpu/parallel.hpp", "cpu/row.hpp")]


def layer(header):
    return header.relative_to(root / "dsv4").parts[0]


@functools.cache
def included(header):
    """The headers of include/ that it includes, itself too; without *_impl.hpp, which dsv4::compiled leaves out."""
    found = {header}
    for quoted, angled in re.findall(r'^#include (?:"([^"]+)"|<(dsv4/[^>]+)>)', header.read_text(), re.MULTILINE):
        other = (header.parent / quoted if quoted else root / angled).resolve()
        if other.exists() and not other.name.endswith("_impl.hpp"):
            found |= included(other)
    return found


def flags(header):
    """As for a program of its layer: only what stands above the specification knows third parties."""
    if layer(header) in spec:
        return []
    return ["-DDSV4_HAS_CPU=1", "-DEIGEN_DONT_PARALLELIZE", *system]


def command(header):
    return [arguments.compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", *arguments.flag, *flags(header),
            "-DDSV4_COMPILED=1", f"-I{root}"]


def hubs_of(headers):
    """header -> the hub that saves the most, the one that brings the most headers; None where there is none.  Writing a
    precompiled header takes as long as reading several, so one that few would use is not made."""
    worth = 8
    allowed = {(hub, tuple(flags(h))) for hub in hubs for h in headers}
    while True:
        found = {h: max((hub for hub in hubs if hub != h and hub in included(h) and (hub, tuple(flags(h))) in allowed),
                        key=lambda hub: len(included(hub)), default=None) for h in headers}
        users = collections.Counter((hub, tuple(flags(h))) for h, hub in found.items() if hub)
        if min(users.values(), default=worth) >= worth:
            return found
        allowed.discard(min(users, key=lambda user: users[user]))


def name_of(header):
    return str(header.relative_to(root)).replace("/", "__")


def precompiled(header):
    """The file that brings the header's hub to units with the header's flags."""
    return scratch / f"{'spec' if layer(header) in spec else 'all'}__{name_of(hub_of[header])}"


def precompile(header):
    """A failure shows when the hub itself is checked; its users are then read without it."""
    hub, unit = hub_of[header], precompiled(header)
    unit.write_text(f"#include <{hub.relative_to(root)}>\n")
    subprocess.run([*command(header), "-x", "c++-header", str(unit), "-o", f"{unit}.gch"], capture_output=True)


def check(header):
    unit = scratch / (name_of(header) + ".cpp")
    # <name>.gch is taken for the first include of a unit, when it has the same flags.
    unit.write_text((f'#include "{precompiled(header).name}"\n' if hub_of[header] else "") + f"#include <{header.relative_to(root)}>\n")
    done = subprocess.run([*command(header), "-fsyntax-only", str(unit)], capture_output=True, text=True)
    return header, done.returncode, done.stderr


headers = sorted(h for h in root.rglob("*.hpp") if not h.name.endswith("_impl.hpp"))
if not arguments.xtensor:
    headers = [h for h in headers if h.name != "xtensor.hpp"]
hub_of = hubs_of(headers)
jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
failed = 0
with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
    list(pool.map(precompile, {precompiled(h): h for h in headers if hub_of[h]}.values()))
    for header, code, text in pool.map(check, headers):
        if code:
            failed += 1
            print(f"--- {header.relative_to(root)} does not compile alone\n{text[:3000]}")
print(f"headers_alone: {len(headers) - failed} of {len(headers)} headers compile alone")
sys.exit(bool(failed))
