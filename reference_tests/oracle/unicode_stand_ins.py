#!/usr/bin/env python3
"""Prints the table `newer_characters` of include/dsv4/text/unicode.hpp.

PyPI `tokenizers` matches with Oniguruma, whose Unicode is newer than that of the PCRE2 of Debian 12
(10.42: Unicode 14).  Python 3.11 has Unicode 14 too, so the table is what the two know differently:
  python3.11 -m venv venv && venv/bin/pip install tokenizers==0.23.3 && venv/bin/python unicode_stand_ins.py"""
import sys
import unicodedata

from tokenizers import Regex, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", "run with Python 3.11: the table is a difference to Unicode 14"
points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
everything = "".join(map(chr, points))

category = {}
for name in "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cn Co".split():
    keep = pre_tokenizers.Split(Regex(r"\p{%s}+" % name), "removed", invert=True)
    for _, (a, b) in keep.pre_tokenize_str(everything):
        category.update((c, name) for c in points[a:b])

runs = []
for c in points:
    name = category[c]
    # U+180E is a format character in both, but \s of PCRE2 takes it for white space.
    if name == unicodedata.category(chr(c)) and c != 0x180E:
        continue
    if runs and runs[-1][1] == c - 1 and runs[-1][2] == name:
        runs[-1][1] = c
    else:
        runs.append([c, c, name])
cells = [f"{{0x{a:X}, 0x{b:X}, {n}}}," for a, b, n in runs]
line = "   "
for cell in cells:
    if len(line) + 1 + len(cell) > 110:
        print(line)
        line = "   "
    line += " " + cell
print(line)
print(len(runs), "ranges", file=sys.stderr)
