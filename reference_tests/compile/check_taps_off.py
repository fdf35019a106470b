#!/usr/bin/env python3
"""With no observer, taps cost nothing: the model compiled as it is, and compiled from a copy of the headers
from which every tap call has been deleted, give the same object code: every function the same instructions."""
import argparse
import collections
import pathlib
import re
import shutil
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--launcher", default="")
arguments.add_argument("--scratch", required=True)
arguments.add_argument("--flag", action="append", default=[])
arguments.add_argument("--objdump", default="objdump")
arguments = arguments.parse_args()

root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
scratch = pathlib.Path(arguments.scratch)
spec = ("core", "num", "op", "mhc", "attn", "moe", "model")

# The two trees: as it is, and without taps.
shutil.rmtree(scratch, ignore_errors=True)
calls = blocks = 0
for header in (h for folder in spec for h in sorted((root / folder).rglob("*.hpp"))):
    text = header.read_text()
    target = scratch / "with" / "dsv4" / header.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    if header.name != "tap.hpp":
        # `if constexpr (Tap::on) { ... }` or one statement after it, then what is left of `tap.rows(...);`.
        lines, out = text.split("\n"), []
        while lines:
            line = lines.pop(0)
            if "if constexpr (Tap::on)" in line:
                blocks += 1
                indent = len(line) - len(line.lstrip())
                if line.rstrip().endswith("{"):
                    while lines.pop(0) != " " * indent + "}":
                        pass
                else:
                    while not lines.pop(0).rstrip().endswith(";"):
                        pass
                continue
            out.append(line)
        text, n = re.subn(r"^ *tap\.(?:rows|one|parts|each)\((?:[^;]|\n)*?\);\n", "", "\n".join(out), flags=re.M)
        calls += n
    target = scratch / "without" / "dsv4" / header.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
if calls < 30 or blocks < 2:
    sys.exit(f"taps_off: only {calls} tap calls and {blocks} blocks found in {root}: this script no longer sees them")
left = [str(h.relative_to(scratch)) for h in (scratch / "without").rglob("*.hpp")
        if h.name != "tap.hpp" and re.search(r"tap\.(rows|one|parts|each)\(|Tap::on\b", h.read_text())]
if left:
    sys.exit(f"taps_off: tap calls left in {', '.join(left)}")

# The same unit against both.
unit = scratch / "unit.cpp"
unit.write_text("""#include <dsv4/model/transformer.hpp>
using model = dsv4::transformer<dsv4::official, dsv4::exec::ref>;
template void model::forward<dsv4::no_tap>(std::span<const model::input>, const model::output&, dsv4::no_tap&&);
template void model::forward_mtp<dsv4::no_tap>(std::span<const model::mtp_input_rows>, dsv4::view<double, 2>, dsv4::no_tap&&);
""")
listings, sizes = [], []
for tree in ("with", "without"):
    object_file = scratch / f"{tree}.o"
    command = [arguments.launcher] if arguments.launcher else []
    command += [arguments.compiler, "-std=c++20", "-O2", "-DNDEBUG", "-g0", "-ffp-contract=off", *arguments.flag,
                "-Wno-unused-parameter", f"-I{scratch / tree}", "-c", str(unit), "-o", str(object_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"taps_off: the headers {tree} taps do not compile\n{done.stderr[:3000]}")
    text = subprocess.run([arguments.objdump, "-dr", "--no-show-raw-insn", "-C", str(object_file)], capture_output=True,
                          text=True, check=True).stdout
    functions, name = {}, None
    for line in text.splitlines()[3:]:
        m = re.match(r"[0-9a-f]+ <(.*)>:$", line)
        if m:
            name = m[1]
            functions.setdefault(name, [])
        elif name and line.strip():
            functions[name].append(line)
    listings.append(functions)
    sizes.append(sum(map(len, functions.values())))

with_taps, without = listings
if with_taps.keys() != without.keys():
    sys.exit("taps_off: other functions: " + ", ".join(sorted(with_taps.keys() ^ without.keys())[:5]))


def substance(lines):
    """How often each operation and each reference to a symbol occurs: what is left without registers and order."""
    out = collections.Counter()
    for line in lines:
        m = re.match(r"\s*[0-9a-f]+:\s+(?:(R_\S+)\s+(.*)|(\S+))", line)
        if m:
            out[m[1] + " " + m[2] if m[1] else m[3]] += 1
    return out


PADDING = re.compile(r"nop|xchg|data16|cs$")  # between loops, where alignment wants it
MOVES = re.compile(r"v?mov")                   # from register to register, and to the stack and back


def work(counts):
    """Without what another allocation of registers may add or spare: padding, and moves, which are counted apart."""
    return {k: n for k, n in counts.items() if not PADDING.match(k) and not MOVES.match(k)}


same_up_to_registers = []
for name, lines in with_taps.items():
    if lines == without[name]:
        continue
    # Equal work in another allocation of registers: a compiler breaks ties by the number of a declaration, and the
    # deleted calls shift those.  Every other operation and every reference to a symbol occurs as often; of moves, one
    # in a hundred lines may be spilt or spared.  Kernels, where the time goes, must be equal to the letter all the same.
    a, b = substance(lines), substance(without[name])
    moves = [sum(n for k, n in c.items() if MOVES.match(k)) for c in (a, b)]
    if work(a) != work(b) or abs(moves[0] - moves[1]) * 100 > len(lines) or "kernel::" in name.split("(")[0]:
        print(f"  only with taps    {dict(a - b)}\n  only without them {dict(b - a)}")
        sys.exit(f"taps_off: {name} has {len(lines)} lines with taps, {len(without[name])} without")
    same_up_to_registers.append(name)
print(f"taps_off: {calls} tap calls and {blocks} blocks deleted; of {len(with_taps)} functions, {sizes[0]} lines of assembly, "
      f"{len(with_taps) - len(same_up_to_registers)} are equal to the letter, {len(same_up_to_registers)} up to registers and order")
