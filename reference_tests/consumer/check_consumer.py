#!/usr/bin/env python3
"""Uses the library the way others will: installed, as a subdirectory, and through FetchContent."""
import argparse
import pathlib
import shutil
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--cmake", default="cmake")
arguments.add_argument("--generator", default="Ninja")
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--launcher", default="")
arguments.add_argument("--compiled", help="a build directory of this project that has dsv4::compiled")
arguments.add_argument("--march", default="", help="-march of that build")
arguments.add_argument("--build", required=True, help="scratch folder, emptied first")
arguments = arguments.parse_args()

here = pathlib.Path(__file__).resolve().parent
source, scratch = here.parents[1], pathlib.Path(arguments.build).resolve()
shutil.rmtree(scratch, ignore_errors=True)
common = ["-G", arguments.generator, f"-DCMAKE_CXX_COMPILER={arguments.compiler}"]
if arguments.launcher:
    common.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={arguments.launcher}")


def run(*command):
    print("+", *command, flush=True)
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nconsumer: failed")
    return done.stdout


# Install: header-only, so this configures and copies, and moves to another place to show that no path sticks.
run(arguments.cmake, "-S", source, "-B", scratch / "library", *common, "-DDSV4_COMPILED=OFF", "-DDSV4_BUILD_TESTS=OFF",
    "-DDSV4_BUILD_EXAMPLES=OFF", "-DDSV4_BUILD_BENCH=OFF")
run(arguments.cmake, "--install", scratch / "library", "--prefix", scratch / "installed")
(scratch / "installed").rename(scratch / "moved")
for config in (scratch / "moved").rglob("*.cmake"):
    if str(source) in config.read_text():
        sys.exit(f"consumer: {config.name} holds the path of the source tree")

ways = {
    "package": [f"-DCMAKE_PREFIX_PATH={scratch / 'moved'}"],
    "spec_package": [f"-DCMAKE_PREFIX_PATH={scratch / 'moved'}"],
    "subdirectory": [f"-DDSV4_SOURCE={source}"],
    "fetch": [f"-DDSV4_SOURCE={source}"],
}
if arguments.compiled:  # what the project itself has built, installed: the same program against dsv4::compiled
    run(arguments.cmake, "--install", arguments.compiled, "--prefix", scratch / "installed")
    (scratch / "installed").rename(scratch / "moved_compiled")
    march = f"-DCMAKE_CXX_FLAGS=-march={arguments.march}" if arguments.march else "-DCMAKE_CXX_FLAGS="
    ways["compiled"] = [f"-DCMAKE_PREFIX_PATH={scratch / 'moved_compiled'}", march]
for way, options in ways.items():
    build = scratch / way
    run(arguments.cmake, "-S", here, "-B", build, *common, f"-DDSV4_FROM={way}", *options)
    run(arguments.cmake, "--build", build)
    for program in ("use_spec", "use_dsv4"):
        if (build / program).exists():
            print(f"{way}: {program}: {run(build / program).strip()}")
    if way in ("package", "compiled"):
        print(f"{way}: use_model: {run(build / 'use_model', source / 'reference_tests/data/official/flash-mini').strip()}")
    if way not in ("spec_package", "compiled") and not (build / "use_dsv4").exists():
        sys.exit(f"consumer: {way}: use_dsv4 was not built")
print(f"consumer: find_package, add_subdirectory and FetchContent work{', header-only and compiled' if arguments.compiled else ''}")
