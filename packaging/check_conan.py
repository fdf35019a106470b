#!/usr/bin/env python3
"""conan create of the local tree, and the consumer's programs against the package.  Needs conan 2 (pip install conan).

  packaging/check_conan.py --scratch /tmp/conan            with the dependencies of the system
  packaging/check_conan.py --scratch /tmp/conan --center   with those of ConanCenter (network, an hour)
  ... --compiled                                            the package with dsv4::compiled"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--scratch", type=pathlib.Path, required=True)
arguments.add_argument("--center", action="store_true")
arguments.add_argument("--compiled", action="store_true")
options = arguments.parse_args()
root, scratch = pathlib.Path(__file__).resolve().parents[1], options.scratch.resolve()
scratch.mkdir(parents=True, exist_ok=True)
environment = {**os.environ, "CONAN_HOME": str(scratch / "home")}  # the user's own cache and profiles are left alone


def run(*command):
    print("+", *command, flush=True)
    if subprocess.run([str(c) for c in command], env=environment).returncode:
        sys.exit("conan: failed")


version = re.search(r"project\(dsv4 VERSION ([0-9.]+)", (root / "CMakeLists.txt").read_text())[1]
settings = ["-s", "compiler.cppstd=20", "-o", f"dsv4/*:compiled={options.compiled}", "-o", f"dsv4/*:system={not options.center}"]
offline = [] if options.center else ["--no-remote"]
run("conan", "profile", "detect", "--force")
run("conan", "create", root / "packaging/conan", "--build=missing", *settings, *offline)
run("conan", "install", f"--requires=dsv4/{version}", *settings, *offline, "-g", "CMakeToolchain", "-g", "CMakeDeps", "-of", scratch)
build = scratch / "consumer"
way = "compiled" if options.compiled else "spec_package"
run("cmake", "-G", "Ninja", "-S", root / "reference_tests/consumer", "-B", build, f"-DDSV4_FROM={way}",
    f"-DCMAKE_TOOLCHAIN_FILE={scratch / 'conan_toolchain.cmake'}", "-DCMAKE_BUILD_TYPE=Release",
    *(["-DCMAKE_CXX_FLAGS=-march=x86-64-v3"] if options.compiled else []))
run("cmake", "--build", build)
if options.compiled:
    run(build / "use_model", root / "reference_tests/data/official/flash-mini")
else:
    run(build / "use_spec")
print(f"conan: dsv4/{version} was made from the local tree and used ({way})")
