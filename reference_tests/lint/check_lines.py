#!/usr/bin/env python3
"""A header is read in one sitting: at most 420 lines.  Longer means two concepts: split by concept."""
import pathlib
import sys

limit = 420
root = pathlib.Path(__file__).resolve().parents[2]
sizes = {h: len(h.read_text().splitlines()) for h in sorted((root / "include").rglob("*.hpp"))}
errors = [f"{h.relative_to(root)}: {n} lines, at most {limit}" for h, n in sizes.items() if n > limit]
print("\n".join(errors) or f"lines: {len(sizes)} headers, the longest has {max(sizes.values(), default=0)} of {limit}")
sys.exit(bool(errors))
