#!/usr/bin/env python3
"""The headers give a program that includes them no warning, as headers of its own (-I, not -isystem), under every warning
that projects commonly turn on.  One unit: the umbrella, header-only, and the largest templates instantiated, because most
warnings appear in no other way.  Nothing is generated (-fsyntax-only).  With --also, another compiler reads the umbrella
alone, where it is installed.  Headers of third parties are system headers."""
import argparse
import pathlib
import shutil
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--compiler", default="c++")
arguments.add_argument("--also", default="clang++")
arguments.add_argument("--system", help="file with include folders of third parties, one a line")
arguments.add_argument("--flag", action="append", default=[])
arguments.add_argument("--everything", action="store_true", help="all executors and policies, with both compilers")
arguments = arguments.parse_args()

include = pathlib.Path(__file__).resolve().parents[2] / "include"
folders = pathlib.Path(arguments.system).read_text().split() if arguments.system else []
warnings = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Wold-style-cast", "-Wpedantic", "-Werror"]
command = ["-std=c++20", "-ffp-contract=off", "-DDSV4_HAS_CPU=1", "-DEIGEN_DONT_PARALLELIZE", *arguments.flag, *warnings,
           *(f"-isystem{d}" for d in dict.fromkeys(folders) if d != "/usr/include"), f"-I{include}", "-fsyntax-only", "-x", "c++", "-"]
umbrella = "#include <dsv4/dsv4.hpp>\n"
usual = ["transformer<official, exec::cpu>", "train::network<float, exec::cpu>", "conversation<official, exec::cpu>"]
more = ["transformer<official, exec::ref>", "transformer<official, exec::cpu_fast>", "transformer<float32<>, exec::ref>",
        "transformer<float32<>, exec::cpu>", "transformer<float32<double>, exec::ref>", "train::network<double, exec::ref>",
        "stored_prefix<official>", "prefix_shelf<official>", "trainer::training<float, exec::cpu>"]


def unit(templates):
    return umbrella + "namespace dsv4 {\n" + "".join(f"template class {t};\n" for t in templates) + "}\n"


units = [(arguments.compiler, unit(usual + more if arguments.everything else usual))]
if shutil.which(arguments.also):
    units.append((arguments.also, unit(usual + more) if arguments.everything else umbrella))
else:
    print(f"warnings: {arguments.also} is not installed, {arguments.compiler} alone")
failed = False
for compiler, text in units:
    done = subprocess.run([compiler, *command], input=text, capture_output=True, text=True)
    failed |= done.returncode != 0
    print(f"warnings: {compiler}: {'none' if done.returncode == 0 else done.stderr[:6000]}")
sys.exit(failed)
