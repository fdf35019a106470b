#!/usr/bin/env python3
"""Numbers that carry their derivation:   constexpr double e4m3_max = 448;  // check: 448 == (2 - 2**-2) * 2**8

The comment is `check: A == B` or `check: B`, up to the end of the line or a semicolon.  B is evaluated
here, in exact rational arithmetic where it can be, and A must be equal to it.  The literal that the line
assigns, if it assigns one, must be the value of a side or of a part of one, or, without A, of B.  Allowed: numbers (also 0x, 1e-6, 0x1p-3), + - * / // % ** ( ) and
log2 log sqrt ceil floor round abs min max pi."""
import ast
import math
import operator
import pathlib
import re
import sys
from fractions import Fraction

operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
             ast.USub: operator.neg, ast.UAdd: operator.pos}
functions = {"log2": math.log2, "log": math.log, "sqrt": math.sqrt, "ceil": math.ceil, "floor": math.floor,
             "round": round, "abs": abs, "min": min, "max": max}


def value(node, parts):
    """The value of an expression; those of all its parts go to `parts`."""
    parts.append(value_of(node, parts))
    return parts[-1]


def value_of(node, parts):
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(repr(node.value) if isinstance(node.value, float) else node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in operators:
        return operators[type(node.op)](value(node.left, parts), value(node.right, parts))
    if isinstance(node, ast.UnaryOp) and type(node.op) in operators:
        return operators[type(node.op)](value(node.operand, parts))
    if isinstance(node, ast.Name) and node.id == "pi":
        return math.pi
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
        return functions[node.func.id](*(value(a, parts) for a in node.args))
    raise ValueError(f"not allowed in a check: {ast.dump(node)[:60]}")


def evaluate(text, parts):
    # Hex floats become decimal fractions, digit separators go.
    text = re.sub(r"0x[0-9a-fA-F.]+p[+-]?\d+", lambda m: f"({Fraction(float.fromhex(m[0]))})", text.replace("'", ""))
    return value(ast.parse(text.strip(), mode="eval").body, parts)


def literal(code):
    """The number that `= number;` or `{number}` assigns, if the line assigns one number."""
    m = re.search(r"(?:=|\{)\s*(-?(?:0x[0-9a-fA-F.']+(?:p[+-]?\d+)?|[\d.'][\d.']*(?:e[+-]?\d+)?))[fFuUlL]*\s*[;}]", code)
    return m and m[1]


def same(a, b):
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-15)
    return a == b


root = pathlib.Path(__file__).resolve().parents[2]
errors, count = [], 0
for folder in ("include", "cuda", "bench", "examples", "reference_tests"):
    for source in sorted((root / folder).rglob("*")):
        if source.suffix not in (".hpp", ".cpp", ".cu", ".cuh"):
            continue
        for number, line in enumerate(source.read_text().splitlines(), 1):
            m = re.search(r"//+\s*check:\s*([^;]+)", line)
            if not m:
                continue
            count += 1
            where = f"{source.relative_to(root)}:{number}"
            try:
                parts = []
                sides = [evaluate(side, parts) for side in m[1].split("==")]
                literals = [evaluate(text, []) for text in [literal(line[:m.start()])] if text]
                if len(sides) < 2 and not literals:
                    errors.append(f"{where}: nothing to compare {m[1].strip()} with")
                elif not all(same(s, sides[0]) for s in sides):
                    errors.append(f"{where}: not equal: {m[1].strip()}")
                elif not all(any(same(v, p) for p in (parts if len(sides) > 1 else sides)) for v in literals):
                    errors.append(f"{where}: assigns another number than {m[1].strip()}")
            except (ValueError, SyntaxError, ArithmeticError, TypeError) as e:
                errors.append(f"{where}: cannot evaluate {m[1].strip()!r}: {e}")

print("\n".join(errors) or f"magic: {count} numbers equal their derivation")
sys.exit(bool(errors))
