#!/usr/bin/env python3
"""The one header of dsv4::spec is made, compiled, and computes the bundle of the operators byte for byte; it is the same however
often it is made, and compiles twice into one program."""
import argparse
import pathlib
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--launcher", default="")
arguments.add_argument("--scratch", type=pathlib.Path, required=True)
options = arguments.parse_args()
here = pathlib.Path(__file__).resolve().parent
root, scratch = here.parent, options.scratch.resolve()
scratch.mkdir(parents=True, exist_ok=True)


def run(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"+ {' '.join(map(str, command))}\n{done.stdout}\nsingle header: failed")
    return done.stdout.strip()


one, rest = scratch / "dsv4_spec.hpp", scratch / "rest.hpp"
print(run(sys.executable, here / "amalgamate.py", "--out", one))
first = one.read_bytes()
run(sys.executable, here / "amalgamate.py", "--out", one)
if one.read_bytes() != first:
    sys.exit("single header: made twice, it differs")
run(sys.executable, here / "amalgamate.py", "--after", one, "--out", rest, "--header", "golden/make/micro.hpp",
    "--header", "golden/bundle/bundle.hpp")

launcher = [options.launcher] if options.launcher else []
compiler = [*launcher, options.compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-I", scratch, "-c"]
# As somebody pastes it: no include path of the tree, no definition.
run(*compiler, here / "single_header_test.cpp", "-o", scratch / "test.o")
(scratch / "again.cpp").write_text('#include "dsv4_spec.hpp"\n')
run(*compiler, scratch / "again.cpp", "-o", scratch / "again.o")
run(options.compiler, scratch / "test.o", scratch / "again.o", "-lzstd", "-lcrypto", "-o", scratch / "test")
print(run(scratch / "test", root / "reference_tests/data/bundles/micro.v4gold"))
