#!/usr/bin/env python3
"""Builds the book: a static site of every header (prose beside code), every document, equations, glossary, figures and a search.

  docs/build.py [--out build/site]      open build/site/index.html; no network, no server

The comments of the headers and the documents in docs/ are the only source.  A link that leads nowhere, an anchor that is not there, an
equation without a statement, and a letter that the notation does not explain are errors: the script lists them all and exits with 1."""
import argparse
import html
import json
import os
import pathlib
import re
import shutil
import sys

import equations as tagged
from book import equations, figures, markdown, source, tex

ROOT = pathlib.Path(__file__).resolve().parents[1]
INCLUDE = ROOT / "include" / "dsv4"
CHAPTERS = {  # folder -> (title, the idea in plain words, figures)
    "core": ("What a tensor is, where work runs", "Everything below is written against three small ideas: a view (where numbers are), an executor "
             "(who computes, and how wide), and a tap (who may watch).", []),
    "num": ("Numbers", "The model stores its values in formats of 4, 8 and 16 bits. One definition makes them all; one function rounds.", ["number_line"]),
    "op": ("Operators", "The pieces that any transformer has: norms, products, rotations. Here they also say exactly where a value is rounded.", []),
    "mhc": ("Manifold-constrained hyper-connections", "A residual stream per token becomes four. A layer reads a mean of them, writes its result to all, "
            "and carries them over by a matrix that cannot amplify: its rows and columns sum to one.", ["hyper_connection", "birkhoff"]),
    "attn": ("Attention: window, CSA, HCA", "Old tokens are read as means of four (CSA, the best few hundred of them, chosen by an indexer) or of 128 "
             "(HCA, all of them); the last 128 are read one by one.", ["attention_coverage", "overlapping_blocks"]),
    "moe": ("Mixture of experts", "Each token passes through one shared expert and six of some hundreds, weighted by how well the gate thinks they fit.", []),
    "model": ("The model", "Blocks of attention and experts, each inside a hyper-connection; a head; and a block that guesses the token after next.", []),
    "optim": ("Optimisers", "Matrices are moved by Muon, which makes every direction of a step equally large; vectors by AdamW.", ["newton_schulz"]),
    "train": ("Training", "Every concept once more, with its gradient.", []),
    "post": ("After pre-training", "Rewards move the model through policy gradients; teachers through the divergence between two distributions.", []),
    "engram": ("Engram", "A memory of n-grams, looked up by hash.", []),
    "dspark": ("DSpark", "A block of tokens drafted at once, and how many of them stand.", []),
    "io": ("Files", "Published checkpoints, mapped and used in place.", []),
    "text": ("Text", "Text to tokens, messages to prompts, and back.", []),
    "gen": ("Generation", "From logits to tokens, with drafts that change nothing but the time.", []),
    "trainer": ("The trainer", "A text goes in, a model comes out, and a killed run goes on to the same bits.", []),
    "golden": ("Recording and judging a run", "Every value of a run on disk; which tensor of another engine is wrong first, and why.", []),
    "cpu": ("The same, fast", "Kernels for the CPU that give the bits of the specification.", []),
    "adapt": ("Bridges", "Views for the arrays of other libraries.", []),
}

# One-word names that mean one thing everywhere; other one-word names are variables as often as not, and get no link.
PLAIN_NAMES = {"view", "tensor", "workspace", "transformer", "attention", "sequence", "history", "sampler", "tokenizer", "sinkhorn",
               "compress", "hadamard", "swiglu", "minifloat", "softplus", "sigmoid", "execution", "observer", "tapper", "segment"}


class Site:
    """Everything that pages need to know of each other, and what went wrong."""

    def __init__(self, out):
        self.out, self.errors, self.pages, self.search = out, [], {}, []
        self.headers = {str(p.relative_to(INCLUDE)): p.read_text() for p in sorted(INCLUDE.rglob("*.hpp"))}
        self.cuda = {str(p.relative_to(ROOT)): p.read_text() for p in sorted((ROOT / "cuda").rglob("*.cuh"))} if (ROOT / "cuda").is_dir() else {}
        self.tests = {str(p.relative_to(ROOT)): p.read_text() for p in sorted((ROOT / "reference_tests").rglob("*.cpp"))}
        self.documents = {p.name: p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))}
        for name in ("README.md", "CONTRIBUTING.md"):
            if (ROOT / name).exists():
                self.documents[name] = (ROOT / name).read_text()
        self.notation = self.read_notation()
        self.defined = {}
        for header, text in self.headers.items():
            for name, line in source.definitions(text).items():
                if ("_" in name or name in PLAIN_NAMES) and not header.startswith(("cpu/", "golden/")):
                    self.defined.setdefault(name, (header, line))
        self.sources = set()  # files outside include/ that pages link to

    def read_notation(self):
        """letter -> meaning, with the sizes of Flash and Pro, from docs/notation.md."""
        letters = {}
        for line in self.documents.get("notation.md", "").splitlines():
            if line.startswith("| ") and not set(line) <= set("|- "):
                row = markdown.cells(line)
                if len(row) == 3 and len(row[0]) <= 2 and row[0] not in ("", "a"):
                    letters[row[0]] = row[1] + (f" (runs over {row[2]})" if row[2] else "")
                if len(row) == 4 and row[0] and row[2].isdigit():
                    size = f"{row[1]}: Flash {row[2]}, Pro {row[3]}"
                    letters[row[0]] = f"{letters[row[0]]}; {size}" if row[0] in letters else size
        return {k: re.sub(r"[*`]", "", v) for k, v in letters.items()}

    # ---- pages

    def write(self, address, title, body, kind="text", words=""):
        root = "../" * address.count("/")
        page = (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
                f'<title>{html.escape(title)} - dsv4</title><link rel="stylesheet" href="{root}style.css"></head><body data-root="{root}">'
                f'<header class="top"><a class="name" href="{root}index.html">dsv4</a><a href="{root}equations.html">equations</a>'
                f'<a href="{root}doc/notation.html">notation</a><a href="{root}architecture.html">architecture</a><a href="{root}glossary.html">glossary</a>'
                f'<a href="{root}doc/README.html">use it</a><input id="search" placeholder="search ( / )" aria-label="search">'
                f'</header><div id="found"></div><main class="{kind}">{body}</main>'
                f'<script src="{root}search-index.js"></script><script src="{root}search.js"></script></body></html>')
        self.pages[address] = page
        plain = re.sub(r"\s+", " ", words).strip().lower()
        # The beginning as it stands, for the lines around a hit; of the rest each word once.
        begin, rest = plain[:4000], set(re.findall(r"[\w.]{3,}", plain[4000:]))
        self.search.append([title, address, " ".join([begin, *sorted(rest - set(begin.split()))])])

    def header_address(self, header):
        return "h/" + header.replace("/", ".").removesuffix(".hpp") + ".html"

    def link_of_name(self, here):
        def link(name):
            if name in self.defined and self.defined[name][0] != here:
                return f"../{self.header_address(self.defined[name][0])}#{name}"
            return None
        return link

    def link_of_document(self, name):
        """Where a link of a document leads on the site."""
        base = ROOT / "docs" if (ROOT / "docs" / name).exists() else ROOT

        def link(target):
            if re.match(r"(https?:|#|mailto:)", target):
                return target
            path, _, anchor = target.partition("#")
            file = (base / path).resolve()
            if not file.exists() or ROOT not in file.parents:
                self.errors.append(f"{name}: no such file: {target}")
                return "#"
            return "../" + self.address_of_file(file) + (f"#{anchor}" if anchor else "")
        return link

    def address_of_file(self, file):
        relative = str(file.relative_to(ROOT))
        if file.suffix == ".md" and file.name in self.documents:
            return f"doc/{file.stem}.html"
        if relative == "include/dsv4/dsv4.hpp":  # the umbrella is the table of contents
            return "index.html"
        if relative.startswith("include/dsv4/") and file.suffix == ".hpp":
            return self.header_address(relative.removeprefix("include/dsv4/"))
        if file.suffix in (".svg", ".png"):
            (self.out / "doc").mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.out / "doc" / file.name)
            return f"doc/{file.name}"
        self.sources.add(relative)
        return "src/" + relative.replace("/", ".") + ".html"

    # ---- what a header says of itself and what others say of it

    def facts(self, header):
        text = self.headers[header]
        kernels = re.findall(r"struct (\w+)(?:<exec::ref>)? \{\s*(?:static_assert\(has_kernel|\s*template|\s*static)", text)
        kernels = sorted(set(kernels) & set(re.findall(r"struct (\w+)<exec::ref>", text)))
        rows = []
        for kernel in kernels:
            specialised = [f'<a href="../{self.header_address(h)}">{h}</a>' for h, t in self.headers.items()
                           if h != header and re.search(rf"struct (?:kernel::)?{kernel}<", t)]
            for name, t in self.cuda.items():
                if re.search(rf"struct (?:kernel::)?{kernel}<", t):
                    specialised.append(f'<a href="../{self.address_of_file(ROOT / name)}">{name}</a>')
            tests = [f'<a href="../{self.address_of_file(ROOT / n)}">{n.removeprefix("reference_tests/")}</a>' for n, t in self.tests.items()
                     if re.search(rf"\b{kernel}\b", t)][:4]
            rows.append(f"<tr><td><code>kernel::{kernel}</code></td><td>{', '.join(specialised) or 'inherited from the specification'}</td>"
                        f"<td>{', '.join(tests) or '-'}</td></tr>")
        sites = sorted(set(re.findall(r"site::(\w+)", text)))
        names = dict(zip(re.findall(r"\b[a-z_0-9]+\b", re.search(r"enum class site[^{]*\{(.*?)\}", self.headers["core/tap.hpp"], re.S)[1]),
                         re.findall(r'\{"([\w.]+)", "[^"]*", site_class', self.headers["core/tap.hpp"])))
        body = ""
        if rows:
            body += ('<div class="wide"><table><tr><th>customisation point</th><th>other executors</th><th>tests that name it</th></tr>'
                     + "".join(rows) + "</table></div>")
        if sites and not header.startswith(("golden/", "core/")):
            body += "<p>Values recorded here: " + ", ".join(f"<code>{names.get(s, s)}</code>" for s in sites) + "</p>"
        tests = [n for n, t in self.tests.items() if f"dsv4/{header}" in t]
        if tests and not rows:
            body += "<p>Tests: " + ", ".join(f'<a href="../{self.address_of_file(ROOT / n)}">{n.removeprefix("reference_tests/")}</a>'
                                             for n in tests[:6]) + "</p>"
        return body

    def header_page(self, header, before, after):
        text = self.headers[header]
        painter = source.Painter(self.notation, self.link_of_name(header))
        at_line = {line: name for name, (where, line) in self.defined.items() if where == header}
        parts = [f'<p class="soft">include/dsv4/{header}</p><h1>{html.escape(self.title_of(header))}</h1>']
        pieces = source.segments(text)
        for i, s in enumerate(pieces):
            end = pieces[i + 1].line if i + 1 < len(pieces) else text.count("\n") + 2
            anchors = "".join(f'<span id="{name}"></span>' for line, name in at_line.items() if s.line <= line < end)
            short, long = self.equations_of(s)
            words = (source.prose(s.prose, painter) if s.prose else "") + short
            code = f"<pre><code>{painter.paint(s.code)}</code></pre>" if s.code else ""
            parts.append(f'{long}<div class="pair" id="L{s.line}"><div class="words">{anchors}{words}</div><div>{code}</div></div>')
        facts = self.facts(header)
        if facts:
            parts.append(f"<h2>Who computes it, who checks it</h2>{facts}")
        link = lambda h, words: f'<a href="../{self.header_address(h)}">{words} {h}</a>' if h else "<span></span>"
        parts.append(f'<nav class="next">{link(before, "←")}{link(after, "→")}</nav>')
        self.write(self.header_address(header), header, "".join(parts), "code", text)

    def equations_of(self, segment):
        """The equations that a piece of code carries a tag of, as the report prints them: those for the column beside the code, and those
        that are too long for it and stand above both."""
        text = re.sub(r"@paper\{[^}]*\}", "", segment.prose) + "\n" + segment.code
        short, long = "", ""
        for n in sorted(source.equation_numbers(text) & set(equations.LATEX)):
            wide = len(re.sub(r"\\\w+|[{}\s]", "", equations.LATEX[n])) > 60
            shown = f'<a href="../equations.html#eq{n}">({n})</a>{tex.to_mathml(equations.LATEX[n], block=True)}'
            if wide:
                long += f'<div class="report long">{shown}</div>'
            else:
                short += f'<div class="report">{shown}</div>'
        return short, long

    def title_of(self, header):
        m = re.search(r"^/// (.*?)(?:[.:](?: |$)|$)", self.headers[header], re.M)
        return (m[1] if m and len(m[1]) < 90 else header.rsplit("/", 1)[-1].removesuffix(".hpp").replace("_", " ")).strip()

    # ---- the pages that join the others

    def order(self):
        """Headers in reading order: the umbrella's, then the rest by chapter."""
        listed = re.findall(r'#include "([^"]+)"', self.headers["dsv4.hpp"])
        chapters = list(CHAPTERS)
        rest = [h for h in self.headers if h not in listed and h != "dsv4.hpp"]
        unknown = {h.split("/")[0] for h in self.headers if "/" in h} - set(chapters)
        self.errors += [f"docs/build.py: no chapter for include/dsv4/{u}" for u in sorted(unknown)]
        everything = [h for h in listed if h in self.headers] + rest
        return sorted(everything, key=lambda h: (chapters.index(h.split("/")[0]) if h.split("/")[0] in chapters else 99,
                                                 listed.index(h) if h in listed else 10 ** 6, h))

    def index_page(self, order):
        said = dict(re.findall(r'#include "([^"]+)"\s*//\s*(.*)', self.headers["dsv4.hpp"]))
        parts = ["<h1>DeepSeek-V4, read line by line</h1><p>The comments on the left and the code on the right are one file, the one that runs. "
                 "Letters with dots under them explain themselves; numbers of equations lead to the equation and to every statement that is it.</p>",
                 '<p>With ten minutes: <a href="h/core.view.html">a tensor</a>, <a href="h/num.minifloat.html">a format</a>, '
                 '<a href="h/mhc.sinkhorn.html">an equation</a>. With an hour: <a href="h/model.block.html">the block</a> and what it calls.</p>']
        for folder, (title, idea, drawn) in CHAPTERS.items():
            here = [h for h in order if h.split("/")[0] == folder]
            if not here:
                continue
            parts.append(f'<h2 id="{folder}">{title}</h2><p>{idea}</p>')
            for name in drawn:
                parts.append(figures.newton_schulz(self.headers["optim/newton_schulz.hpp"]) if name == "newton_schulz" else getattr(figures, name)())
            parts.append('<div class="wide"><table>' + "".join(
                f'<tr><td><a href="{self.header_address(h)}">{h.split("/", 1)[-1].removesuffix(".hpp")}</a></td>'
                f"<td>{html.escape(said.get(h, self.title_of(h)))}</td></tr>" for h in here) + "</table></div>")
        parts.append("<h2 id=\"documents\">Documents</h2><ul>" + "".join(
            f'<li><a href="doc/{n.removesuffix(".md")}.html">{html.escape(t.splitlines()[0].lstrip("# "))}</a></li>'
            for n, t in self.documents.items()) + "</ul>")
        captions = " ".join(re.findall(r"<figcaption>(.*?)</figcaption>", "".join(parts)))
        self.write("index.html", "Contents", "".join(parts), words=" ".join(f"{title} {idea}" for title, idea, _ in CHAPTERS.values()) + " " + captions)

    def equations_page(self):
        """Every equation, its statements (docs/equations.py holds the tags to its table), and the tests that hold it."""
        found = tagged.match([t for file, text in self.headers.items() for t in tagged.tags_of(file, text.splitlines())])[1]
        parts = ["<h1>Equations of the report</h1><p>Each with every statement that is it, and the tests that hold it.</p>"]
        for number, equation in sorted(tagged.EQUATIONS.items()):
            if number not in equations.LATEX:
                self.errors.append(f"docs/book/equations.py: equation ({number}) is missing")
                continue
            for letter in tex.letters(equations.LATEX[number]) - set(equations.REPORT_LETTERS):
                self.errors.append(f"equation ({number}): letter {letter} is explained nowhere")
            rows = "".join(f'<tr><td><a href="{self.header_address(tag.file)}#L{self.piece_of_line(tag.file, tag.line)}">{tag.file}</a></td>'
                           f'<td><code>{html.escape(tag.statement)}</code></td></tr>' for tag in found[number])
            tests = ", ".join(f'<a href="{self.address_of_file(ROOT / "reference_tests" / tagged.TESTS[k][0])}">{html.escape(tagged.TESTS[k][1])}</a>'
                              for k in equation.tests)
            sites = ", ".join(f'<a href="doc/numerics.html"><code>{name}</code></a>' for name in equations.SITES.get(number, ()))
            self.errors += [f"docs/book/equations.py: equation ({number}): no site {name} in core/tap.hpp" for name in equations.SITES.get(number, ())
                            if f'{{"{name}"' not in self.headers["core/tap.hpp"]]
            recorded = f" Recorded in every bundle as {sites}." if sites else " No site: what it computes is not stored."
            parts.append(f'<div class="eq" id="eq{number}"><strong>({number})</strong> {markdown.inline(equation.says, str)}'
                         f'{tex.to_mathml(equations.LATEX[number], block=True)}<div class="wide"><table>{rows}</table></div>'
                         f"<p class=\"soft\">Held by {tests}.{recorded}</p></div>")
        parts.append("<h2 id=\"letters\">Letters of the report</h2><table>" + "".join(
            f"<tr><td>{k}</td><td>{v}</td></tr>" for k, v in sorted(equations.REPORT_LETTERS.items())) + "</table>")
        self.write("equations.html", "Equations", "".join(parts), words=" ".join(e.says for e in tagged.EQUATIONS.values()))

    def piece_of_line(self, header, line):
        """The first line of the piece of a header's page that holds a line."""
        return max((s.line for s in source.segments(self.headers[header]) if s.line <= line), default=1)

    def architecture_page(self):
        """The layers of the library, drawn from the file that the lint holds them to."""
        below = {}
        for line in (ROOT / "reference_tests" / "lint" / "layers.txt").read_text().splitlines():
            line = line.split("#")[0].strip()
            if line:
                name, rest = line.split(":", 1)
                below[name.strip()] = rest.split("|")[0].split()
        counts = {f: sum(h.startswith(f + "/") for h in self.headers) for f in below}
        self.write("architecture.html", "Architecture", "<h1>Architecture</h1><p>A folder may include what stands below it, and nothing above: "
                   '<a href="src/reference_tests.lint.layers.txt.html">layers.txt</a>, checked in every test run. The number is that of its headers.</p>'
                   + figures.layers(below, counts) + '<p>What to open for a change: <a href="doc/CONTRIBUTING.html">contributing</a>.</p>'
                   if "CONTRIBUTING.md" in self.documents else "<h1>Architecture</h1>" + figures.layers(below, counts))
        self.sources.add("reference_tests/lint/layers.txt")

    def said_of(self, header, line):
        """The first sentence of the comment above a definition; empty if that comment is another's."""
        pieces = [s for s in source.segments(self.headers[header]) if s.line <= line]
        if not pieces or not pieces[-1].prose:
            return ""
        prose = pieces[-1].prose
        between = line - pieces[-1].line - prose.count("\n") - 1  # lines of code before the definition, a template's head among them
        sentence = re.match(r"(.*?[.:])(?:\s|$)", " ".join(prose.split("\n\n")[0].split()) + " ")
        return sentence[1].rstrip(":") if sentence and 0 <= between <= 2 else ""

    def glossary_page(self, order):
        rows = [f'<tr><td><a href="{self.header_address(h)}#{n}"><code>{n}</code></a></td><td>{html.escape(self.said_of(h, line))}</td>'
                f'<td class="soft">{h}</td></tr>' for n, (h, line) in sorted(self.defined.items(), key=lambda kv: kv[0].lower())]
        letters = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in self.notation.items())
        words = self.documents["notation.md"].partition("## Words")[2]
        if not words:
            self.errors.append("docs/notation.md: no section Words for the glossary")
        body, _ = markdown.to_html(re.sub(r"`([a-z_/]+\.hpp)`", r"[\1](../include/dsv4/\1)", words), self.link_of_document("notation.md"))
        self.write("glossary.html", "Glossary", "<h1>Glossary</h1><h2>Words</h2>" + body.replace('href="../', 'href="') + "<h2>Letters</h2><table>" + letters
                   + "</table><h2>Names</h2><div class=\"wide\"><table>" + "".join(rows) + "</table></div>", words=words + " ".join(self.defined))

    def build(self):
        order = self.order()
        for i, header in enumerate(order):
            self.header_page(header, order[i - 1] if i else None, order[i + 1] if i + 1 < len(order) else None)
        for name, text in self.documents.items():
            body, _ = markdown.to_html(text, self.link_of_document(name))
            self.write(f"doc/{name.removesuffix('.md')}.html", text.splitlines()[0].lstrip("# "), body, words=text)
        self.index_page(order)
        self.equations_page()
        self.glossary_page(order)
        self.architecture_page()
        for relative in sorted(self.sources):
            file = ROOT / relative
            if file.is_dir():
                listing = "".join(f"<li>{html.escape(p.name)}</li>" for p in sorted(file.iterdir()))
                self.write("src/" + relative.replace("/", ".") + ".html", relative, f"<h1>{relative}/</h1><ul>{listing}</ul>")
            else:
                painter = source.Painter({}, lambda name: None)
                content = file.read_bytes()[:200_000].decode("utf-8", "replace")
                body = painter.paint(content) if file.suffix in (".cpp", ".hpp", ".cuh", ".cu") else html.escape(content)
                self.write("src/" + relative.replace("/", ".") + ".html", relative, f"<h1>{relative}</h1><pre><code>{body}</code></pre>", "code")
        self.check_links()
        for address, page in self.pages.items():
            target = self.out / address
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page)
        here = pathlib.Path(__file__).parent / "book"
        for name in ("style.css", "search.js"):
            shutil.copy(here / name, self.out / name)
        (self.out / "search-index.js").write_text("const pages = " + json.dumps(self.search, ensure_ascii=False) + ";\n")

    def check_links(self):
        """Every link between pages leads to a page that is there, and to an anchor that is on it."""
        ids = {address: set(re.findall(r'\bid="([^"]+)"', page)) for address, page in self.pages.items()}
        for address, page in self.pages.items():
            for target in re.findall(r'href="([^"]+)"', page):
                if re.match(r"(https?:|mailto:)", target) or target.endswith(".css"):
                    continue
                path, _, anchor = target.partition("#")
                to = os.path.normpath(os.path.join(os.path.dirname(address), path)) if path else address
                if to not in self.pages:
                    if not (self.out / to).exists():
                        self.errors.append(f"{address}: {target} leads nowhere")
                elif anchor and anchor not in ids[to]:
                    self.errors.append(f"{address}: no anchor {anchor} in {to}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "site")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    site = Site(options.out)
    site.build()
    for error in sorted(set(site.errors)):
        print(error, file=sys.stderr)
    print(f"docs: {len(site.pages)} pages in {options.out}, {len(set(site.errors))} errors")
    return bool(site.errors)


if __name__ == "__main__":
    sys.exit(main())
