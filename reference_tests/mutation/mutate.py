#!/usr/bin/env python3
"""Are the tests tested?  Plants one fault at a time into a copy of include/dsv4 (an operator, a bound, a constant, two arguments
swapped), compiles the unit tests that include the header, the smallest first, and runs them until one fails.

  mutate.py num op attn mhc moe --sample 60 --seed 1     sixty faults, spread over the headers of these folders
  mutate.py op/rope.hpp                                  every fault of one header
  mutate.py moe/moe.hpp:44                               … of one line: has a new test killed it?
  mutate.py gen --list                                   what would be planted, without compiling

A fault that does not compile is not counted.  One that no test notices is a survivor: a test is missing, or the fault changes
nothing that is promised; then justified.txt says why, one line each: HEADER | LINE'S TEXT | CHANGE | REASON.
Exit code: 1 with survivors that are not justified.  Nothing of the checkout is changed."""
import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

here = pathlib.Path(__file__).resolve().parent
root = here.parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("where", nargs="+", help="folders or headers of include/dsv4")
parser.add_argument("--sample", type=int, default=0, help="so many, spread over the headers; 0: all")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--minutes", type=float, default=0, help="begin no further fault after that; 0: no limit")
parser.add_argument("--compiler", default=os.environ.get("CXX", "g++"))
parser.add_argument("--list", action="store_true")
parser.add_argument("-v", dest="verbose", action="store_true")
o = parser.parse_args()

# Folders of reference_tests/unit whose tests are responsible for a folder of headers, beside those of its own name.
more_tests = {"core": ["num", "op"], "num": ["train_quantise"], "op": ["model"], "attn": ["model"], "mhc": ["model"], "moe": ["model"],
              "model": ["gen"], "gen": ["state"]}
flags = ["-std=c++20", "-O0", "-w", "-fsanitize=address", "-D_GLIBCXX_ASSERTIONS", "-ffp-contract=off", "-march=x86-64-v3", "-DDSV4_HAS_CPU=1", "-DEIGEN_DONT_PARALLELIZE",
         f'-DDSV4_SOURCE_DIR="{root}"', "-isystem", "/usr/include/eigen3"]
libraries = ["-lCatch2WithMain", "-ltbb", "-lzstd", "-lpcre2-8", "-lcrypto"]

swaps = {" + ": [" - "], " - ": [" + "], " * ": [" / "], " / ": [" * "], " % ": [" / "], " < ": [" <= "], " <= ": [" < "], " > ": [" >= "],
         " >= ": [" > "], " == ": [" != "], " != ": [" == "], " && ": [" || "], " || ": [" && "], " += ": [" -= "], " -= ": [" += "],
         " *= ": [" /= "], " << ": [" >> "], " >> ": [" << "], " & ": [" | "], " | ": [" & "],
         "std::min": ["std::max"], "std::max": ["std::min"], "true": ["false"], "false": ["true"]}
operator = re.compile("|".join(re.escape(k) for k in sorted(swaps, key=len, reverse=True)))
number = re.compile(r"(?<![\w.'])(\d+)(?![\w.'])")
two_arguments = re.compile(r"(?<=\()(\w[\w.]*), (\w[\w.]*)(?=\))")
left_alone = re.compile(r"\s*(#|static_assert|template|using|friend|namespace|requires|extern|DSV4_|///|//|case )|.*(\bclass\b|\bthrow\b|sizeof)")

Mutant = collections.namedtuple("Mutant", "header line column old new")


def code_only(text):
    """Comments and literals as spaces: columns stay."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S)


def mutants_of(header):
    found = []
    for at, line in enumerate(code_only(header.read_text()).split("\n")):
        if left_alone.match(line):
            continue
        for m in operator.finditer(line):
            found += [Mutant(header, at, m.start(), m.group(), new) for new in swaps[m.group()]]
        for m in number.finditer(line):
            if "<" not in line[:m.start()].rsplit(" ", 1)[-1]:  # not an argument of a template
                found.append(Mutant(header, at, m.start(), m.group(), str(int(m.group()) + 1)))
        for m in two_arguments.finditer(line):
            if m.group(1) != m.group(2) and not m.group(1).isdigit():
                found.append(Mutant(header, at, m.start(), m.group(), f"{m.group(2)}, {m.group(1)}"))
    return found


def spread(all_mutants, count):
    """So many, round and round the headers, at random within each."""
    chance = random.Random(o.seed)
    by_header = collections.defaultdict(list)
    for m in all_mutants:
        by_header[m.header].append(m)
    for some in by_header.values():
        chance.shuffle(some)
    chosen, lists = [], list(by_header.values())
    chance.shuffle(lists)
    while len(chosen) < count and any(lists):
        for some in lists:
            if some and len(chosen) < count:
                chosen.append(some.pop())
    return chosen


scratch = pathlib.Path(tempfile.mkdtemp(prefix="dsv4-mutation-"))
include, copied_tests, instead = scratch / "include", scratch / "reference_tests", scratch / "instead"


def only_ref():
    """executors.hpp without exec::cpu: the specification is what is tested, and compiles in a third of the time."""
    text = (root / "reference_tests/executors.hpp").read_text()
    text = text.replace("dsv4::exec::ref, dsv4::exec::cpu, dsv4::exec::cpu_fast", "dsv4::exec::ref").replace('#include "dsv4/cpu/cpu.hpp"', "")
    instead.mkdir()
    (instead / "executors.hpp").write_text(text)


def compiler(folders):
    return [o.compiler, *flags, f"-I{include}", *(f"-I{f}" for f in folders), f"-I{copied_tests}"]


class Test:
    def __init__(self, source):
        self.source, self.seconds, self.folders = source, None, [instead]
        said = subprocess.run([*compiler(self.folders), "-MM", str(source)], capture_output=True, text=True)
        self.headers = {pathlib.Path(w).resolve() for w in said.stdout.replace("\\\n", " ").split()[1:]}
        self.size = len(self.headers)

    def run(self, limit):
        """'passed', 'failed' or 'not compiled'."""
        program = scratch / "test"
        program.unlink(missing_ok=True)
        if subprocess.run([*compiler(self.folders), str(self.source), "-o", str(program), *libraries], capture_output=True).returncode:
            return "not compiled"
        try:
            done = subprocess.run([str(program)], capture_output=True, timeout=limit, cwd=scratch)
            return "failed" if done.returncode else "passed"
        except subprocess.TimeoutExpired:
            return "failed"

    def healthy(self):
        """Whether it passes without a fault; how long that takes bounds how long a fault may take."""
        if self.seconds is None:
            self.seconds = -1
            if self.run(600) == "not compiled":  # it names exec::cpu
                self.folders = []
                self.run(600)
            begin = time.monotonic()
            if (scratch / "test").exists() and subprocess.run([str(scratch / "test")], capture_output=True, cwd=scratch).returncode == 0:
                self.seconds = time.monotonic() - begin
        return self.seconds >= 0


def read_justified():
    known = {}
    for line in (here / "justified.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            header, text, change, reason = (part.strip() for part in line.split(" | "))
            known[header, text, change] = reason
    return known


def main():
    # Copies of all that is compiled: the checkout may change meanwhile.
    shutil.copytree(root / "include", include)
    shutil.copytree(root / "reference_tests", copied_tests, ignore=shutil.ignore_patterns("data", "corpus"))
    only_ref()
    base = include / "dsv4"
    headers, only = [], {}
    for w in o.where:
        w, _, line = w.partition(":")
        path = base / w
        if line:
            only[path] = int(line) - 1
        headers += sorted(path.rglob("*.hpp")) if path.is_dir() else [path]
    every = [m for h in headers for m in mutants_of(h) if only.get(h, m.line) == m.line]
    chosen = spread(every, o.sample) if o.sample else every
    if o.list:
        for m in chosen:
            print(f"{m.header.relative_to(base)}:{m.line + 1}:{m.column + 1}: {m.old.strip()} -> {m.new.strip()}")
        print(f"{len(chosen)} of {len(every)} faults in {len(headers)} headers")
        return 0
    tests = {}

    def tests_of(header):
        folder = header.relative_to(base).parts[0]
        for name in [folder, *more_tests.get(folder, [])]:
            for source in sorted((copied_tests / "unit" / name).rglob("*.cpp")):
                if source not in tests:
                    tests[source] = Test(source)
        return sorted((t for t in tests.values() if header.resolve() in t.headers), key=lambda t: (t.source.stem != header.stem, t.size))

    counts, survivors, justified = collections.Counter(), [], read_justified()
    begin = time.monotonic()
    for n, m in enumerate(chosen):
        if o.minutes and time.monotonic() - begin > 60 * o.minutes:
            break
        relative = m.header.relative_to(base).as_posix()
        text = m.header.read_text()
        lines = text.split("\n")
        change = f"{m.old.strip()} -> {m.new.strip()}"
        where = f"{relative}:{m.line + 1}:{m.column + 1}: {change}   {lines[m.line].strip()}"
        line = lines[m.line]
        lines[m.line] = line[:m.column] + m.new + line[m.column + len(m.old):]
        verdict = "no test"
        for t in tests_of(m.header):
            if not t.healthy():  # tried only when its turn comes: those of a whole model take minutes
                continue
            m.header.write_text("\n".join(lines))
            what = t.run(10 + 10 * t.seconds)
            m.header.write_text(text)
            verdict = {"passed": "survived", "failed": "killed"}.get(what, what)
            if what != "passed":
                break
        key = (relative, line.strip(), change)
        if verdict == "survived" and key in justified:
            verdict = "justified"
        counts[verdict] += 1
        if verdict == "survived":
            survivors.append(where)
        if o.verbose or verdict in ("survived", "no test"):
            print(f"{verdict:14} {where}", flush=True)
    planted = sum(counts.values()) - counts["not compiled"]
    print(f"{planted} faults planted ({counts['not compiled']} more did not compile): {counts['killed']} killed, "
          f"{counts['justified']} justified, {len(survivors)} survived, {counts['no test']} in headers without a unit test; "
          f"{len(every)} are possible here; {time.monotonic() - begin:.0f} s")
    return 1 if survivors else 0


try:
    sys.exit(main())
finally:
    shutil.rmtree(scratch, ignore_errors=True)
