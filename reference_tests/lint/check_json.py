#!/usr/bin/env python3
"""Every JSON text is read by io/json_text.hpp, which refuses what the JSON library would silently not read (NUL), and
bounds the nesting.  Other headers and programs may build and print documents, but not parse them."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
home = root / "include/dsv4/io/json_text.hpp"
parses = re.compile(r"json::(?:parse|accept|sax_parse|from_\w+)\(")
sources = sorted(p for folder in ("include", "examples") for p in (root / folder).rglob("*.[hc]pp") if p != home)
errors = [f"{p.relative_to(root)}:{n}: reads JSON by itself; io/json_text.hpp does it"
          for p in sources for n, line in enumerate(p.read_text().splitlines(), 1) if parses.search(line)]
if not parses.search(home.read_text().replace("Json::", "json::")):
    errors.append("lint.json looks for a spelling that io/json_text.hpp does not use")
print("\n".join(errors) or f"json: {len(sources)} files leave the reading to {home.relative_to(root)}")
sys.exit(bool(errors))
