#!/usr/bin/env python3
"""What it costs to build: processor time (user + system) and memory of each translation unit, and of what embedders include.

    bench/build_time.py build                  the units of a build directory, slowest first, compiled again one by one
    bench/build_time.py build --only 'verify'  those whose source matches
    bench/build_time.py --log build            from ninja's log instead: wall clock, nothing is compiled
    bench/build_time.py --embed                #include <dsv4/dsv4.hpp>, and README's program header-only and against
                                               dsv4::compiled
Processor time hardly depends on what else the machine does; the compiler cache is left out."""
import argparse
import json
import os
import pathlib
import re
import resource
import shlex
import subprocess
import sys
import tempfile

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("build", nargs="?", default="build", help="a configured build directory")
arguments.add_argument("--only", default="", help="regular expression over sources")
arguments.add_argument("--log", action="store_true", help="read .ninja_log, compile nothing")
arguments.add_argument("--embed", action="store_true", help="what an embedder pays")
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--rows", type=int, default=20, help="how many units are listed")
arguments = arguments.parse_args()
root = pathlib.Path(__file__).resolve().parents[1]


def measured(command, folder):
    """(seconds of user and system, peak MB) of one compilation."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        done = subprocess.run(command, cwd=folder, env={**os.environ, "CCACHE_DISABLE": "1"})
        use = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.write(write, json.dumps([done.returncode, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        code, seconds, megabytes = json.load(pipe)
    os.waitpid(child, 0)
    if code:
        sys.exit(f"build_time: failed: {shlex.join(map(str, command))}")
    return seconds, megabytes


def table(rows, what):
    rows.sort(reverse=True)
    for seconds, megabytes, name in rows[:arguments.rows]:
        print(f"{seconds:8.1f} s {megabytes:7.0f} MB  {name}" if megabytes else f"{seconds:8.1f} s  {name}")
    print(f"{sum(r[0] for r in rows):8.1f} s in all: {len(rows)} {what}, the slowest {rows[0][2]}" if rows else f"no {what}")


if arguments.log:
    last = {}
    for line in (pathlib.Path(arguments.build) / ".ninja_log").read_text().splitlines()[1:]:
        begin, end, _, output, _ = line.split("\t")
        if output.endswith(".o"):
            last[output] = (int(end) - int(begin)) / 1000
    table([(s, 0, re.sub(r"CMakeFiles/|\.dir|\.o$", "", o)) for o, s in last.items()], "objects (wall clock)")
elif arguments.embed:
    flags = ["-std=c++20", "-DDSV4_HAS_CPU=1", "-DEIGEN_DONT_PARALLELIZE", f"-I{root / 'include'}", "-I/usr/include/eigen3"]
    with tempfile.TemporaryDirectory() as scratch:
        unit = pathlib.Path(scratch) / "umbrella.cpp"
        unit.write_text("#include <dsv4/dsv4.hpp>\nint main() {}\n")
        program = root / "reference_tests/consumer/use_model.cpp"
        rows = []
        for name, source, more in (("#include <dsv4/dsv4.hpp>, header-only", unit, []),
                                   ("#include <dsv4/dsv4.hpp>, dsv4::compiled", unit, ["-DDSV4_COMPILED=1"]),
                                   ("README's program, header-only", program, []),
                                   ("README's program, dsv4::compiled", program, ["-DDSV4_COMPILED=1"])):
            command = [arguments.compiler, *flags, *more, "-O2", "-c", source, "-o", f"{scratch}/out.o"]
            rows.append((*measured(command, scratch), name))
        table(rows, "programs at -O2")
else:
    database = pathlib.Path(arguments.build) / "compile_commands.json"
    if not database.exists():
        sys.exit(f"build_time: {database}: not found; configure first: cmake --preset release")
    rows = []
    for entry in json.loads(database.read_text()):
        name = os.path.relpath(entry["file"], root)
        if not re.search(arguments.only, name):
            continue
        command = shlex.split(entry["command"])
        if os.path.basename(command[0]) in ("ccache", "sccache"):
            command = command[1:]
        command[command.index("-o") + 1] = os.devnull
        rows.append((*measured(command, entry["directory"]), name))
        print(f"{rows[-1][0]:8.1f} s {rows[-1][1]:7.0f} MB  {name}", file=sys.stderr)
    table(rows, "units")
