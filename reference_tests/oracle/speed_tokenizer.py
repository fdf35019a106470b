#!/usr/bin/env python3
"""Encoding 10 MB on one thread: this library and PyPI `tokenizers`, in one run, as a ratio.

  venv/bin/python reference_tests/oracle/speed_tokenizer.py --bench build/bench/tokenizer
  ... --tokenizer FILE --text FILE

Only the calls of encode count, the fastest of three rounds: documents of about 4 KB, and everything as one
string.  The default text is the King James Bible (the command `bible`) and the sources of Python's standard
library, up to 10 MB.  `encode_batch_fast` is their call without offsets."""
import os

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import argparse
import json
import pathlib
import subprocess
import sysconfig
import tempfile
import time

from tokenizers import Tokenizer

root = pathlib.Path(__file__).resolve().parents[2]
document_bytes = 4096
rounds = 3


def default_text(size):
    bible = subprocess.run(["bible", "-f", "genesis1:1-revelation22:21"], capture_output=True, check=True).stdout
    parts, have = [bible], len(bible)
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if have >= size:
            break
        if "site-packages" in path.parts:
            continue
        source = path.read_bytes().decode("utf-8", "replace").encode()
        parts.append(source)
        have += len(source)
    return b"".join(parts)[:size].decode("utf-8", "ignore").encode()


def documents(text):
    out, at = [], 0
    while at < len(text):
        line = text.find(b"\n", at + document_bytes)
        end = len(text) if line < 0 else line + 1
        out.append(text[at:end].decode())
        at = end
    return out


def fastest(work):
    best = None
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        best = seconds if best is None else min(best, seconds)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default=str(root / "build/bench/tokenizer"))
    parser.add_argument("--tokenizer", default=str(root / "reference_tests/data/text/tokenizer.json"))
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=10_000_000)
    o = parser.parse_args()
    text = o.text.read_bytes().decode("utf-8", "replace").encode() if o.text else default_text(o.size)

    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        command = [o.bench, o.tokenizer, file.name, str(document_bytes), str(rounds)]
        ours = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    theirs = Tokenizer.from_file(o.tokenizer)
    load = fastest(lambda: Tokenizer.from_file(o.tokenizer))
    parts, whole = documents(text), text.decode()
    assert len(parts) == ours["documents"]
    tokens = sum(len(theirs.encode(p, add_special_tokens=False).ids) for p in parts)
    print(f"{len(text)} bytes, {len(parts)} documents, {tokens} tokens (ours {ours['document_tokens']})")
    assert tokens == ours["document_tokens"]
    rows = [("documents, encode", ours["documents_s"], fastest(lambda: [theirs.encode(p, add_special_tokens=False) for p in parts])),
            ("documents, encode_batch_fast", ours["documents_s"],
             fastest(lambda: theirs.encode_batch_fast(parts, add_special_tokens=False))),
            ("one string, encode", ours["whole_s"], fastest(lambda: theirs.encode(whole, add_special_tokens=False))),
            ("load", ours["load_s"], load)]
    for name, a, b in rows:
        rate = "" if name == "load" else f"  {len(text) / a / 1e6:6.1f} MB/s and {len(text) / b / 1e6:6.1f} MB/s"
        print(f"{name:30} dsv4 {a:7.3f} s   tokenizers {b:7.3f} s   ratio {b / a:6.2f}{rate}")


if __name__ == "__main__":
    main()
