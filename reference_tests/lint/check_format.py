#!/usr/bin/env python3
"""The whole tree is as clang-format lays it out, by the one version named below: others break lines elsewhere.

  check_format.py [--fix] [--tools DIR]     --fix formats in place

A clang-format of that version on the PATH is used, else the one of DIR, where pip puts it from PyPI if need be."""
import argparse
import pathlib
import shutil
import subprocess
import sys

version = "18.1.8"
root = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--fix", action="store_true")
parser.add_argument("--tools", type=pathlib.Path, default=root / "build" / "tools")
options = parser.parse_args()


def is_right(program):
    found = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return found.returncode == 0 and f"version {version}" in found.stdout


def clang_format():
    on_path, own = shutil.which("clang-format"), options.tools / "bin" / "clang-format"
    if on_path and is_right(on_path):
        return on_path
    if not own.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(options.tools)]
        subprocess.run([*pip, f"clang-format=={version}"], check=True)
    if not is_right(own):
        sys.exit(f"{own} is not version {version}: remove {options.tools} and run this again")
    return str(own)


sources = [p for folder in ("include", "examples", "reference_tests", "bench", "cuda", "docs")
           for pattern in ("*.hpp", "*.cpp", "*.cuh", "*.cu")
           for p in sorted((root / folder).rglob(pattern))]
program = clang_format()
mode = ["-i"] if options.fix else ["--dry-run", "--Werror"]
result = subprocess.run([program, *mode, *map(str, sources)], cwd=root, capture_output=True, text=True, check=False)
errors = [line for line in result.stderr.splitlines() if "error:" in line]
print("\n".join(errors) or f"format: {len(sources)} files as clang-format {version} lays them out")
if errors:
    print(f"{len(errors)} places; to lay them out: python3 reference_tests/lint/check_format.py --fix")
sys.exit(result.returncode)
