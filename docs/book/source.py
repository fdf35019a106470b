"""A header as a reader's page: its comments as prose on the left, the code they speak of on the right."""
import dataclasses
import html
import re

KEYWORDS = set("""alignas alignof auto bool break case catch char class concept const consteval constexpr constinit continue decltype
default delete do double else enum explicit extern false float for friend if inline int long mutable namespace new noexcept nullptr
operator private protected public requires return short signed sizeof static static_assert struct switch template this throw true try
typedef typename union unsigned using virtual void volatile while""".split())
TOKEN = re.compile(r'(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')'
                   r'|(?P<number>\b\d[\w.\']*)|(?P<word>[A-Za-z_]\w*)|(?P<pre>^\s*#\s*\w+)', re.S | re.M)
EQUATION = re.compile(r"Eq\. \(\d+\)(?:(?:-|, )\(\d+\)| \((?:CSA|HCA)\), (?=\())*(?:\(\d+\)(?:-\(\d+\))?)?")


@dataclasses.dataclass
class Segment:
    prose: str  # comment text without its slashes
    code: str   # the lines that follow it
    line: int   # of the first line of either


def segments(text):
    """The file in pieces: each run of comment lines, and the code up to the next run."""
    out, prose, code, start = [], [], [], 1
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("//") and "clang-format" not in stripped and "SPDX" not in stripped:
            if code:
                out.append(Segment("\n".join(prose), "\n".join(code).strip("\n"), start))
                prose, code = [], []
            if not prose:
                start = number
            prose.append(re.sub(r"^///?<? ?", "", stripped))
        elif "SPDX" in stripped or stripped == "#pragma once" or "clang-format" in stripped:
            continue
        elif stripped or code:
            if not prose and not code:
                start = number
            code.append(line)
    if prose or code:
        out.append(Segment("\n".join(prose), "\n".join(code).strip("\n"), start))
    return out


def definitions(text):
    """Names that a header defines: types, concepts, functions and constants at namespace level, with their lines."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        m = (re.match(r"(?:inline )?(?:constexpr )?(?:struct|class|enum class|concept) (\w+)", line)
             or re.match(r"using (\w+) =", line)
             or re.match(r"inline constexpr [\w:<>, ]+ (\w+)(?:\[\])? ?[={]", line)
             or re.match(r"(?:inline |constexpr |\[\[nodiscard\]\] )*[\w:<>, *&]+ (\w+)\(", line))
        if m and m[1] not in KEYWORDS and not line.startswith(("return", "  ")):
            found.setdefault(m[1], number)
    return found


class Painter:
    """Code as HTML: coloured, letters of shapes explained, names linked to where they are defined."""

    def __init__(self, notation, link_of):
        self.notation, self.link_of = notation, link_of  # letter -> meaning; name -> href or None

    def shape_letters(self, escaped):
        """Letters between brackets, each explained where the notation knows it."""
        def one(match):
            inner = re.sub(r"[A-Za-z]+", lambda m: self.letter(m[0]), match[1])
            return f"[{inner}]"
        return re.sub(r"\[([A-Za-z0-9 ,.+*/()'-]{1,40})\]", one, escaped)

    def letter(self, word):
        meaning = self.notation.get(word)
        return f'<abbr title="{html.escape(meaning)}">{word}</abbr>' if meaning else word

    def comment(self, text):
        escaped = html.escape(text)
        escaped = EQUATION.sub(lambda m: equation_links(m), escaped)
        if "einsum:" in escaped:
            head, tail = escaped.split("einsum:", 1)
            tail = re.sub(r"(?<![\w&;])[A-Za-z]{1,2}(?![\w;])", lambda m: self.letter(m[0]), tail)
            escaped = head + "einsum:" + tail
        return f'<span class="c">{self.shape_letters(escaped)}</span>'

    def paint(self, code):
        out, last = [], 0
        for m in TOKEN.finditer(code):
            out.append(html.escape(code[last:m.start()]))
            last = m.end()
            word = m[0]
            if m["comment"]:
                out.append(self.comment(word))
            elif m["string"]:
                out.append(f'<span class="s">{html.escape(word)}</span>')
            elif m["number"]:
                out.append(f'<span class="n">{html.escape(word)}</span>')
            elif m["pre"]:
                out.append(f'<span class="p">{html.escape(word)}</span>')
            elif word in KEYWORDS:
                out.append(f'<span class="k">{word}</span>')
            else:
                href = self.link_of(word)
                out.append(f'<a href="{href}">{word}</a>' if href else word)
        out.append(html.escape(code[last:]))
        return "".join(out)


def equation_links(match, root="../"):
    """`Eq. (9)-(11)` with each number a link to the page of equations."""
    return re.sub(r"\((\d+)\)", rf'<a href="{root}equations.html#eq\1">(\1)</a>', match[0])


def equation_numbers(text):
    """The numbers of all equations that a text names, those of a range included."""
    return {n for m in EQUATION.finditer(text) for first, last in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", m[0])
            for n in range(int(first), int(last or first) + 1)}


def prose(text, painter):
    """Comment text as HTML: paragraphs; laid-out lines (two spaces or more inside) stay as they are."""
    out = []
    # A line of the opening block, and each numbered post-condition, is a paragraph of its own.
    parted = re.sub(r"\n(?=(?:@\w+|axes|oracle|deviates|\(\d\))\b|\s+\(\d\) )", "\n\n", text)
    for block in re.split(r"\n\s*\n", parted):
        lines = block.splitlines()
        laid_out = sum(bool(re.match(r"\s{2,}\S|\S.*[^.\s] {2,}\S", line)) for line in lines) * 2 > len(lines)
        if laid_out and len(lines) > 1:
            body = painter.shape_letters(EQUATION.sub(equation_links, html.escape("\n".join(lines))))
            out.append(f"<pre class=\"laid\">{tags(body)}</pre>")
        else:
            body = EQUATION.sub(equation_links, html.escape(" ".join(line.strip() for line in lines)))
            body = re.sub(r"`([^`]+)`", r"<code>\1</code>", body)
            out.append(f"<p>{tags(painter.shape_letters(body))}</p>")
    return "".join(out)


def tags(body):
    """The tags of the doc blocks as words."""
    body = re.sub(r"@paper\{([^}]*)\}", r'<span class="tag">paper</span> \1', body)
    body = re.sub(r"^(axes|oracle|deviates)\b", r'<span class="tag">\1</span>', body)
    return re.sub(r"@(\w+)", r'<span class="tag">\1</span>', body)
