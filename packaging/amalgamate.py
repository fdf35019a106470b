#!/usr/bin/env python3
"""dsv4::spec as one header that can be pasted into a program: the specification, the standard library alone.

  packaging/amalgamate.py --out dsv4_spec.hpp
  packaging/amalgamate.py --after dsv4_spec.hpp --header golden/make/micro.hpp --out rest.hpp

The second form writes what other headers of the tree need beyond a file that was made before: a test computes the operators'
bundle on top of the first file with it.  The same tree gives the same bytes."""
import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
INCLUDE = ROOT / "include" / "dsv4"
SPEC = ("core", "num", "op", "mhc", "attn", "moe", "engram", "model", "optim", "train", "post")  # dsv4_library(... spec) of CMakeLists.txt
OWN = re.compile(r'^#include "([^"]+)".*$')
MARK = "// ---- dsv4/{} "


class amalgamation:
    def __init__(self, done=()):
        self.done, self.out = set(done), []

    def add(self, header):
        """A header and everything of the tree that it includes, each once, in the order in which a compiler sees them."""
        header = header.resolve()
        name = str(header.relative_to(INCLUDE))
        if name in self.done:
            return
        self.done.add(name)
        self.out.append(MARK.format(name).ljust(116, "-"))
        for line in header.read_text().splitlines():
            found = OWN.match(line)
            if found:
                self.add(header.parent / found[1])
            elif line not in ("#pragma once", "// SPDX-License-Identifier: MIT"):
                self.out.append(line)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--after", type=pathlib.Path, help="a file made before, which is included first")
    arguments.add_argument("--header", action="append", default=[], help="instead of the specification: these, of include/dsv4")
    options = arguments.parse_args()

    before = options.after.read_text() if options.after else ""
    one = amalgamation(re.findall(r"^" + re.escape(MARK.split("{")[0]) + r"(\S+) -", before, re.M))
    if options.header:
        headers = [INCLUDE / h for h in options.header]
    else:  # in the order of the umbrella, then what it does not name
        umbrella = re.findall(r'^#include "([^"]+)"', (INCLUDE / "dsv4.hpp").read_text(), re.M)
        headers = [INCLUDE / h for h in umbrella if h.split("/")[0] in SPEC]
        headers += sorted(h for folder in SPEC for h in (INCLUDE / folder).glob("*.hpp"))
    for h in headers:
        one.add(h)

    version = re.search(r"project\(dsv4 VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
    head = ["// SPDX-License-Identifier: MIT", "#pragma once"]
    if not options.header:
        head += [f"/// dsv4::spec {version} in one file, made by packaging/amalgamate.py: DeepSeek-V4 as plain loops, the standard library alone.",
                 "/// Compile as C++20; -ffp-contract=off where bits count.  Licence:"]
        head += ("/// " + line if line else "///" for line in (ROOT / "LICENSE").read_text().splitlines())
        head += ["#if defined(DSV4_COMPILED)", '#error "dsv4: this one header has all bodies; do not link dsv4::compiled with it."', "#endif"]
    text = "\n".join([*head, *one.out]) + "\n"
    third = sorted(set(re.findall(r"^#include <([^>]+)>", text, re.M)))
    foreign = [t for t in third if "." in t]  # the standard library's headers have no ending
    if foreign and not options.header:
        sys.exit(f"amalgamate: the specification includes {', '.join(foreign)}")
    options.out.write_text(text)
    print(f"{options.out}: {len(one.done)} headers, {len(text.splitlines())} lines, {len(text)} bytes")


if __name__ == "__main__":
    main()
