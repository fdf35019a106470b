#!/usr/bin/env python3
"""Every header compiles alone, without a warning: one translation unit each that includes nothing else.

Headers of the specification see the standard library and include/ only."""
import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--system", default="", help="include folders of third parties, separated by ':'")
arguments.add_argument("--flag", action="append", default=[])
arguments.add_argument("--xtensor", action="store_true", help="xtensor is installed")
arguments = arguments.parse_args()

root = pathlib.Path(__file__).resolve().parents[2] / "include"
spec = {"core", "num", "op", "mhc", "attn", "moe", "model", "optim", "train"}
system = [f"-isystem{d}" for d in arguments.system.split(":") if d and d not in ("/usr/include", str(root))]


def check(header):
    layer = header.relative_to(root / "dsv4").parts[0]
    command = [arguments.compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", *arguments.flag,
               f"-I{root}", "-fsyntax-only", "-x", "c++", "-"]
    if layer not in spec:
        command[1:1] = ["-DDSV4_HAS_CPU=1", "-DEIGEN_DONT_PARALLELIZE", *system]
    source = f"#include <{header.relative_to(root)}>\n"
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    return header, done.returncode, done.stderr


headers = sorted(root.rglob("*.hpp"))
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
