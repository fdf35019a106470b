#!/usr/bin/env python3
"""Opens every page of the book in headless Chromium, wide, narrow and dark, and says what is broken.

  docs/open_pages.py [--site build/site] [--shots FOLDER] [--only PART] [--page FILE.html …]      Debian, Ubuntu: apt-get install chromium

A page is broken if its script throws, if it logs an error, or if it is wider than its window (what is wide must scroll by itself).
--shots keeps a picture of each page and mode.  The standard library speaks to the browser: one tab, Chromium's DevTools protocol."""
import argparse
import base64
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODES = {"wide": (1440, 900, "light"), "narrow": (390, 844, "light"), "dark": (1440, 900, "dark")}


class Tab:
    """A tab of the browser behind a WebSocket: call() asks, `events` keeps what it tells unasked."""

    def __init__(self, address):
        host, path = address.removeprefix("ws://").split("/", 1)
        name, port = host.split(":")
        self.socket = socket.create_connection((name, int(port)), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.room, self.number, self.events = b"", 0, []
        while b"\r\n\r\n" not in self.room:
            self.room += self.socket.recv(4096)
        head, self.room = self.room.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.splitlines()[0]:
            raise OSError(f"no WebSocket: {head.splitlines()[0].decode()}")

    def read(self, count):
        while len(self.room) < count:
            more = self.socket.recv(1 << 16)
            if not more:
                raise OSError("the browser has gone")
            self.room += more
        data, self.room = self.room[:count], self.room[count:]
        return data

    def message(self):
        """One text message; fragments joined, control frames skipped."""
        text = b""
        while True:
            first, second = self.read(2)
            length = second & 127
            if length == 126:
                (length,) = struct.unpack(">H", self.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.read(8))
            data = self.read(length)
            if first & 15 in (0, 1):
                text += data
                if first & 128:
                    return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        data = json.dumps({"id": self.number, "method": method, "params": parameters}).encode()
        length = struct.pack(">BBH", 0x81, 0x80 | 126, len(data)) if len(data) < 1 << 16 else struct.pack(">BBQ", 0x81, 0x80 | 127, len(data))
        self.socket.sendall(length + b"\0\0\0\0" + data)  # masked with zeros: as it is
        while True:
            told = self.message()
            if told.get("id") == self.number:
                if "error" in told:
                    raise OSError(f"{method}: {told['error']['message']}")
                return told["result"]
            self.events.append(told)

    def wait(self, event):
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self.message())


def faults(events):
    out = []
    for e in events:
        if e.get("method") == "Runtime.exceptionThrown":
            details = e["params"]["exceptionDetails"]
            out.append("throws " + details.get("exception", {}).get("description", details["text"]).splitlines()[0])
        if e.get("method") == "Log.entryAdded" and e["params"]["entry"]["level"] == "error":
            out.append("logs " + e["params"]["entry"]["text"])
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=pathlib.Path, default=ROOT / "build" / "site")
    parser.add_argument("--shots", type=pathlib.Path, help="keep pictures here")
    parser.add_argument("--only", default="", help="pages whose address holds this")
    parser.add_argument("--mode", choices=MODES, action="append", help="one of these alone")
    parser.add_argument("--page", type=pathlib.Path, action="append", help="these files instead of a site")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome"))
    o = parser.parse_args()
    if not o.browser:
        sys.exit("no Chromium found: apt-get install chromium, or --browser PROGRAM")
    pages = [p.resolve() for p in o.page] if o.page else sorted(p.resolve() for p in o.site.rglob("*.html") if o.only in str(p.relative_to(o.site)))
    if not pages:
        sys.exit(f"no pages in {o.site}: docs/build.py makes them")
    if o.shots:
        o.shots.mkdir(parents=True, exist_ok=True)
    broken = 0
    with tempfile.TemporaryDirectory() as profile:
        browser = subprocess.Popen([o.browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--hide-scrollbars",
                                    "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            port = pathlib.Path(profile) / "DevToolsActivePort"
            for _ in range(300):
                if port.exists() and len(port.read_text().splitlines()) == 2:
                    break
                time.sleep(0.1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json") as answer:
                tab = Tab(next(t["webSocketDebuggerUrl"] for t in json.load(answer) if t["type"] == "page"))
            for domain in ("Page", "Runtime", "Log"):
                tab.call(f"{domain}.enable")
            modes = {m: MODES[m] for m in o.mode or MODES}
            for mode, (width, height, scheme) in modes.items():
                tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
                tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                for page in pages:
                    tab.events.clear()
                    tab.call("Page.navigate", url=page.as_uri())
                    tab.wait("Page.loadEventFired")
                    told = tab.call("Runtime.evaluate", expression="[document.documentElement.scrollWidth, innerWidth]", returnByValue=True)
                    found, there = told["result"]["value"]
                    wrong = faults(tab.events) + ([f"is {found} pixels wide in a window of {there}"] if found > there else [])
                    name = page.relative_to(o.site.resolve()) if not o.page else page.name
                    for fault in wrong:
                        print(f"{name}, {mode}: {fault}", file=sys.stderr)
                    broken += bool(wrong)
                    if o.shots:
                        size = tab.call("Page.getLayoutMetrics")["cssContentSize"]
                        picture = tab.call("Page.captureScreenshot", captureBeyondViewport=True,
                                           clip={"x": 0, "y": 0, "width": width, "height": min(size["height"], 3000), "scale": 1})
                        (o.shots / f"{str(name).replace('/', '.').removesuffix('.html')}.{mode}.png").write_bytes(base64.b64decode(picture["data"]))
        finally:
            browser.terminate()
            browser.wait()
    print(f"{len(pages)} pages opened in {len(modes)} modes, {broken} broken")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
