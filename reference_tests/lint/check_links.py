#!/usr/bin/env python3
"""What comments and documents point to exists.

Checked: links of Markdown files with their anchors; every path in a comment or a document, from the repository's root, from
include/dsv4, docs or reference_tests, or from the folder of the file that names it; header and document names without a
folder.  golden/... are the oracle's data: they are looked for in reference_tests/data.  Code blocks of documents are commands
and output, not references.  Every document of docs/ is linked from another.

And two lists that a document repeats from the code are whole: docs/numerics.md names every site of core/tap.hpp,
docs/verification.md every mistake of golden/mistake/mistake.hpp.
"""
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parents[2]
listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True,
                        text=True).stdout.split("\n")
if not any(listed):  # not a checkout: a copy of the tree
    listed = [str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()]
files = {f for f in listed if f and (root / f).is_file() and not f.startswith("build")}
folders = {str(p) for f in files for p in pathlib.PurePosixPath(f).parents}
names = {pathlib.PurePosixPath(f).name for f in files}
tops = {f.split("/")[0] for f in files if "/" in f}

# Files of others, whose names stand here as sources: the released inference code, engines, torch.
foreign = {"model.py", "kernel.py", "convert.py", "generate.py", "encoding_dsv4.py", "modeling_deepseek_v4.py", "muon.py", "xstorage.hpp"}
path = re.compile(r"(?<![\w/.*<>{}$%-])((?:\.\./)*(?:[\w.-]+/)+[\w*.-]*[\w*]|[\w-]+\.(?:hpp|md))(?![\w<{$*/])")
checked_endings = (".hpp", ".cpp", ".cu", ".cuh", ".md", ".py", ".sh", ".txt", ".svg")


def exists(name, source):
    name = name.removesuffix("/")
    here = pathlib.PurePosixPath(source).parent
    places = ["", "include/dsv4", "include", "docs", "reference_tests", str(here)]
    if "include/dsv4" in str(here):
        places += [str(p) for p in here.parents]
    for place in places:
        joined = str(pathlib.PurePosixPath(place) / name) if place not in ("", ".") else name
        parts = []
        for part in joined.split("/"):
            parts.pop() if part == ".." and parts else parts.append(part)
        full = "/".join(parts)
        if "*" in full:
            if any(pathlib.PurePosixPath(f).match(full) for f in files):
                return True
        elif full in files or full in folders or full + ".cpp" in files:  # a program by its name
            return True
    data = "reference_tests/data/" + name.removeprefix("golden/")
    return name.startswith("golden/") and any(d in files or d in folders for d in (data, data + ".zst"))


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").lower().strip()
        found.add(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-"))
    return found


def comments(source, text):
    """(line number, text) of what is written for people."""
    if source.endswith(".md"):
        code = False
        for at, line in enumerate(text.split("\n"), 1):
            if line.startswith("```"):
                code = not code
            elif not code:
                yield at, line
    elif source.endswith((".hpp", ".cpp", ".cu", ".cuh")):
        for at, line in enumerate(text.split("\n"), 1):
            hit = re.search(r"(?<![:\"'])//(.*)$", line)
            if hit:
                yield at, hit.group(1)
    else:
        for at, line in enumerate(text.split("\n"), 1):
            hit = re.search(r"#\s(.*)$", line)
            if hit:
                yield at, hit.group(1)


errors, links, paths, targets = [], 0, 0, set()
for source in sorted(files):
    if not source.endswith((".hpp", ".cpp", ".cu", ".cuh", ".md", ".py", ".sh", "CMakeLists.txt", ".cmake")) or "/data/" in source:
        continue
    text = (root / source).read_text(errors="replace")
    if source.endswith(".md"):
        for at, line in comments(source, text):
            for target in re.findall(r"\]\(([^)\s]+)\)", line):
                if re.match(r"[a-z]+:", target):
                    continue
                links += 1
                to, _, anchor = target.partition("#")
                full = (root / source).parent / to if to else root / source
                targets.add(full.resolve())
                if not full.exists():
                    errors.append(f"{source}:{at}: link to {target}: no such file")
                elif anchor and anchor not in anchors(full.read_text()):
                    errors.append(f"{source}:{at}: link to {target}: no such heading there")
    for at, line in comments(source, text):
        plain = re.sub(r"\]\([^)]*\)", "]", re.sub(r"https?://\S+", "", line))
        for name in path.findall(plain):
            if "/" not in name:
                if name not in names and name not in foreign:
                    errors.append(f"{source}:{at}: names {name}, which is nowhere in the tree")
                continue
            first = name.lstrip("./").split("/")[0]
            known = name.endswith(checked_endings) or (first in tops and first != "golden" and name.count("/") >= 1)
            if not known or name.split("/")[-1] in foreign or first in ("build", "dsv4"):
                continue
            paths += 1
            if not exists(name.rstrip("."), source):
                errors.append(f"{source}:{at}: names {name}, which does not exist")

for document in sorted((root / "docs").glob("*.md")):
    if document.resolve() not in targets:
        errors.append(f"docs/{document.name}: no document links to it, so nobody finds it")

# Lists that a document has to have whole.
site_names = re.findall(r'\{"([\w.]+)", "[a-z ]+", site_class', (root / "include/dsv4/core/tap.hpp").read_text())
mistakes = re.findall(r'^\s*\{"(\w+)",', (root / "include/dsv4/golden/mistake/mistake.hpp").read_text(), re.M)
for document, wanted in (("docs/numerics.md", site_names), ("docs/verification.md", mistakes)):
    text = (root / document).read_text()
    if not wanted:
        errors.append(f"{document}: found nothing that it should name; this check must follow the code")
    errors += [f"{document}: does not name `{name}`" for name in wanted if f"`{name}`" not in text]

print("\n".join(errors) or f"links: {links} links and {paths} paths exist; {len(site_names)} sites and {len(mistakes)} mistakes are documented")
sys.exit(bool(errors))
