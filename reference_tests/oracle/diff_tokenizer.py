#!/usr/bin/env python3
"""Holds `dsv4 tokenize` against PyPI `tokenizers`: random and hostile texts, ids and decoded text, no difference.

  python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3
  venv/bin/python reference_tests/oracle/diff_tokenizer.py --dsv4 build/dsv4 --tokenizer reference_tests/data/text/tokenizer.json
  venv/bin/python reference_tests/oracle/diff_tokenizer.py --pre-tokenizers --dsv4 build/dsv4     made-up pre-tokenizers
  venv/bin/python reference_tests/oracle/diff_tokenizer.py --golden reference_tests/data/text/cases.jsonl.zst ...

What is expected of a text of any bytes: bytes.decode("utf-8", "replace"), then `tokenizers`.  For --special
as-text: the same file without its added tokens.  For decoding: of those ids, and of random ones."""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

everywhere = [(0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF),
              (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF),
              (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2100, 0x214F), (0x2190, 0x21FF), (0x2460, 0x24FF), (0x3000, 0x303F),
              (0x3040, 0x309F), (0x30A0, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x9FA0, 0x9FFF), (0xAC00, 0xD7A3),
              (0xE000, 0xF8FF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x10000, 0x107FF), (0x10800, 0x10FFF),
              (0x11000, 0x11FFF), (0x12000, 0x14FFF), (0x16000, 0x16FFF), (0x1B000, 0x1BFFF), (0x1CC00, 0x1CFFF),
              (0x1D000, 0x1DFFF), (0x1E000, 0x1EFFF), (0x1F000, 0x1FBFF), (0x20000, 0x2FFFF), (0x30000, 0x3FFFF),
              (0x40000, 0xDFFFF), (0xE0000, 0xE0FFF), (0xF0000, 0x10FFFF)]
spaces = " \t\n\r\v\f\x1c\x1f\x85\u00a0\u1680\u180e\u2000\u2009\u200a\u200b\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
digits = "0123456789٠٣९๗０９²¼Ⅷ〇㊿\U0001d7ce\U0001fbf0\U00010d40\U000116d1"
words = ("the and LORD God In beginning begat unto template tensor std::int64_t 'll 's don't I've a.b #include <vector> "
         "naïve café Straße über été ǅ ﬃ ß İ ı ſ K Å 道可道非常道 かなカナ 한국어 Привет мир שלום नमस्ते ไทย e\u0301 "
         "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u0bb5\u0ba3\u0b95\u0bcd 3.14159 1,000,000 "
         "0x7fff 10.10.2026 x=y+z; {}[]()<>!? ... --- ___ \\n $^*| ~~ `` \"q\"").split(" ")
broken = [b"\xff", b"\xfe", b"\x80", b"\xbf\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xe0\x80\x80", b"\xe2\x82", b"\xe2\x28\xa1",
          b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\x9f", b"\xef\xbf", b"\xef\xbf\xbd", b"\xf0\x90", b"\xf0\x9f\x98", b"\xf0\x8f\xbf\xbf",
          b"\xf4\x8f\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80", b"\xf8\x88\x80\x80\x80", b"\xe6\x97\xa5\xe6", b"\xf0\x9f\xf0\x9f\x98\x80"]


def character(r):
    while True:
        low, high = r.choice(everywhere) if r.random() < 0.97 else (0, 0x10FFFF)
        c = r.randint(low, high)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def special_like(r, tokens):
    """An added token, or nearly one."""
    t = r.choice(tokens)
    how = r.randrange(7)
    if how == 0:
        return t[:r.randint(1, len(t))]
    if how == 1:
        return t[r.randrange(len(t)):]
    if how == 2:
        return t.replace("｜", "|").replace("▁", "_")
    if how == 3:
        at = r.randrange(len(t))
        return t[:at] + character(r) + t[at:]
    if how == 4:
        return t.upper() if t.upper() != t else t + t
    return t


def text(r, tokens):
    """The bytes of one text."""
    kind = r.randrange(12)
    if kind == 0:  # one run
        unit = r.choice([character(r), r.choice(spaces), r.choice(digits), r.choice(words), "a", "\n", " \n", "1", "ab"])
        return (unit * r.randint(1, r.choice([4, 40, 400, 4000]) // max(1, len(unit)) + 1)).encode()
    if kind == 1:  # one block of characters
        low, high = r.choice(everywhere)
        return "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, 60))).encode("utf-8", "surrogatepass")
    if kind == 2:  # any bytes
        return bytes(r.randrange(256) for _ in range(r.randint(0, 50)))
    if kind == 3:  # white space
        return "".join(r.choice(spaces + "\n\n\r  a1.") for _ in range(r.randint(1, 30))).encode()
    parts = []
    for _ in range(r.randint(1, r.choice([3, 12, 50]))):
        what = r.random()
        if what < 0.45:
            parts.append(r.choice(words).encode())
        elif what < 0.60:
            parts.append(character(r).encode())
        elif what < 0.70:
            parts.append(r.choice(spaces).encode() * r.choice([1, 1, 2, 3]))
        elif what < 0.78:
            parts.append("".join(r.choice(digits) for _ in range(r.randint(1, 8))).encode())
        elif what < 0.90 and kind < 9:
            parts.append(special_like(r, tokens).encode())
        elif kind < 7:
            parts.append(r.choice(broken))
        if r.random() < 0.5:
            parts.append(b" ")
    return b"".join(parts)


class ours:
    """dsv4 tokenize --lines."""

    def __init__(self, program, tokenizer):
        self.command = [program, "tokenize", "--tokenizer", str(tokenizer), "--lines"]

    def ask(self, requests):
        lines = "".join(json.dumps(q) + "\n" for q in requests)
        run = subprocess.run(self.command, input=lines.encode(), capture_output=True)
        if run.returncode != 0:
            sys.exit(f"{' '.join(self.command)}: exit code {run.returncode}\n{run.stderr.decode()}")
        answers = [json.loads(line) for line in run.stdout.decode().split("\n") if line]
        assert len(answers) == len(requests), (len(answers), len(requests))
        return answers


def plain(tokenizer_json):
    """The tokenizer without its added tokens: how a text is read that must not make any."""
    without = json.loads(tokenizer_json)
    without["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(without))


def cases(tokenizer_json, texts, r):
    """Requests and what `tokenizers` answers."""
    theirs = {"allowed": Tokenizer.from_str(tokenizer_json), "as-text": plain(tokenizer_json)}
    # Where merges make an added token, as-text takes them back, and `tokenizers` has nothing like it.
    file = json.loads(tokenizer_json)
    made = {"".join(m) if isinstance(m, list) else m.replace(" ", "") for m in file["model"]["merges"]}
    if any(t["content"] in made for t in file["added_tokens"]):
        del theirs["as-text"]
    out, all_ids = [], [t for t in theirs["allowed"].get_vocab().values()]
    for t in texts:
        as_python = t.decode("utf-8", "replace")
        for special, tokenizer in theirs.items():
            ids = tokenizer.encode(as_python, add_special_tokens=False).ids
            out.append(({"hex": t.hex(), "special": special}, {"ids": ids}))
        some = [r.choice(all_ids) for _ in range(r.randint(0, 12))]
        for ids in (out[-len(theirs)][1]["ids"], some):
            for skip in (False, True):
                decoded = theirs["allowed"].decode(ids, skip_special_tokens=skip)
                out.append(({"ids": ids, "skip_special": skip}, {"text": decoded}))
    return out


def compare(program, path, texts, r):
    expected = cases(path.read_text(), texts, r)
    found = ours(program, path).ask([q for q, _ in expected])
    wrong = [(q, e, f) for (q, e), f in zip(expected, found) if e != f]
    for q, e, f in wrong[:5]:
        asked = f"{q} {bytes.fromhex(q['hex'])}" if "hex" in q else q
        print(f"DIFFERENCE {asked!s:.600}\n  expected {e!s:.300}\n  found    {f!s:.300}")
    return len(expected), len(wrong)


flags = [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True},
         {"normalized": False}, {"special": True, "normalized": False}, {"special": True, "rstrip": True}]
patterns = [r"\s+", r"\p{N}", r"\p{L}+", r" ?\p{L}+", r"\S", r"x*", r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", r"^.", r".$",
            r"(?<=a)b|(?<!a)c", r"[\x{4E00}-\u9FA5]+", r"a|", r"(?=[A-Z])", r"\p{Lu}?\p{Ll}+?", r"[^\p{P}\s]++|\s{2,}", r"\P{L}+", r"[\S\n]+",
            r"(?>a+)b|\d{2}"]


def made_up(source, r):
    """A tokenizer.json with another pre-tokenizer and other flags."""
    file = json.loads(source)
    stages = []
    for _ in range(r.randint(0, 3)):
        pattern = {"Regex": r.choice(patterns)} if r.random() < 0.85 else {"String": r.choice([" ", "a", ".", "", "道", "th", "\n"])}
        stages.append({"type": "Split", "pattern": pattern, "invert": r.random() < 0.4, "behavior": r.choice(
            ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"])})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": r.random() < 0.3}
    file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": stages + [byte_level]}
    file["model"]["ignore_merges"] = r.random() < 0.3
    for content in ["the", " the", "\n", "a b", "LORD", "道可", "1", "x", "  ", "_", "th", "𑵀"]:
        id = max(t["id"] for t in file["added_tokens"]) + 1
        id = file["model"]["vocab"].get(content, id)
        flag = r.choice(flags if len(content) > 1 else flags[:6])  # a special token of one byte is refused
        if r.random() < 0.4:
            file["added_tokens"].append({"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                         "normalized": True, "special": False, **flag})
    if r.random() < 0.5:
        file["model"]["merges"] = [m.split(" ") for m in file["model"]["merges"]]
    return json.dumps(file, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--dsv4", default=str(root / "build/dsv4"))
    parser.add_argument("--tokenizer", type=pathlib.Path, default=root / "reference_tests/data/text/tokenizer.json")
    parser.add_argument("--texts", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pre-tokenizers", type=int, metavar="N", help="N made-up files, --texts texts each")
    parser.add_argument("--golden", type=pathlib.Path, help="write --texts cases as JSON lines instead, .zst")
    o = parser.parse_args()
    r = random.Random(o.seed)
    source = o.tokenizer.read_text()
    tokens = [t["content"] for t in json.loads(source)["added_tokens"]]

    if o.golden:
        lines = "".join(json.dumps([q, e], separators=(",", ":")) + "\n" for q, e in cases(source, [text(r, tokens) for _ in range(o.texts)], r))
        subprocess.run(["zstd", "-19", "-q", "-f", "-o", o.golden], input=lines.encode(), check=True)
        print(f"{o.golden}: {lines.count(chr(10))} cases, {o.golden.stat().st_size} bytes")
        return
    total = wrong = 0
    if o.pre_tokenizers:
        for i in range(o.pre_tokenizers):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "tokenizer.json"
                path.write_text(made_up(source, r))
                n, bad = compare(o.dsv4, path, [text(r, tokens + ["the", " the ", "LORD", "a b"]) for _ in range(o.texts)], r)
                if bad:
                    kept = pathlib.Path(tempfile.gettempdir()) / f"made_up_{o.seed}_{i}.json"
                    kept.write_text(path.read_text())
                    print(f"  with {kept}: {json.dumps(json.loads(path.read_text())['pre_tokenizer'])}")
            total, wrong = total + n, wrong + bad
    else:
        total, wrong = compare(o.dsv4, o.tokenizer, [text(r, tokens) for _ in range(o.texts)], r)
    print(f"{total} comparisons, {wrong} differences")
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
