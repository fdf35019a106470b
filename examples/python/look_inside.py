#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a model looks at, and who answers: the compressed entries and window rows that a CSA layer attends to, and the experts that
each token of a sentence is sent to.  Draws one SVG; needs nothing but dsv4 and NumPy.

  python look_inside.py --out inside.svg
  python look_inside.py --model DeepSeek-V4-Flash --layer 4 --text 'A sentence of your own' --out inside.svg
"""
from __future__ import annotations

import argparse
import html
import pathlib

import numpy

import dsv4

SENTENCE = ("And God said, Let there be light: and there was light. And God saw the light, that it was good: "
            "and God divided the light from the darkness. And God called the light Day, and the darkness he called Night.")
CELL = 11  # pixels


def grid(values: numpy.typing.NDArray[numpy.float32], left: int, top: int, colour: str) -> list[str]:
    """A square for each value above 0, as dark as it is large."""
    largest = float(values.max()) or 1.0
    return [f'<rect x="{left + x * CELL}" y="{top + y * CELL}" width="{CELL - 1}" height="{CELL - 1}" fill="{colour}" '
            f'opacity="{0.15 + 0.85 * values[y, x] / largest:.2f}"/>' for y, x in zip(*numpy.nonzero(values > 0))]


def label(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{html.escape(text)}</text>'


def draw(pieces: list[str], window: numpy.typing.NDArray[numpy.float32], entries: numpy.typing.NDArray[numpy.float32],
         experts: numpy.typing.NDArray[numpy.float32], layer: int, ratio: int) -> str:
    margin, top, gap = 130, 70, 40
    columns = [window.shape[1], entries.shape[1], experts.shape[1]]
    lefts = [margin, margin + columns[0] * CELL + gap, margin + (columns[0] + columns[1]) * CELL + 2 * gap]
    width, height = lefts[2] + columns[2] * CELL + gap, top + len(pieces) * CELL + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="monospace" font-size="10">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           label(margin, 20, f"layer {layer}: what each token (row) sees, and who answers", 'font-size="13"')]
    titles = ["tokens in the window", f"entries of {ratio} tokens", "experts, by weight"]
    for left, title, values, colour in zip(lefts, titles, (window, entries, experts), ("#4477aa", "#aa3377", "#228833")):
        out.append(label(left, top - 30, title))
        out += [label(left + i * CELL, top - 8, str(i)) for i in range(0, values.shape[1], 4)]
        out += grid(values, left, top, colour)
    out += [label(margin - 6, top + (y + 0.8) * CELL, piece, 'text-anchor="end"') for y, piece in enumerate(pieces)]
    return "\n".join([*out, "</svg>\n"])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=pathlib.Path, default=dsv4.embedded_model())
    arguments.add_argument("--text", default=SENTENCE)
    arguments.add_argument("--layer", type=int, help="a CSA layer; default: the first")
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    options = arguments.parse_args()

    checkpoint, tokenizer = dsv4.Checkpoint.open(options.model), dsv4.Tokenizer.load(options.model)
    ratios = checkpoint.config["compress_ratios"]
    layer = ratios.index(4) if options.layer is None else options.layer
    ids = ([] if tokenizer.bos is None else [tokenizer.bos]) + tokenizer.encode(options.text)
    n, ratio = len(ids), max(1, ratios[layer])

    model = dsv4.Model(checkpoint, tokens_per_pass=n)
    seen = model.record(model.new_sequence(n), ids, rf"^layers\.{layer}\.(attn\.topk_idxs|ffn\.gate\.(indices|weights))$")

    # A slot below n is a position, n + e is compressed entry e, -1 is empty.
    slots = seen[f"layers.{layer}.attn.topk_idxs"]
    window = numpy.zeros((n, n), numpy.float32)
    entries = numpy.zeros((n, max(1, n // ratio)), numpy.float32)
    for token, row in enumerate(slots):
        window[token, row[(row >= 0) & (row < n)]] = 1
        entries[token, row[row >= n] - n] = 1
    experts = numpy.zeros((n, checkpoint.config["n_routed_experts"]), numpy.float32)
    numpy.put_along_axis(experts, seen[f"layers.{layer}.ffn.gate.indices"].astype(numpy.int64),
                         seen.float32(f"layers.{layer}.ffn.gate.weights"), axis=1)

    pieces = [tokenizer.decode([i]).strip() or "·" for i in ids]
    options.out.write_text(draw(pieces, window, entries, experts, layer, ratio), encoding="utf-8")
    busiest = int(experts.sum(axis=0).argmax())
    print(f"{options.out}: {n} tokens, {int(entries.sum())} entries chosen, expert {busiest} the busiest of layer {layer}")


if __name__ == "__main__":
    main()
