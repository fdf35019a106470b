#!/usr/bin/env python3
"""Every concept header opens with the same block: what it is, @paper{...}, axes, oracle, deviates."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
fields = {"@paper": r"@paper\{[^}]+\}", "axes": r"^@?axes\s+\S", "oracle": r"^@?oracle[\s{]+\S",
          "deviates": r"^@?deviates[\s{]+\S"}
errors, count = [], 0
for folder in ("num", "op", "mhc", "attn", "moe", "model", "optim", "train", "post"):
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
        missing = [name for name, pattern in fields.items() if not re.search(pattern, text, re.M)]
        if missing:
            errors.append(f"{where}: opening block has no {', '.join(missing)}")

print("\n".join(errors) or f"doc_block: {count} headers open with concept, @paper, axes, oracle, deviates")
sys.exit(bool(errors))
