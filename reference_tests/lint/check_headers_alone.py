#!/usr/bin/env python3
"""Every header compiles alone, without a warning: one translation unit each that includes nothing else.

Headers of the specification see the standard library and include/ only.  Units are compiled as for dsv4::compiled, where
a header brings declarations without the bodies of its *_impl.hpp and so the fewest includes: what is complete there is
complete header-only too, which has the same text and more.  A *_impl.hpp is no header that anybody includes but the one
it belongs to: the objects of dsv4::compiled and the header-only umbrella (check_warnings.py) have all of them.  Nothing is
generated (-fsyntax-only); templates that bodies use are instantiated."""
import argparse
import concurrent.futures
import os
import pathlib
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
spec = {"core", "num", "op", "mhc", "attn", "moe", "model", "optim", "train"}
folders = pathlib.Path(arguments.system).read_text().split() if arguments.system else []
system = [f"-isystem{d}" for d in dict.fromkeys(folders) if d != "/usr/include"]
scratch = pathlib.Path(arguments.scratch)
scratch.mkdir(parents=True, exist_ok=True)


def check(header):
    layer = header.relative_to(root / "dsv4").parts[0]
    # The unit is written only when new: its compilation then depends on the header alone.
    unit = scratch / (str(header.relative_to(root)).replace("/", "__") + ".cpp")
    if not unit.exists():
        unit.write_text(f"#include <{header.relative_to(root)}>\n")
    command = [arguments.compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", *arguments.flag]
    if layer not in spec:
        command += ["-DDSV4_HAS_CPU=1", "-DEIGEN_DONT_PARALLELIZE", *system]
    command += ["-DDSV4_COMPILED=1", f"-I{root}", "-fsyntax-only", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    return header, done.returncode, done.stderr


headers = sorted(h for h in root.rglob("*.hpp") if not h.name.endswith("_impl.hpp"))
if not arguments.xtensor:
    headers = [h for h in headers if h.name != "xtensor.hpp"]
jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
failed = 0
with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
    for header, code, text in pool.map(check, headers):
        if code:
            failed += 1
            print(f"--- {header.relative_to(root)} does not compile alone\n{text[:3000]}")
print(f"headers_alone: {len(headers) - failed} of {len(headers)} headers compile alone")
sys.exit(bool(failed))
