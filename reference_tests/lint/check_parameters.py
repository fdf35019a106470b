#!/usr/bin/env python3
"""No function of the specification takes more than 8 parameters: what belongs together travels as one object."""
import pathlib
import re
import sys

most = 8
root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
spec = ("core", "num", "op", "mhc", "attn", "moe", "model", "optim")
not_functions = {"if", "for", "while", "switch", "catch", "requires", "sizeof", "decltype", "static_assert", "alignof"}


def without_comments(text):
    """The code with comments and literals blanked: the same lines, nothing in them that is not code."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m[0])
    return re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)+'", blank, text, flags=re.S)


def closing(code, at):
    """Index of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(code)):
        depth += code[i] in "([{"
        depth -= code[i] in ")]}"
        if depth == 0:
            return i
    return len(code) - 1


def count(parameters):
    """Parameters of a list: commas that are inside no bracket, < > included."""
    if not parameters.strip():
        return 0
    depth, n = 0, 1
    for i, c in enumerate(parameters):
        if c in "([{<":
            depth += 1
        elif c in ")]}" or (c == ">" and parameters[i - 1] != "-"):
            depth -= 1
        elif c == "," and depth == 0:
            n += 1
    return n


errors, functions, longest = [], 0, 0
for header in (h for folder in spec for h in sorted((root / folder).rglob("*.hpp"))):
    code = without_comments(header.read_text())
    for m in re.finditer(r"(?:(\b\w+)|\])\(", code):
        if m[1] in not_functions:
            continue
        opening = m.end() - 1
        end = closing(code, opening)
        # A definition or a lambda: a body or an initialiser list follows; a declaration: a type stands before the name.
        after = code[end + 1:end + 200]
        body = re.match(r"\s*(?:const\b|noexcept\b|mutable\b|&&?|override\b|->\s*[\w:<>,&*\s]+?|requires[^{;]*?)*\s*(\{|:[^:])", after)
        line = code[code.rfind("\n", 0, m.start()) + 1:m.start()]
        declared = re.match(r"\s*;", after) and re.match(r"\s*(?:static |inline |constexpr |explicit |virtual )*\w[\w:<>, ]*[&*]* $", line) \
            and not re.match(r"\s*(?:return|throw|else|co_return)\b", line)
        if not body and not declared:
            continue
        functions += 1
        n = count(code[opening + 1:end])
        longest = max(longest, n)
        if n > most:
            number = code.count("\n", 0, m.start()) + 1
            errors.append(f"{header.relative_to(root.parents[1])}:{number}: {m[1] or 'a lambda'} takes {n} parameters, at most {most}")
if functions < 300:
    errors.append(f"parameters: only {functions} functions found in {root}: this script no longer sees them")
print("\n".join(errors) or f"parameters: {functions} functions, the longest list has {longest} of {most}")
sys.exit(bool(errors))
