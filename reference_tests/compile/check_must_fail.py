#!/usr/bin/env python3
"""Programs that must not compile, and must say why in words a user understands.

Each file of must_fail/ compiles as it is, and fails with -DDSV4_MUST_FAIL and a message that matches its
first line, `// expect: <regular expression>`."""
import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--compiler", default="c++")
arguments = arguments.parse_args()
here = pathlib.Path(__file__).resolve().parent


def compile(source, *flags):
    return subprocess.run([arguments.compiler, "-std=c++20", f"-I{here.parents[1] / 'include'}", "-fsyntax-only", *flags,
                           str(source)], capture_output=True, text=True)


def check(source):
    m = re.match(r"// expect: (.+)", source.read_text())
    if not m:
        return f"{source.name}: does not begin with `// expect: <regular expression>`"
    good = compile(source)
    if good.returncode:
        return f"{source.name}: must compile without DSV4_MUST_FAIL\n{good.stderr[:2000]}"
    bad = compile(source, "-DDSV4_MUST_FAIL")
    if not bad.returncode:
        return f"{source.name}: compiles, but must not"
    if not re.search(m[1], bad.stderr):
        return f"{source.name}: does not say {m[1]!r} but\n{bad.stderr[:2000]}"
    return None


sources = sorted((here / "must_fail").glob("*.cpp"))
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    errors = [e for e in pool.map(check, sources) if e]
print("\n".join(errors) or f"must_fail: {len(sources)} programs are refused with the right words")
sys.exit(bool(errors))
