#!/usr/bin/env python3
"""Text in, text out: dsv4 generate --prompt and dsv4 chat, in a pipe and on a terminal.  Standard library only.

  check_chat.py --dsv4 build/dsv4 [-v] [-k PATTERN]"""
import argparse
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

repo = pathlib.Path(__file__).resolve().parents[2]
data = repo / "reference_tests/data"
dsv4 = "build/dsv4"


def run(*arguments, code=0, stdin=""):
    done = subprocess.run([dsv4, *map(str, arguments)], capture_output=True, input=stdin.encode())
    if done.returncode != code:
        raise AssertionError(f"dsv4 {' '.join(map(str, arguments))}: exit code {done.returncode}, expected {code}\n"
                             f"{done.stdout}{done.stderr}")
    done.out, done.err = (b.decode("utf-8") for b in (done.stdout, done.stderr))  # strict: output is always UTF-8
    return done


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.model = cls.tmp / "model"
        run("golden", "weights", data / "bundles/tiny.v4gold", "--tokenizer", data / "text/tokenizer.json", "--out", cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()


class Prompt(Case):
    def generate(self, *arguments, **more):
        return run("generate", "--model", self.model, "--max-new", 24, "--temperature", 1, *arguments, **more)

    def test_text_streams(self):
        text = self.generate("--prompt", "In the beginning", "--seed", 3)
        self.assertEqual(text.out, self.generate("--prompt", "In the beginning", "--seed", 3).out)
        self.assertNotEqual(text.out, self.generate("--prompt", "In the beginning", "--seed", 4).out)
        self.assertIn("random weights", text.err)
        self.assertRegex(text.err, r"prefill \d+ tokens in .* decode 23 tokens in ")
        # The same as one JSON line, as ids, and from standard input.
        told = json.loads(self.generate("--prompt", "In the beginning", "--seed", 3, "--json").out)
        self.assertEqual(told["text"] + "\n", text.out)
        ids = json.loads(run("tokenize", "--model", self.model, "In the beginning").out)["ids"]
        self.assertEqual(told["prompt_tokens"], len(ids) + 1)  # and the begin-of-text token
        by_ids = json.loads(self.generate("--ids", json.dumps([0, *ids]), "--seed", 3).out)
        self.assertEqual(by_ids["tokens"], told["tokens"])
        self.assertEqual(self.generate("--prompt", "-", "--seed", 3, stdin="In the beginning").out, text.out)
        self.assertEqual(self.generate("--prompt", "In the beginning", "--seed", 3, "--exec", "ref").out, text.out)

    def test_stop_texts(self):
        common = ("--prompt", "In the beginning", "--seed", 3)
        whole = json.loads(self.generate(*common, "--json").out)
        text = whole["text"]
        # Of one token, across tokens, the first of several, one that never comes, and its beginning at the very end.
        for stops in ([text[5:6]], [text[4:12]], [text[20:23], text[8:10]], ["never\u2603"], [text[-3:] + "\u2603"], [text[:1]]):
            arguments = [a for stop in stops for a in ("--stop", stop)]
            at = min((text.find(stop) for stop in stops if stop in text), default=len(text))
            told = json.loads(self.generate(*common, "--json", *arguments).out)
            self.assertEqual(told["text"], text[:at], stops)
            self.assertEqual(told["stop"], "text" if at < len(text) else whole["stop"], stops)
            self.assertEqual(told["tokens"], whole["tokens"][:len(told["tokens"])])
            self.assertEqual(self.generate(*common, *arguments).out, text[:at] + "\n", stops)
            self.assertEqual(json.loads(self.generate(*common, "--json", "--draft", 0, *arguments).out)["text"], text[:at])
        self.assertIn("empty text", self.generate(*common, "--stop", "", code=2).err)
        run("generate", "--model", self.model, "--ids", "1,2", "--stop", "x", code=2)

    def test_special_tokens_are_meant_only_if_said(self):
        count = lambda *a: json.loads(self.generate("--json", *a).out)["prompt_tokens"]
        self.assertEqual(count("--prompt", "<｜User｜>", "--special"), 2)
        self.assertGreater(count("--prompt", "<｜User｜>"), 4)
        self.assertEqual(count("--prompt", "<｜begin▁of▁sentence｜>a", "--special"), 2)  # not twice

    def test_usage(self):
        run("generate", "--model", self.model, code=2)
        run("generate", "--model", self.model, "--ids", "1", "--prompt", "a", code=2)
        run("generate", "--model", self.model, "--ids", "1", "--special", code=2)
        self.assertIn("none.json", self.generate("--prompt", "a", "--tokenizer", self.tmp / "none.json", code=3).err)
        # Without --max-new: what there is room for.
        run("generate", "--model", self.model, "--prompt", "a", "--temperature", 1)


class Chat(Case):
    def chat(self, lines, *arguments, code=0):
        return run("chat", "--model", self.model, "--max-new", 20, *arguments, code=code, stdin="\n".join(lines) + "\n")

    def test_pipe(self):
        one = self.chat(["Who made the earth?"], "--think", "off")
        two = self.chat(["Who made the earth?", "And the sea?"], "--think", "off")
        self.assertTrue(two.out.startswith(one.out))
        self.assertGreater(len(two.out), len(one.out))
        self.assertEqual(two.out, self.chat(["Who made the earth?", "And the sea?"], "--think", "off", "--threads", 1).out)
        self.assertEqual(two.err, "")
        self.assertNotIn("\x1b", two.out)
        self.assertNotEqual(one.out, self.chat(["Who made the earth?"], "--think", "off", "--seed", 9).out)
        self.assertNotEqual(one.out, self.chat(["Who made the earth?"], "--think", "high").out)
        self.assertNotEqual(one.out, self.chat(["Who made the earth?"], "--think", "off", "--system", "Be brief.").out)

    def test_only_what_is_new_is_read(self):
        told = self.chat(["Who made the earth?", "And the sea?", "And the sky?"], "--think", "off", "--stats")
        read = [tuple(map(int, m)) for m in re.findall(r"read (\d+) of (\d+) tokens", told.err)]
        self.assertEqual(len(read), 3)
        self.assertEqual(read[0][0], read[0][1])
        for new, all_of_them in read[1:]:
            self.assertLess(new, all_of_them / 2)

    def test_drafts_change_no_greedy_word(self):
        lines = ["Who made the earth?", "And the sea?"]
        plain = self.chat(lines, "--temperature", 0)
        drafted = self.chat(lines, "--temperature", 0, "--draft", 2, "--stats")
        self.assertEqual(plain.out, drafted.out)
        self.assertRegex(drafted.err, r"\d+ of \d+ drafts accepted")

    def test_save_and_load(self):
        file = self.tmp / "conversation.dsv4"
        for more in (("--think", "off"), ("--think", "off", "--draft", 1)):
            whole = self.chat(["Who made the earth?", "And the sea?"], *more)
            first = self.chat(["Who made the earth?", f"/save {file}"], *more)
            rest = self.chat(["/stats", "And the sea?"], "--load", file, *more)
            said = first.out.replace(f"{file}: 2 messages", "")
            self.assertEqual(said[:said.rindex(", ")] + rest.out, whole.out)
            self.assertNotEqual(*re.search(r"read (\d+) of (\d+)", rest.err).groups())
        self.assertIn("Who made the earth?", self.chat(["/history"], "--load", file).out)

        broken = bytearray(file.read_bytes())
        broken[len(broken) // 2] ^= 1
        file.write_bytes(broken)
        self.assertIn(str(file), self.chat([], "--load", file, code=3).err)

    def test_commands_and_errors(self):
        self.assertIn("/think high", self.chat(["/help"]).out)
        self.assertIn("no command /nonsense", self.chat(["/nonsense"]).err)
        self.assertEqual(self.chat(["/quit", "never asked"]).out, "")
        a = self.chat(["Who?", "/reset", "Who?"], "--temperature", 0).out
        self.assertEqual(a[:len(a) // 2], a[len(a) // 2:])
        self.assertIn("/none", self.chat(["/load /none"], code=3).err)
        self.assertIn("context", self.chat(["word " * 300], "--context", 100, code=1).err)
        self.assertIn("context", self.chat(["a"], "--context", 10**9, code=2).err)
        self.chat(["one \\", "question"])
        run("chat", "--model", self.tmp, code=3)


class Terminal(Case):
    """dsv4 chat with a terminal around it."""

    def setUp(self):
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.execv(dsv4, [dsv4, "chat", "--model", str(self.model), "--think", "high", "--max-new", "1000", "--context", "1000",
                             "--exec", "ref"])  # slow enough to be interrupted
        self.seen = ""

    def tearDown(self):
        os.close(self.fd)
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)

    def wait_for(self, pattern, seconds=60):
        end = time.time() + seconds
        while not re.search(pattern, self.seen):
            if time.time() > end or not select.select([self.fd], [], [], max(0, end - time.time()))[0]:
                self.fail(f"no {pattern!r} within {seconds} s in {self.seen[-400:]!r}")
            self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
        self.seen = self.seen[re.search(pattern, self.seen).end():]

    def write(self, text):
        os.write(self.fd, text.encode())

    def test_a_conversation(self):
        self.wait_for(r"context 1000 tokens.*\n")
        self.wait_for(r"Note: random weights.*\n> ")
        # Ctrl-C at the prompt is no end …
        self.write("\x03")
        self.wait_for(r"Ctrl-D or /quit leaves\)\r\n> ")
        # … and stops an answer, which is shaded while it is reasoning.
        self.write("Who made the earth?\n")
        self.wait_for(r"\x1b\[2m.{10}(?s:.)*")
        self.write("\x03")
        self.wait_for(r"\x1b\[0m\r\n\(stopped\)\r\n> ")
        self.write("/history\n")
        self.wait_for(r"\[user\] Who made the earth\?\r\n\[assistant\] .*\r\n(?s:.)*> ")
        # An error is told, and the conversation goes on.
        self.write("/load /does/not/exist\n")
        self.wait_for(r"/does/not/exist.*\r\n(?s:.)*> ")
        self.write("/think off\n")
        self.wait_for("> ")
        self.write("\x04")
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--dsv4", default=dsv4)
    arguments, rest = arguments.parse_known_args()
    dsv4 = str(pathlib.Path(arguments.dsv4).resolve())
    unittest.main(argv=[sys.argv[0], *rest])
