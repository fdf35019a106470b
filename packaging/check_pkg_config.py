#!/usr/bin/env python3
"""What a build directory installs is moved elsewhere, and used by pkg-config alone: the consumer's programs without CMake."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--cmake", default="cmake")
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--march", default="")
arguments.add_argument("--build", type=pathlib.Path, required=True, help="a built build directory")
arguments.add_argument("--scratch", type=pathlib.Path, required=True)
options = arguments.parse_args()
root, scratch = pathlib.Path(__file__).resolve().parents[1], options.scratch.resolve()
shutil.rmtree(scratch, ignore_errors=True)
scratch.mkdir(parents=True)


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        sys.exit(f"+ {' '.join(map(str, command))}\n{done.stdout}\npkg-config: failed")
    return done.stdout.strip()


run(options.cmake, "--install", options.build, "--prefix", scratch / "installed")
moved = scratch / "moved"
(scratch / "installed").rename(moved)
files = sorted(moved.rglob("*.pc"))
for file in files:
    if str(scratch) in file.read_text() or str(root) in file.read_text():
        sys.exit(f"pkg-config: {file.name} holds a path of where it was made")
environment = {**os.environ, "PKG_CONFIG_PATH": f"{files[0].parent}:{os.environ.get('PKG_CONFIG_PATH', '')}"}


def flags(what, name):
    return run("pkg-config", what, name, env=environment).split()


march = [f"-march={options.march}"] if options.march else []
programs = [("dsv4-spec", "use_spec", [])]
if any(f.name == "dsv4-compiled.pc" for f in files):
    programs.append(("dsv4-compiled", "use_model", [root / "reference_tests/data/official/flash-mini"]))
else:
    programs.append(("dsv4", "use_dsv4", []))
for name, program, given in programs:
    run(options.compiler, *march, *flags("--cflags", name), root / f"reference_tests/consumer/{program}.cpp", "-o",
        scratch / program, *flags("--libs", name))
    print(f"{name}: {program}: {run(scratch / program, *given)}")
