#!/usr/bin/env python3
"""Trains reference_tests/data/text/tokenizer.json: DeepSeek's pre-tokenizer and special tokens, 4096 ids.

  python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3
  apt-get install bible-kjv                      (the King James Bible of 1611: public domain)
  venv/bin/python reference_tests/oracle/train_tokenizer.py --out reference_tests/data/text/tokenizer.json

The text: the Bible, this project's own headers at a fixed commit (MIT), and the public-domain lines below.
--size 129280 pads to the size of the real file, to measure loading.

--text FILE: the tokenizer of a text alone, without its held-out end (include/dsv4/trainer/held_out.hpp), for a model
that is trained on it:

  examples/fetch_bible.sh kjv.txt
  venv/bin/python reference_tests/oracle/train_tokenizer.py --text kjv.txt --size 2048 --placeholders 0 --out tokenizer.json"""
import argparse
import json
import pathlib
import subprocess

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

root = pathlib.Path(__file__).resolve().parents[2]
code_commit = "e8db949"

# The pre-tokenizer of DeepSeek-V3 and V4.
stages = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

first = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]  # ids 0, 1, 2
# After the vocabulary, as in the real file: some special, some not (recognised, but kept by decoding).
last = [("<think>", False), ("</think>", False), ("｜DSML｜", False), ("<｜User｜>", False), ("<｜Assistant｜>", False),
        ("<｜latest_reminder｜>", True), ("<｜action｜>", True), ("<｜query｜>", True), ("<｜authority｜>", True),
        ("<｜domain｜>", True), ("<｜title｜>", True), ("<｜read_url｜>", True), ("<｜extracted_url｜>", True),
        ("<｜fim▁hole｜>", False), ("<｜fim▁begin｜>", False), ("<｜fim▁end｜>", False)]

# First lines of works whose authors died centuries ago, so that other scripts have a few merges too.
lines = """道可道，非常道。名可名，非常名。無名天地之始；有名萬物之母。
學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？
今は昔、竹取の翁といふものありけり。野山にまじりて竹を取りつつ、よろづのことに使ひけり。
μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος οὐλομένην, ἣ μυρί᾽ Ἀχαιοῖς ἄλγε᾽ ἔθηκε
Arma virumque cano, Troiae qui primus ab oris Italiam, fato profugus, Laviniaque venit litora
Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, ché la diritta via era smarrita.
У лукоморья дуб зелёный; златая цепь на дубе том: и днём и ночью кот учёный всё ходит по цепи кругом
En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo
Habe nun, ach! Philosophie, Juristerei und Medizin, und leider auch Theologie durchaus studiert
בראשית ברא אלהים את השמים ואת הארץ
धर्मक्षेत्रे कुरुक्षेत्रे समवेता युयुत्सवः
"""


def texts():
    bible = subprocess.run(["bible", "-f", "genesis1:1-revelation22:21"], capture_output=True, check=True).stdout
    for line in bible.decode().splitlines():
        reference, _, verse = line.partition(" ")
        yield verse + "\n"
        if len(verse) % 8 == 0:  # some with their reference: digits and colons
            yield reference + " " + verse + "\n"
    names = subprocess.run(["git", "-C", root, "ls-tree", "-r", "--name-only", code_commit, "include"],
                           capture_output=True, check=True, text=True).stdout.split()
    for name in names:
        yield subprocess.run(["git", "-C", root, "show", f"{code_commit}:{name}"], capture_output=True, check=True,
                             text=True).stdout
    for _ in range(8):
        yield lines
    yield "".join(f"{i} {i * i} {i / 7:.3f}\n" for i in range(2000))


def training_part(path, held_out):
    """Bytes before the held-out end, as trainer::split_text cuts them, in pieces that end with an empty line."""
    text = path.read_bytes()
    cut = len(text) - int(held_out * len(text))
    if 0 < cut < len(text):
        line_break = text.find(b"\n", cut - 1)
        cut = len(text) if line_break < 0 else line_break + 1
    pieces = text[:cut].decode().split("\n\n")
    return [piece + "\n\n" for piece in pieces[:-1]] + pieces[-1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--held-out", type=float, default=0.05)
    parser.add_argument("--placeholders", type=int, default=8)
    parser.add_argument("--merges-as", choices=["text", "pairs"], default="text")
    o = parser.parse_args()

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "isolated") for s in stages]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=o.size - len(last) - o.placeholders, special_tokens=first,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(training_part(o.text, o.held_out) if o.text else texts(), trainer)

    file = json.loads(tokenizer.to_str())
    model = file["model"]
    size = o.size - len(last) - o.placeholders
    n = 0
    while len(model["vocab"]) < size:  # only for sizes beyond what the text can fill
        left, right = f"q{n % 700}", f"z{n // 700}"
        merge_chain(model, left + right)
        n += 1
    added = [(t, True) for t in first] + last
    added += [(f"<｜place▁holder▁no▁{i}｜>", True) for i in range(o.placeholders)]
    file["added_tokens"] = [
        {"id": i if i < len(first) else size + i - len(first), "content": t, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": not special, "special": special} for i, (t, special) in enumerate(added)]
    model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if o.merges_as == "pairs":
        model["merges"] = [m.split(" ") for m in model["merges"]]
    text = json.dumps(file, ensure_ascii=False, separators=(",", ":"))
    Tokenizer.from_str(text)  # reads back
    o.out.parent.mkdir(parents=True, exist_ok=True)
    o.out.write_text(text + "\n")
    print(f"{o.out}: {len(model['vocab'])} tokens, {len(model['merges'])} merges, {len(added)} added, {len(text)} bytes")


def merge_chain(model, word):
    """Adds `word` by merges from its left, stopping when the vocabulary has it."""
    vocab, done = model["vocab"], word[0]
    for c in word[1:]:
        if done + c not in vocab:
            vocab[done + c] = len(vocab)
            model["merges"].append([done, c])
        done += c


if __name__ == "__main__":
    main()
