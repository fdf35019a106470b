#!/usr/bin/env python3
"""nvcc compiles every kernel of exec::cuda for four generations of devices, and none spills registers.

  check_cuda_kernels.py [--nvcc PROGRAM] [--scratch DIR] [--all]

Prints for each architecture the largest numbers of registers, and with --all every kernel's.  Exits with 77, which ctest
counts as skipped, where there is no nvcc: the host machine (cuda/host) tests the same text without it."""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

architectures = ["80", "89", "90a", "120"]
root = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--nvcc", default=os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
parser.add_argument("--scratch", type=pathlib.Path)
parser.add_argument("--all", action="store_true")
options = parser.parse_args()

if not shutil.which(options.nvcc):
    print(f"check_cuda_kernels: no nvcc ({options.nvcc}): kernels are tested on the host machine only")
    sys.exit(77)


def kernels(log):
    """(mangled name, registers, bytes of spills, bytes of stack) of each kernel in the report of ptxas."""
    name, stack, spills = "", 0, 0
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m[1]
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spills = int(m[1]), int(m[2]) + int(m[3])
        elif m := re.search(r"Used (\d+) registers", line):
            yield name, int(m[1]), spills, stack


def readable(names):
    program = shutil.which("c++filt")
    if not program or not names:
        return dict(zip(names, names))
    text = subprocess.run([program], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = [re.sub(r"\(.*", "", n).replace("dsv4::", "").removeprefix("void ") for n in text.splitlines()]
    return dict(zip(names, short))


failed = False
with tempfile.TemporaryDirectory() as temporary:
    scratch = options.scratch or pathlib.Path(temporary)
    scratch.mkdir(parents=True, exist_ok=True)
    for architecture in architectures:
        begun = time.monotonic()
        # -fmad=false: a * b + c rounds twice unless the source says fma, as on the host.
        command = [options.nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-fmad=false", "-diag-suppress=554",
                   f"-I{root / 'cuda'}", f"-I{root / 'include'}", "-Xptxas", "-v", "-Werror", "cross-execution-space-call",
                   f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
                   "-c", str(root / "cuda" / "kernels.cu"), "-o", str(scratch / f"kernels_{architecture}.o")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        log = result.stdout + result.stderr
        if result.returncode != 0:
            print(f"sm_{architecture}: nvcc fails\n" + log[-4000:])
            failed = True
            continue
        found = list(kernels(log))
        names = readable([k[0] for k in found])
        spilling = [k for k in found if k[2]]
        most = max(found, key=lambda k: k[1])
        print(f"sm_{architecture}: {len(found)} kernels in {time.monotonic() - begun:.0f} s, at most {most[1]} registers "
              f"({names[most[0]]}), {len(spilling)} spill")
        for name, registers, spills, stack in found if options.all else spilling:
            print(f"  {registers:4} registers {spills:6} bytes of spills {stack:6} of stack  {names[name]}")
        failed = failed or not found or bool(spilling)
sys.exit(failed)
