#!/usr/bin/env python3
"""dsv4 serve, by what a client sees: both protocols, streams, tools, grammars, limits, cancellation, load, stops.

  check_serve.py --dsv4 build/dsv4 [--clients DIR] [-v] [-k PATTERN]

Standard library only, but for the class Clients: with the PyPI packages `openai` and `anthropic`, which are taken from
where Python finds them, else from DIR, where pip puts them if it can reach PyPI; else these tests are skipped."""
import argparse
import concurrent.futures
import http.client
import http.server
import importlib
import json
import math
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

repo = pathlib.Path(__file__).resolve().parents[2]
data = repo / "reference_tests/data"
dsv4 = "build/dsv4"
clients = None


def run(*arguments, code=0):
    done = subprocess.run([dsv4, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != code:
        raise AssertionError(f"dsv4 {' '.join(map(str, arguments))}: exit code {done.returncode}, expected {code}\n"
                             f"{done.stdout}{done.stderr}")
    return done


class Server:
    """A server of its own, at a port that was free."""

    def __init__(self, model, *arguments):
        self.process = subprocess.Popen([dsv4, "serve", "--model", str(model), "--port", "0", "--name", "tiny", *map(str, arguments)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if not found:
            raise AssertionError(f"no address in {line!r}: {self.process.communicate()}")
        self.port = int(found[1])

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def request(self, method, path, body=None, headers=None):
        """The status, the headers and the body."""
        c = self.connect()
        sent = {"Content-Type": "application/json"} if body is not None else {}
        c.request(method, path, body if isinstance(body, (bytes, str, type(None))) else json.dumps(body), {**sent, **(headers or {})})
        r = c.getresponse()
        content = r.read()
        c.close()
        return r.status, dict(r.getheaders()), content

    def post(self, path, status=200, headers=None, **body):
        got, _, content = self.request("POST", path, body, headers)
        if got != status:
            raise AssertionError(f"{path}: status {got}, expected {status}: {content.decode()}")
        return json.loads(content)

    def chat(self, text="Who made the earth?", status=200, **more):
        return self.post("/v1/chat/completions", status, model="tiny", **{"messages": [{"role": "user", "content": text}], **more})

    def message(self, text="Who made the earth?", status=200, **more):
        return self.post("/v1/messages", status, model="tiny",
                         **{"max_tokens": 20, "messages": [{"role": "user", "content": text}], **more})

    def events(self, path, **body):
        """Events of a stream: (name or None, data)."""
        c = self.connect()
        c.request("POST", path, json.dumps({"model": "tiny", "stream": True, **body}), {"Content-Type": "application/json"})
        r = c.getresponse()
        content = r.read().decode()
        c.close()
        if r.status != 200 or not r.getheader("Content-Type").startswith("text/event-stream"):
            raise AssertionError(f"{path}: {r.status} {content}")
        out = []
        for block in content.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            out.append((fields.get("event"), fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])))
        return out

    def metric(self, name):
        text = self.request("GET", "/metrics")[2].decode()
        return sum(float(m) for m in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.M))

    def wait(self, name, value, seconds=30):
        end = time.time() + seconds
        while self.metric(name) != value:
            if time.time() > end:
                raise AssertionError(f"{name} is {self.metric(name)} after {seconds} s, expected {value}")
            time.sleep(0.02)

    def stop(self, sign=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            out, err = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err


class Case(unittest.TestCase):
    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.model = cls.tmp / "model"
        run("golden", "weights", data / "bundles/tiny.v4gold", "--tokenizer", data / "text/tokenizer.json", "--out", cls.model)
        cls.server = Server(cls.model, "--max-new", 24, *cls.arguments)

    @classmethod
    def tearDownClass(cls):
        code, _, err = cls.server.stop()
        cls.folder.cleanup()
        if code != 0:
            raise AssertionError(f"dsv4 serve: exit code {code}\n{err}")


class Verified(Case):
    """examples/verify_server.py tells a right server from those that are wrong on purpose: a proxy in front of ours."""

    def verdict(self, change_request=None, change_answer=None, code=0):
        server, lock, inside, noise = self.server, threading.Lock(), [0], self.noise

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    inside[0] += 1
                    crowd = inside[0] > 1
                if change_request:
                    change_request(body, crowd)
                status, _, content = server.request("POST", self.path, body)
                if change_answer:
                    answer = json.loads(content)
                    for step in answer["choices"][0]["logprobs"]["content"]:
                        for one in (step, *step["top_logprobs"]):
                            if one["token"] != step["token"] or change_answer is not noise:
                                one["logprob"] = change_answer(one["logprob"], one["token"])
                    content = json.dumps(answer).encode()
                time.sleep(0.05)  # so that requests meet
                with lock:
                    inside[0] -= 1
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            prompts = self.tmp / "prompts.jsonl"
            prompts.write_text('"Who made the earth?"\n')
            done = subprocess.run([sys.executable, str(repo / "examples/verify_server.py"), f"http://127.0.0.1:{proxy.server_port}", "--model", str(self.model), "--name", "tiny",
                                   "--dsv4", dsv4, "--prompts", str(prompts), "--tokens", "4", "--load", "3", "--json"], capture_output=True, text=True)
            proxy.shutdown()
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        told = json.loads(done.stdout)
        return [kind for kind, _ in told["findings"]], " ".join(what for _, what in told["findings"]), told

    def test_right(self):
        kinds, _, told = self.verdict()
        self.assertEqual((kinds, told["steps"] > 0, told["kl_max"] < 1e-9), ([], True, True))

    def test_thinking_marker(self):
        kinds, what, _ = self.verdict(lambda body, _: body.update(reasoning_effort="high"), code=1)
        self.assertEqual(kinds, ["template"])
        self.assertIn("as with the thinking marker", what)

    def test_other_template(self):
        def change(body, _):
            body["messages"][0]["content"] = "Human: " + body["messages"][0]["content"]
        kinds, what, _ = self.verdict(change, code=1)
        self.assertEqual(kinds, ["template"])
        self.assertRegex(what, r"[0-9]+ tokens, expected [0-9]+")

    def test_temperature(self):
        kinds, what, _ = self.verdict(lambda body, _: body.update(temperature=1.5, seed=random.randrange(1 << 30)), code=1)
        self.assertIn("sampling", kinds)
        self.assertIn("temperature 0 is not honoured", what)

    def test_scaled_log_probabilities(self):
        kinds, what, _ = self.verdict(change_answer=lambda p, _: p / 1.25, code=1)
        self.assertEqual(kinds, ["sampling"])
        self.assertIn("temperature 1.25", what)

    def test_batch_dependence(self):
        kinds, what, _ = self.verdict(lambda body, crowd: body.update(temperature=1.5 if crowd else 0, seed=7), code=1)
        self.assertEqual(kinds, ["batch"])

    @staticmethod
    def noise(p, token):
        """The most probable stays it: a server chooses by its own numbers."""
        return p - abs(math.sin(sum(token.encode())))

    def test_quantised(self):
        kinds, _, told = self.verdict(change_answer=self.noise, code=1)
        self.assertEqual(kinds, ["precision"])
        self.assertTrue(1e-3 < told["kl_mean"] < 5e-2)


def joined(events):
    """A stream of chat chunks as messages, one for each choice."""
    choices = {}
    for _, e in events:
        if e == "[DONE]":
            continue
        for one in e["choices"]:
            c = choices.setdefault(one["index"], {"content": "", "reasoning_content": "", "tool_calls": [], "finish_reason": None,
                                                  "logprobs": {"content": [], "reasoning_content": []}})
            assert c["finish_reason"] is None, "a chunk after the end"
            delta = one["delta"]
            for part in ("content", "reasoning_content"):
                c[part] += delta.get(part) or ""
                c["logprobs"][part] += (one["logprobs"] or {}).get(part) or []
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(c["tool_calls"])
                    c["tool_calls"].append({"id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": ""}})
                c["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            c["finish_reason"] = one["finish_reason"]
    return [choices[i] for i in sorted(choices)]


def like(choice):
    """A choice of a whole answer in the same form."""
    m = choice["message"]
    logprobs = choice["logprobs"] or {}
    return {"content": m["content"] or "", "reasoning_content": m.get("reasoning_content", ""), "tool_calls": m.get("tool_calls", []),
            "finish_reason": choice["finish_reason"],
            "logprobs": {part: logprobs.get(part) or [] for part in ("content", "reasoning_content")}}


weather = {"type": "function", "function": {
    "name": "weather", "description": "The weather somewhere.", "strict": True,
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "enum": ["Köln", "東京", "say \"hi\""]}, "days": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "unit": {"anyOf": [{"const": "c"}, {"const": None}]}}, "required": ["city", "days"], "additionalProperties": False}}}
book = {"name": "book", "strict": True, "schema": {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "verses": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
                                     "old": {"type": "boolean"}}, "required": ["name", "verses", "old"]}}


class OpenAI(Case):
    def test_chat(self):
        a = self.server.chat(temperature=0)
        self.assertEqual((a["object"], a["model"], len(a["choices"])), ("chat.completion", "tiny", 1))
        self.assertEqual(a["choices"][0]["finish_reason"], "length")
        self.assertEqual(a["usage"]["completion_tokens"], 24)
        self.assertEqual(a["usage"]["total_tokens"], a["usage"]["prompt_tokens"] + 24)
        # --think high is the default: without </think> all of it is reasoning.
        self.assertTrue(a["choices"][0]["message"]["reasoning_content"])
        for off in ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}):
            self.assertNotIn("reasoning_content", self.server.chat(**off)["choices"][0]["message"])
        # The same request, the same answer; another seed, another answer.
        b, c = (self.server.chat(reasoning_effort="none", seed=s)["choices"] for s in (3, 3))
        self.assertEqual(b, c)
        self.assertNotEqual(b, self.server.chat(reasoning_effort="none", seed=4)["choices"])
        self.assertEqual(self.server.chat()["choices"], self.server.chat(seed=0)["choices"])
        self.assertNotEqual(b, self.server.chat("And the sea?", reasoning_effort="none", seed=3)["choices"])
        self.assertNotEqual(b, self.server.chat(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who made the earth?"}],
                                                reasoning_effort="none", seed=3)["choices"])

    def test_chat_is_dsv4_chat(self):
        told = subprocess.run([dsv4, "chat", "--model", self.model, "--max-new", "24", "--think", "off", "--seed", "5"],
                              input="Who made the earth?\n", capture_output=True, text=True, check=True).stdout
        content = self.server.chat(reasoning_effort="none", seed=5, max_tokens=24)["choices"][0]["message"]["content"]
        plain = re.sub(r"<｜[^｜]*｜>", "", told)  # special tokens that random weights say; chat shows them
        self.assertEqual(content, plain[:-1])

    def test_streams(self):
        for more in ({}, {"reasoning_effort": "none", "n": 3}, {"logprobs": True, "top_logprobs": 2, "reasoning_effort": "none"},
                     {"reasoning_effort": "none", "tools": [weather], "tool_choice": "required", "max_tokens": 200},
                     {"reasoning_effort": "none", "response_format": {"type": "json_schema", "json_schema": book}, "max_tokens": 200}):
            body = {"messages": [{"role": "user", "content": "Who made the earth?"}], "seed": 11, **more}
            events = self.server.events("/v1/chat/completions", **body, stream_options={"include_usage": True})
            whole = self.server.chat(**body)
            self.assertEqual(events[-1][1], "[DONE]")
            usage = events[-2][1]
            self.assertEqual(usage["choices"], [])
            strip = lambda u: {**u, "prompt_tokens_details": None}
            self.assertEqual(strip(usage["usage"]), strip(whole["usage"]))
            self.assertEqual(len({e["id"] for _, e in events[:-1]}), 1)
            self.assertEqual(events[0][1]["choices"][0]["delta"]["role"], "assistant")
            self.assertEqual(joined(events), [like(c) for c in whole["choices"]])
            text = "".join(json.dumps(e, ensure_ascii=False) for _, e in events)
            self.assertNotIn("｜", text)  # never a marker
            self.assertNotIn("</think>", text)

    def test_logprobs(self):
        c = self.server.chat(reasoning_effort="none", logprobs=True, top_logprobs=20, temperature=0, max_tokens=5)["choices"][0]
        for t in c["logprobs"]["content"]:
            self.assertEqual(len(t["top_logprobs"]), 20)
            self.assertEqual((t["token"], t["logprob"]), (t["top_logprobs"][0]["token"], t["top_logprobs"][0]["logprob"]))
            self.assertEqual(bytes(t["bytes"]).decode("utf-8", "replace"), t["token"])
            self.assertLessEqual(t["logprob"], 0)
        # As dsv4 generate has them.
        ids = json.loads(run("tokenize", "--model", self.model, "In the beginning").stdout)["ids"]
        told = json.loads(run("generate", "--model", self.model, "--ids", json.dumps([0, *ids]), "--max-new", 6, "--logprobs", 3, "--ignore-eos").stdout)
        c = self.server.post("/v1/completions", model="tiny", prompt="In the beginning", max_tokens=6, logprobs=3, temperature=0)["choices"][0]
        for mine, theirs in zip(c["logprobs"]["token_logprobs"], told["logprobs"]):
            self.assertAlmostEqual(mine, theirs["logprob"], delta=1e-12)

    def test_completions(self):
        text = json.loads(run("generate", "--model", self.model, "--prompt", "In the beginning", "--max-new", 12, "--temperature", 1, "--seed", 3,
                              "--json").stdout)
        complete = lambda **more: self.server.post("/v1/completions", model="tiny", **{"prompt": "In the beginning", "max_tokens": 12, "seed": 3, **more})
        a = complete()
        self.assertEqual(a["choices"][0]["text"], text["text"])
        self.assertEqual(a["usage"]["prompt_tokens"], text["prompt_tokens"])
        ids = [0, *json.loads(run("tokenize", "--model", self.model, "In the beginning").stdout)["ids"]]
        self.assertEqual(complete(prompt=ids)["choices"], a["choices"])
        both = complete(prompt=["In the beginning", "And God said"], n=2)["choices"]
        self.assertEqual([c["index"] for c in both], [0, 1, 2, 3])
        self.assertEqual(both[0], a["choices"][0])
        self.assertNotEqual(both[1]["text"], both[0]["text"])
        self.assertEqual({**complete(prompt="And God said")["choices"][0], "index": 2}, both[2])
        events = self.server.events("/v1/completions", prompt="In the beginning", max_tokens=12, seed=3)
        self.assertEqual("".join(e["choices"][0]["text"] for _, e in events[:-1]), text["text"])
        self.assertEqual(events[-2][1]["choices"][0]["finish_reason"], "length")

    def test_stop_texts(self):
        whole = self.server.chat(reasoning_effort="none", seed=3)["choices"][0]["message"]["content"]
        for stop in (whole[3:5], [whole[9:12], "never☃"], whole[:1]):
            c = self.server.chat(reasoning_effort="none", seed=3, stop=stop)
            stops = [stop] if isinstance(stop, str) else stop
            at = min(whole.find(s) for s in stops if s in whole)
            self.assertEqual((c["choices"][0]["message"]["content"], c["choices"][0]["finish_reason"]), (whole[:at], "stop"))
            self.assertLess(c["usage"]["completion_tokens"], 24)

    def test_tools_and_grammars(self):
        calls = set()
        for seed in range(6):
            c = self.server.chat(reasoning_effort="none", seed=seed, tools=[weather], tool_choice="required", max_tokens=300)["choices"][0]
            if c["finish_reason"] != "tool_calls":  # random weights may go on calling until there is no room
                self.assertEqual(c["finish_reason"], "length")
            for call in c["message"]["tool_calls"]:
                calls.add(call["id"])
                arguments = json.loads(call["function"]["arguments"])
                self.assertEqual(call["function"]["name"], "weather")
                self.assertIn(arguments["city"], ["Köln", "東京", "say \"hi\""])
                self.assertTrue(all(isinstance(d, bool) for d in arguments["days"]) and len(arguments["days"]) <= 2)
                self.assertTrue(set(arguments) <= {"city", "days", "unit"})
        self.assertGreater(len(calls), 6)
        other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
        c = self.server.chat(reasoning_effort="none", tools=[weather, other], tool_choice={"type": "function", "function": {"name": "other"}}, max_tokens=100)
        self.assertEqual([(t["function"]["name"], t["function"]["arguments"]) for t in c["choices"][0]["message"]["tool_calls"]], [("other", "{}")])
        self.assertEqual(c["choices"][0]["finish_reason"], "tool_calls")
        self.assertIsNone(c["choices"][0]["message"]["content"])
        for seed in range(4):
            c = self.server.chat(reasoning_effort="none", seed=seed, response_format={"type": "json_schema", "json_schema": book}, max_tokens=200)
            value = json.loads(c["choices"][0]["message"]["content"])
            self.assertEqual(c["choices"][0]["finish_reason"], "stop")
            self.assertEqual((list(value), type(value["old"])), (["name", "verses", "old"], bool))
        # A whole turn: call, result, next question.
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Köln\", \"days\": []}"}}
        self.server.chat(tools=[weather], messages=[
            {"role": "user", "content": "How is the weather?"}, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"}])

    def test_models(self):
        status, headers, body = self.server.request("GET", "/v1/models")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        self.assertEqual([m["id"] for m in json.loads(body)["data"]], ["tiny"])
        self.assertEqual(self.server.request("GET", "/v1/models/tiny")[0], 200)
        self.assertEqual(self.server.request("GET", "/v1/models/huge")[0], 404)
        self.assertEqual(json.loads(self.server.request("GET", "/health")[2]), {"status": "ok"})

    def test_errors(self):
        user = [{"role": "user", "content": "a"}]
        for status, named, body in ((404, "model_not_found", {"model": "huge", "messages": user}), (400, "messages", {"model": "tiny"}),
                                    (400, "messages[0].role", {"model": "tiny", "messages": [{"role": "wizard", "content": "a"}]}),
                                    (400, "temperature", {"model": "tiny", "messages": user, "temperature": 3}),
                                    (400, "audio", {"model": "tiny", "messages": user, "audio": {}}),
                                    (400, "image_url", {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
                                    (400, "pattern", {"model": "tiny", "messages": user, "response_format": {
                                        "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "a"}}}}),
                                    (400, "context", {"model": "tiny", "messages": [{"role": "user", "content": "word " * 2000}]}),
                                    (400, "max_tokens", {"model": "tiny", "messages": user, "max_tokens": 100000}),
                                    (400, "no tools", {"model": "tiny", "messages": user, "tool_choice": "required"}),
                                    (400, "top_logprobs", {"model": "tiny", "messages": user, "logprobs": True, "top_logprobs": 21}),
                                    (400, "assistant", {"model": "tiny", "messages": [*user, {"role": "assistant", "content": "b"}]})):
            got, _, content = self.server.request("POST", "/v1/chat/completions", body)
            self.assertEqual(got, status, content)
            self.assertIn(named, json.dumps(json.loads(content)["error"]))
        for body in (b"", b"{", b"[]", b"null", b'{"model": "tiny"}\0', b"\xff", b'{"model": ' + b"[" * 5000):
            self.assertEqual(self.server.request("POST", "/v1/chat/completions", body)[0], 400, body[:20])
        self.assertEqual(self.server.request("POST", "/v1/completions", {"model": "tiny", "prompt": "a", "echo": True})[0], 400)
        self.assertEqual(self.server.request("POST", "/v1/completions", {"model": "tiny", "prompt": [10**9]})[0], 400)


class Anthropic(Case):
    def test_message(self):
        a = self.server.message(temperature=0)
        self.assertEqual((a["type"], a["role"], a["stop_reason"], a["stop_sequence"]), ("message", "assistant", "max_tokens", None))
        self.assertEqual([b["type"] for b in a["content"]], ["text"])
        self.assertEqual(a["usage"]["output_tokens"], 20)
        count = self.server.post("/v1/messages/count_tokens", model="tiny", messages=[{"role": "user", "content": "Who made the earth?"}])
        self.assertEqual(count["input_tokens"], a["usage"]["input_tokens"] + a["usage"]["cache_read_input_tokens"])
        thought = self.server.message(thinking={"type": "enabled", "budget_tokens": 1024})
        self.assertEqual(thought["content"][0]["type"], "thinking")
        # The same model: what OpenAI's protocol says.
        chat = self.server.chat(temperature=0, max_tokens=20, reasoning_effort="none")["choices"][0]["message"]["content"]
        self.assertEqual(a["content"][0]["text"], chat)
        self.assertNotEqual(a["content"], self.server.message(temperature=0, system="Be brief.")["content"])
        self.assertEqual(self.server.message(temperature=0, messages=[{"role": "user", "content": [{"type": "text", "text": "Who made the earth?"}]}])["content"],
                         a["content"])

    def test_stop_sequence(self):
        text = self.server.message(temperature=0)["content"][0]["text"]
        b = self.server.message(temperature=0, stop_sequences=["never☃", text[6:8]])
        self.assertEqual((b["stop_reason"], b["stop_sequence"], b["content"][0]["text"]), ("stop_sequence", text[6:8], text[:text.find(text[6:8])]))

    def test_streams(self):
        tool = {"name": "weather", "description": "", "input_schema": weather["function"]["parameters"]}
        for more in ({}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"tools": [tool], "tool_choice": {"type": "tool", "name": "weather"}, "max_tokens": 200}):
            body = {"messages": [{"role": "user", "content": "Who made the earth?"}], "max_tokens": 20, **more}
            events = self.server.events("/v1/messages", **body)
            names = [n for n, _ in events]
            self.assertTrue(all(n == e["type"] for n, e in events))
            self.assertEqual((names[0], names[-2:]), ("message_start", ["message_delta", "message_stop"]))
            blocks = []
            for name, e in events[1:-2]:  # start, deltas, stop of each block, one after the other
                if name == "content_block_start":
                    self.assertTrue(e["index"] == len(blocks) and (not blocks or blocks[-1][2]))
                    blocks.append([e["content_block"], "", False])
                elif name == "content_block_delta":
                    kind = e["delta"]["type"]
                    blocks[e["index"]][1] += e["delta"]["partial_json" if kind == "input_json_delta" else kind.removesuffix("_delta")]
                else:
                    self.assertEqual((name, blocks[e["index"]][2]), ("content_block_stop", False))
                    blocks[e["index"]][2] = True
            whole = self.server.message(**body)
            self.assertEqual(events[-2][1]["delta"]["stop_reason"], whole["stop_reason"])
            self.assertEqual(events[-2][1]["usage"]["output_tokens"], whole["usage"]["output_tokens"])
            self.assertEqual(len(blocks), len(whole["content"]))
            for (start, text, done), block in zip(blocks, whole["content"]):
                self.assertTrue(done)
                if block["type"] == "tool_use":
                    self.assertEqual({**start, "input": json.loads(text)}, block)
                    self.assertEqual(whole["stop_reason"], "tool_use")
                else:
                    self.assertEqual(text, block[block["type"]])

    def test_tool_results(self):
        tool = {"name": "weather", "input_schema": weather["function"]["parameters"]}
        self.server.message(tools=[tool], messages=[
            {"role": "user", "content": "How is the weather?"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Look.", "signature": ""}, {"type": "text", "text": "I look."},
                                              {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Köln", "days": []}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}, {"type": "text", "text": "And?"}]}])

    def test_errors(self):
        for status, kind, body in ((400, "invalid_request_error", {"max_tokens": None}), (404, "not_found_error", {"model": "huge"}),
                                   (400, "invalid_request_error", {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
                                   (400, "invalid_request_error", {"temperature": 1.5}), (400, "invalid_request_error", {"mcp_servers": []}),
                                   (400, "invalid_request_error", {"tool_choice": {"type": "any"}})):
            full = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}], **body}
            got, _, content = self.server.request("POST", "/v1/messages", full)
            error = json.loads(content)
            self.assertEqual((got, error["type"], error["error"]["type"]), (status, "error", kind))


class Load(Case):
    arguments = ("--running", 8)

    def test_the_same_bytes_alone_and_under_load(self):
        chat = lambda text, **more: ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **more})
        requests = []
        for i in range(24):
            text = ("In the beginning God created the heaven and the earth. " * (i % 4)) + f"Verse {i}?"
            more = [{"reasoning_effort": "none", "logprobs": True, "top_logprobs": 3}, {"n": 2}, {"temperature": 0, "reasoning_effort": "none"},
                    {"reasoning_effort": "none", "tools": [weather], "tool_choice": "required", "max_tokens": 120},
                    {"reasoning_effort": "none", "frequency_penalty": 0.5, "top_p": 0.9}, {"reasoning_effort": "none", "stop": ["e"]}][i % 6]
            requests.append(chat(text, seed=i, **more))
        for i in range(6):
            requests.append(("/v1/completions", {"prompt": f"And the {i}", "max_tokens": 30, "seed": i, "logprobs": 2}))
            requests.append(("/v1/messages", {"max_tokens": 20, "messages": [{"role": "user", "content": f"Verse {i}?"}]}))

        def ask(request):
            path, body = request
            answer = self.server.post(path, **{"model": "tiny", **body})
            return json.dumps(answer.get("choices", answer.get("content")), ensure_ascii=False)

        alone = [ask(r) for r in requests]
        self.assertGreater(len(set(alone)), len(alone) * 3 // 4)  # some end at once
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            for _ in range(3):
                together = list(pool.map(ask, requests))
                for request, a, b in zip(requests, alone, together):
                    self.assertEqual(a, b, request)
        self.assertEqual(self.server.metric("dsv4_answers_failed_total"), 0)

    def test_prefix_cache(self):
        text = "In the beginning God created the heaven and the earth. " * 20
        first, second = self.server.chat(text, reasoning_effort="none"), self.server.chat(text, reasoning_effort="none")
        self.assertEqual(first["choices"], second["choices"])
        self.assertGreater(second["usage"]["prompt_tokens_details"]["cached_tokens"], first["usage"]["prompt_tokens"] // 2)
        self.assertLess(second["usage"]["prompt_tokens_details"]["cached_tokens"], first["usage"]["prompt_tokens"])


class Limits(Case):
    arguments = ("--running", 1, "--queued", 1, "--body-bytes", 2000, "--patience", 2, "--context", 1000)
    long = {"model": "tiny", "stream": True, "max_tokens": 900, "logit_bias": {"1": -100}, "messages": [{"role": "user", "content": "Go on."}]}

    def begin_stream(self, body=None):
        c = self.server.connect()
        c.request("POST", "/v1/chat/completions", json.dumps(body or self.long), {"Content-Type": "application/json"})
        return c, c.getresponse()

    def test_a_client_that_goes_is_not_worked_for(self):
        for read in (0, 200):
            before = self.server.metric("dsv4_answers_cancelled_total")
            c, r = self.begin_stream()
            r.read(read)
            c.sock.close()
            r.close()
            self.server.wait("dsv4_answers_cancelled_total", before + 1)
            self.server.wait("dsv4_answers_running", 0)
        # The same of one that has not got anything yet.
        c = self.server.connect()
        c.request("POST", "/v1/chat/completions", json.dumps({**self.long, "stream": False}), {"Content-Type": "application/json"})
        before = self.server.metric("dsv4_answers_cancelled_total")
        c.sock.close()
        self.server.wait("dsv4_answers_cancelled_total", before + 1)
        self.assertEqual(self.server.chat(max_tokens=3)["usage"]["completion_tokens"], 3)

    def test_a_full_queue(self):
        streams = [self.begin_stream() for _ in range(1)]
        waiting = self.server.connect()
        waiting.request("POST", "/v1/chat/completions", json.dumps({**self.long, "max_tokens": 2}), {"Content-Type": "application/json"})
        self.server.wait("dsv4_answers_waiting", 1)
        status, headers, body = self.server.request("POST", "/v1/chat/completions", {**self.long, "stream": False})
        self.assertEqual((status, headers["Retry-After"]), (429, "1"), body)
        self.assertEqual(json.loads(self.server.request("POST", "/v1/messages", {"model": "tiny", "max_tokens": 5, "messages": self.long["messages"]})[2])["error"]["type"],
                         "rate_limit_error")
        for c, r in streams:
            c.sock.close()
            r.close()
        self.assertIn(b"[DONE]", waiting.getresponse().read())

    def test_bodies_and_headers(self):
        self.assertEqual(self.server.chat("x" * 3000, status=413)["error"]["type"], "invalid_request_error")
        self.assertEqual(self.server.request("GET", "/health", headers={"X-Long": "x" * 20000})[0], 431)
        for method, path, status in (("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405), ("POST", "/nothing", 404), ("GET", "/", 404),
                                     ("HEAD", "/health", 405), ("OPTIONS", "/v1/messages", 405)):
            got, headers, _ = self.server.request(method, path, {} if method == "POST" else None)
            self.assertEqual(got, status, (method, path))
            if status == 405:
                self.assertIn("Allow", headers)
        self.assertEqual(self.server.request("POST", "/v1/chat/completions", b"{}", {"Content-Type": "text/plain"})[0], 415)
        self.assertEqual(self.server.request("POST", "/v1/chat/completions", b"{}", {"Content-Type": "application/json; charset=utf-8"})[0], 400)

    def raw(self, sent, wait=True):
        s = socket.create_connection(("127.0.0.1", self.server.port), timeout=10)
        s.sendall(sent)
        got = b""
        while wait and (part := s.recv(65536)):
            got += part
        s.close()
        return got

    def test_bytes_that_are_no_request(self):
        self.assertIn(b" 400 ", self.raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"))  # a TLS client
        self.assertIn(b" 400 ", self.raw(b"GET /health HTTP/9.9\r\n\r\n"))
        self.assertIn(b" 400 ", self.raw(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n"))
        self.assertEqual(self.raw(b"GET /health HT"), b"")  # patience ends
        old = self.raw(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertTrue(old.startswith(b"HTTP/1.1 200") and b"Connection: close" in old)
        two = self.raw(b"GET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.assertEqual(two.count(b"200 OK"), 2)
        body = b'{"model": "tiny", "prompt": "a", "max_tokens": 1}'
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        chunked = self.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        self.assertIn(b" 200 ", chunked)
        asked = self.raw(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.assertTrue(asked.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"))
        self.raw(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", wait=False)
        self.assertEqual(self.server.request("GET", "/health")[0], 200)


class Mutations(Case):
    def test_bodies_that_are_nearly_right(self):
        """Requests with a few bytes or values changed are answered or refused; the server goes on."""
        dice = random.Random(1)
        user = [{"role": "user", "content": "Who made the earth?"}]
        good = [("/v1/chat/completions", {"messages": user, "tools": [weather], "tool_choice": "required", "stop": ["a"], "seed": 1, "logprobs": True, "n": 2}),
                ("/v1/chat/completions", {"messages": user, "response_format": {"type": "json_schema", "json_schema": book}, "reasoning_effort": "none", "stream": True}),
                ("/v1/completions", {"prompt": [1, 2, 3], "logprobs": 2, "temperature": 0.5, "logit_bias": {"5": 3}}),
                ("/v1/messages", {"messages": [*user, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
                                               {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}],
                                  "tools": [{"name": "f", "input_schema": {"type": "object"}}], "system": "s", "stop_sequences": ["b"]})]
        values = [None, True, 0, -1, 1e308, 10**30, "", "\ud800", "<｜User｜>", [], {}, [[]], [None], {"type": "text"}, "x" * 300]

        def places(v, path=()):
            yield path
            for k, w in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ():
                yield from places(w, (*path, k))

        seen = {}
        for i in range(400):
            path, body = dice.choice(good)
            body = json.loads(json.dumps({"model": "tiny", "max_tokens": 5, **body}))
            if i % 2:
                where = dice.choice(list(places(body))[1:])
                at = body
                for k in where[:-1]:
                    at = at[k]
                at[where[-1]] = dice.choice(values)
                sent = json.dumps(body).encode()
            else:
                sent = bytearray(json.dumps(body).encode())
                for _ in range(dice.randrange(1, 4)):
                    sent[dice.randrange(len(sent))] = dice.randrange(256)
                sent = bytes(sent)
            status, _, content = self.server.request("POST", path, sent)
            seen[status] = seen.get(status, 0) + 1
            self.assertIn(status, (200, 400, 404), (sent, content))
            if status != 200:
                self.assertTrue(json.loads(content)["error"]["message"])
        self.assertGreater(seen[200], 20)
        self.assertGreater(seen[400], 200)
        self.assertEqual(self.server.metric("dsv4_answers_failed_total"), 0)


class Keys(Case):
    @classmethod
    def setUpClass(cls):
        keys = tempfile.NamedTemporaryFile("w", suffix=".keys")
        keys.write("first-key\nsecond-key\n")
        keys.flush()
        cls.keys = keys
        cls.arguments = ("--api-key-file", keys.name)
        super().setUpClass()

    def test_keys(self):
        for headers, status in (({}, 401), ({"Authorization": "Bearer second-key"}, 200), ({"x-api-key": "first-key"}, 200),
                                ({"Authorization": "Bearer second-ke"}, 401), ({"Authorization": "Bearer second-keyy"}, 401),
                                ({"Authorization": "second-key"}, 401), ({"x-api-key": ""}, 401)):
            self.assertEqual(self.server.request("GET", "/v1/models", headers=headers)[0], status, headers)
        self.assertEqual(self.server.request("GET", "/health")[0], 200)
        self.assertEqual(self.server.message(status=401)["error"]["type"], "authentication_error")


class Stops(Case):
    def test_a_stop_lets_answers_end(self):
        folder = self.tmp / "prefixes"
        folder.mkdir()
        server = Server(self.model, "--prefix-cache", folder, "--max-new", 24)
        text = "In the beginning God created the heaven and the earth. " * 20
        answer = server.chat(text)["choices"]
        c = server.connect()
        c.request("POST", "/v1/chat/completions", json.dumps({"model": "tiny", "stream": True, "max_tokens": 500, "messages": [{"role": "user", "content": "Go on."}]}),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        r.read(100)
        server.process.send_signal(signal.SIGTERM)
        self.assertTrue(r.read().endswith(b"data: [DONE]\n\n"))
        code, _, err = server.stop()
        self.assertEqual(code, 0, err)
        self.assertRegex(err, "prefixes saved")
        files = {f: f.read_bytes() for f in folder.iterdir()}
        self.assertTrue(files)

        # Another run reuses them; kill -9 in the middle of a stream leaves them as they are.
        server = Server(self.model, "--prefix-cache", folder, "--max-new", 24)
        again = server.chat(text)
        self.assertEqual(again["choices"], answer)
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        c = server.connect()
        c.request("POST", "/v1/chat/completions", json.dumps({"model": "tiny", "stream": True, "max_tokens": 500, "messages": [{"role": "user", "content": "Go on."}]}),
                  {"Content-Type": "application/json"})
        c.getresponse().read(100)
        server.stop(signal.SIGKILL)
        self.assertEqual({f: f.read_bytes() for f in folder.iterdir()}, files)
        # What is damaged is not reused, and said.
        damaged = sorted(files)[0]
        damaged.write_bytes(files[damaged][:-100])
        server = Server(self.model, "--prefix-cache", folder, "--max-new", 24)
        self.assertEqual(server.chat(text)["choices"], answer)
        code, _, err = server.stop(signal.SIGINT)
        self.assertEqual(code, 0)
        self.assertIn(damaged.name, err)

    def test_usage(self):
        run("serve", code=2)
        self.assertIn("context", run("serve", "--model", self.model, "--context", 10**9, code=2).stderr)
        self.assertIn("ref", run("serve", "--model", self.model, "--exec", "ref", code=2).stderr)
        self.assertIn("no folder", run("serve", "--model", self.model, "--prefix-cache", self.tmp / "none", code=2).stderr)
        self.assertIn("none.keys", run("serve", "--model", self.model, "--api-key-file", self.tmp / "none.keys", code=3).stderr)
        self.assertIn(str(self.server.port), run("serve", "--model", self.model, "--port", self.server.port, code=1).stderr)
        run("serve", "--model", self.tmp, code=3)


class Clients(Case):
    """The protocols' own Python clients."""

    @classmethod
    def setUpClass(cls):
        try:
            cls.openai, cls.anthropic = find_clients()
        except ImportError as e:
            raise unittest.SkipTest(f"no openai and anthropic clients: {e}") from e
        super().setUpClass()

    def test_openai(self):
        client = self.openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0)
        self.assertEqual([m.id for m in client.models.list()], ["tiny"])
        ask = lambda **more: client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Who made the earth?"}],
                                                            **{"reasoning_effort": "none", "seed": 3, **more})
        whole = ask()
        text = "".join(c.choices[0].delta.content or "" for c in ask(stream=True))
        self.assertEqual(text, whole.choices[0].message.content)
        calls = ask(tools=[weather], tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=200).choices[0]
        self.assertEqual((calls.finish_reason, calls.message.tool_calls[0].function.name), ("tool_calls", "weather"))
        json.loads(calls.message.tool_calls[0].function.arguments)
        with client.chat.completions.stream(model="tiny", messages=[{"role": "user", "content": "Who made the earth?"}], reasoning_effort="none", seed=3,
                                            tools=[weather], tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=200) as stream:
            final = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertEqual(final.function.arguments, calls.message.tool_calls[0].function.arguments)
        self.assertEqual(client.completions.create(model="tiny", prompt="a", max_tokens=3).usage.completion_tokens, 3)
        with self.assertRaises(self.openai.NotFoundError):
            client.chat.completions.create(model="huge", messages=[{"role": "user", "content": "a"}])
        with self.assertRaises(self.openai.BadRequestError) as caught:
            ask(temperature=1.5, top_logprobs=50)
        self.assertEqual(caught.exception.param, "top_logprobs")
        before = self.server.metric("dsv4_answers_cancelled_total")
        stream = ask(stream=True, max_tokens=900)
        next(iter(stream))
        stream.close()
        self.server.wait("dsv4_answers_cancelled_total", before + 1)

    def test_anthropic(self):
        client = self.anthropic.Anthropic(base_url=f"http://127.0.0.1:{self.server.port}", api_key="none", max_retries=0)
        common = {"model": "tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "Who made the earth?"}]}
        whole = client.messages.create(**common)
        with client.messages.stream(**common) as stream:
            self.assertEqual("".join(stream.text_stream), whole.content[0].text)
            self.assertEqual(stream.get_final_message().usage.output_tokens, 20)
        self.assertGreater(client.messages.count_tokens(model="tiny", messages=common["messages"]).input_tokens, 3)
        tool = {"name": "weather", "input_schema": weather["function"]["parameters"]}
        more = {**common, "max_tokens": 200, "tools": [tool], "tool_choice": {"type": "tool", "name": "weather"}}
        used = client.messages.create(**more)
        self.assertEqual((used.stop_reason, used.content[-1].name), ("tool_use", "weather"))
        with client.messages.stream(**more) as stream:
            self.assertEqual(stream.get_final_message().content[-1].input, used.content[-1].input)
        with client.messages.stream(**{**common, "max_tokens": 1100}, thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
            self.assertEqual(stream.get_final_message().content[0].type, "thinking")
        with self.assertRaises(self.anthropic.NotFoundError):
            client.messages.create(**{**common, "model": "huge"})
        before = self.server.metric("dsv4_answers_cancelled_total")
        with client.messages.stream(**{**common, "max_tokens": 900}) as stream:
            next(iter(stream))
        self.server.wait("dsv4_answers_cancelled_total", before + 1)


def find_clients():
    try:
        return importlib.import_module("openai"), importlib.import_module("anthropic")
    except ImportError:
        if clients is None:
            raise
    if not (clients / "openai").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0", "--target", str(clients)]
        done = subprocess.run([*pip, "openai", "anthropic"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ImportError("pip cannot reach them: " + done.stderr.strip().splitlines()[-1])
    sys.path.insert(0, str(clients))
    return importlib.import_module("openai"), importlib.import_module("anthropic")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--dsv4", default=dsv4)
    arguments.add_argument("--clients", type=pathlib.Path)
    arguments, rest = arguments.parse_known_args()
    dsv4 = str(pathlib.Path(arguments.dsv4).resolve())
    clients = arguments.clients
    if run_none := subprocess.run([dsv4, "serve", "--model", "none"], capture_output=True, text=True):
        if run_none.returncode == 4:
            print(run_none.stderr.strip())
            sys.exit(77)
    unittest.main(argv=[sys.argv[0], *rest], warnings="ignore")
