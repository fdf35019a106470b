#!/usr/bin/env python3
"""Checks exercises: compiles yours and compares it with the library.

  docs/exercises/check.py            all, a line each
  docs/exercises/check.py 7          one: what it asks, and the first case that is wrong
  docs/exercises/check.py --solutions    the same with the solutions in place of yours (a test of the exercises)

Exit code: 0 all right, 1 not.  Needs a C++20 compiler, nothing else (set CXX for another than c++)."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
include = here.parents[1] / "include"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("number", nargs="?", type=int)
parser.add_argument("--solutions", action="store_true")
options = parser.parse_args()

marks = re.compile(r"(// ---- yours\n)(.*?)(// ---- to here\n)", re.S)


def run(source, scratch):
    text = source.read_text()
    if options.solutions:
        solution = here / "solutions" / source.name
        text, found = marks.subn(lambda m: m[1] + solution.read_text() + m[3], text)
        if found != 1:
            return 1, f"{source.name}: needs the two marks once"
    # The solution or your text is compiled where the exercise stands, so that its includes and line numbers are right.
    program = scratch / source.stem
    compiler = os.environ.get("CXX", "c++")
    built = subprocess.run([compiler, "-std=c++20", "-O0", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unused-parameter",
                            "-I", str(include), "-I", str(here), "-x", "c++", "-", "-o", str(program)],
                           input=text, capture_output=True, text=True, check=False)
    if built.returncode:
        return 1, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout


sources = sorted(here.glob("[0-9][0-9]_*.cpp"))
if options.number is not None:
    sources = [s for s in sources if int(s.name[:2]) == options.number]
    if not sources:
        sys.exit(f"there is no exercise {options.number}")
    asks = re.search(r"^(// Exercise.*?)\n(?!//)", sources[0].read_text(), re.S | re.M)
    print(re.sub(r"^// ?", "", asks[1], flags=re.M) + "\n")
wrong = 0
with tempfile.TemporaryDirectory() as scratch:
    for source in sources:
        code, words = run(source, pathlib.Path(scratch))
        wrong += code != 0
        print(words.rstrip() if options.number is not None or code == 1 else words.splitlines()[0])
print(f"{len(sources) - wrong} of {len(sources)} right")
sys.exit(wrong != 0)
