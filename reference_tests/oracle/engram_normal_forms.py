#!/usr/bin/env python3
"""Writes include/dsv4/engram/normal_forms.hpp from normalize.tsv: every code point that Engram's normaliser changes, one a
line: the code point, a tab, what it becomes (hexadecimal).  Usage: engram_normal_forms.py normalize.tsv > normal_forms.hpp

Numbers are written in digits of 5 bits, least first, as letters of `alphabet`; the upper half says that more follow.
An entry is
  gap       from the end of the entry before to its first code point
  length    of the run, times two, plus one if only every second code point is in it
  size      code points that each becomes
  targets   of the first one; a run of size 1 goes on counting, as its code points do
each target as its difference to the last one written, folded: 0 -1 1 -2 2 ... as 0 1 2 3 4."""
import sys

alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"


def number(n):
    out = ""
    while n >= 32:
        out += alphabet[32 + n % 32]
        n //= 32
    return out + alphabet[n]


def folded(n):
    return number(2 * n if n >= 0 else -2 * n - 1)


table = {}
for line in open(sys.argv[1]):
    code, target = line.rstrip("\n").split("\t")
    table[int(code, 16)] = [int(x, 16) for x in target.split()]
# White space is stripped from the ends of a text, and U+E000 stands for a blank inside the chain: what becomes of them alone
# says nothing about them in a text.
for code in [*range(9, 14), 0x85, 0x1680, 0x2028, 0x2029, 0xE000]:
    table.pop(code, None)


def goes_on(code, first, step, n):
    a, b = table[first], table.get(code + step)
    return b is not None and len(a) == len(b) and (not a or len(a) == 1 and b[0] - a[0] == step * n)


text, end, last, left = "", 0, 0, sorted(table)
done = set()
for code in left:
    if code in done:
        continue
    best = (1, 1)
    for step in (1, 2):
        n = 1
        # A step of 2 must not jump over code points that change in another way: entries are in order.
        while goes_on(code + (n - 1) * step, code, step, n) and (step == 1 or code + (n - 1) * step + 1 not in table):
            n += 1
        best = max(best, (n, -step))
    n, step = best[0], abs(best[1])
    done.update(code + k * step for k in range(n))
    text += number(code - end) + number(2 * n + step - 1) + number(len(table[code]))
    for target in table[code]:
        text += folded(target - last)
        last = target
    end = code + (n - 1) * step + 1

width = 100
lines = "\n".join(f'    "{text[i:i + width]}"' for i in range(0, len(text), width))
print(f"""// SPDX-License-Identifier: MIT
#pragma once
/// What each character becomes in Engram's vocabulary, as the `tokenizers` package knew them when V4.1 was made: compatibility
/// forms opened (of an old Unicode version), every combining mark dropped (of the same version), lower case (of a newer one).
/// source   Released with the code of DeepSeek-V4.1
/// axes     none
/// oracle   golden/engram/normalize.tsv, from which reference_tests/oracle/engram_normal_forms.py wrote this file
/// Hangul syllables are not here: they are opened by rule, in vocabulary.hpp.
#include <string_view>

namespace dsv4::engram {{

/// {len(table)} characters; how they are written is explained in that script, and read by vocabulary.hpp.
inline constexpr std::string_view normal_forms =
{lines};

}}  // namespace dsv4::engram""")
