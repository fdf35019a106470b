#!/usr/bin/env python3
"""Objects that are compiled with less optimisation than the library hold no copy of its kernels.

An inline function that two objects of a program have is kept once, whichever the linker meets first: the command line at -O1
was a quarter slower, although every model it ran was compiled at -O3 in the library.  Looked for are weak symbols of the
namespaces that compute."""
import argparse
import re
import subprocess
import sys

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--nm", default="nm")
arguments.add_argument("objects", nargs="+", help="object files, or lists of them separated by semicolons")
arguments = arguments.parse_args()

computes = re.compile(r"\bdsv4::(kernel|cpu|train|engram|dspark)::|\bdsv4::(transformer|sampler|log_probabilities|linear|rms_norm|dot)\b")
objects = [o for given in arguments.objects for o in given.split(";")]
failed = False
for path in objects:
    done = subprocess.run([arguments.nm, "--demangle", "--defined-only", path], capture_output=True, text=True, check=True)
    # address, kind, name: W and V are weak, u is unique.
    symbols = (line.split(" ", 2) for line in done.stdout.splitlines())
    copies = [s[2] for s in symbols if len(s) == 3 and s[1] in "WVu" and computes.search(s[2])]
    for name in copies[:5]:
        print(f"kernel_copies: {path} holds {name}; compile its source with the library's options (CMakeLists.txt)")
    failed |= bool(copies)
print(f"kernel_copies: {len(objects)} objects looked at")
sys.exit(failed)
