#!/usr/bin/env python3
"""Every header of a concept opens with the same block: what it is, then @paper{...}, axes, oracle, deviates.

A header without a paper behind it says what it is and leaves out what it has nothing to say for: an empty field
(`@paper{none}`, `deviates none` without a paper) is refused in the whole tree.
"""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
fields = {"@paper": r"@paper\{[^}]+\}", "axes": r"^@?axes\s+\S", "oracle": r"^@?oracle[\s{]+\S",
          "deviates": r"^@?deviates[\s{]+\S"}
errors, count = [], 0
for folder in ("num", "op", "mhc", "attn", "moe", "engram", "dspark", "model", "optim", "train", "post"):
    for header in sorted((root / folder).rglob("*.hpp")):
        lines = header.read_text().splitlines()
        if all(re.match(r'//|#pragma once|#include|\s*$', line) for line in lines):
            continue  # a second name for another header
        count += 1
        where = f"include/dsv4/{header.relative_to(root)}"
        if lines[:2] != ["// SPDX-License-Identifier: MIT", "#pragma once"]:
            errors.append(f"{where}: does not begin with the SPDX line and #pragma once")
        # The block is the run of /// lines before the first include.
        block = []
        for line in lines[2:]:
            if line.startswith("///"):
                block.append(line[3:].strip())
            elif block or line.startswith("#"):
                break
        text = "\n".join(block)
        if not text:
            errors.append(f"{where}: has no opening block that says what it is")
        missing = [name for name, pattern in fields.items() if not re.search(pattern, text, re.M)]
        if missing and "@paper" not in missing:
            errors.append(f"{where}: opening block has no {', '.join(missing)}")
for header in sorted(root.rglob("*.hpp")):
    text = header.read_text()
    if "@paper{none" in text or ("@paper{" not in text and re.search(r"^///\s*@?deviates none", text, re.M)):
        errors.append(f"include/dsv4/{header.relative_to(root)}: a field that says nothing (no paper, no deviation): leave it out")

print("\n".join(errors) or f"doc_block: {count} headers open with what they are, and with all of paper, axes, oracle, deviates where there is a paper")
sys.exit(bool(errors))
