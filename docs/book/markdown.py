"""The part of Markdown that docs/*.md use, as HTML."""
import html
import re


def slug(heading):
    """The anchor of a heading, as common renderers of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"`", "", heading).strip().lower()).replace(" ", "-")


def inline(text, link_of):
    """One line: code, bold, emphasis, images and links; `link_of(target)` says where a link leads on the site."""
    codes = []

    def keep(match):
        codes.append(f"<code>{html.escape(match[1])}</code>")
        return f"\0{len(codes) - 1}\0"

    text = re.sub(r"``?([^`]+)``?", keep, text)
    text = html.escape(text, quote=False)
    text = re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", lambda m: f'<img src="{link_of(m[2])}" alt="{m[1]}">', text)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", lambda m: f'<a href="{link_of(m[2])}">{m[1]}</a>', text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", text)
    return re.sub("\0(\\d+)\0", lambda m: codes[int(m[1])], text)


def cells(line):
    """The cells of a table row; `\\|` and bars inside code do not part them."""
    kept = re.sub(r"`[^`]*`", lambda m: m[0].replace("|", "\1"), line.strip().strip("|")).replace("\\|", "\1")
    return [c.strip().replace("\1", "|") for c in kept.split("|")]


def to_html(text, link_of):
    """A document; returns (html, [(level, heading, anchor)])."""
    lines, at, out, headings = text.splitlines(), 0, [], []

    def paragraph(words):
        return inline(" ".join(words), link_of)

    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
        elif line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
            out.append("<pre><code>" + html.escape("\n".join(lines[at + 1:end])) + "</code></pre>")
            at = end + 1
        elif m := re.match(r"(#+) (.*)", line):
            anchor = slug(m[2])
            headings.append((len(m[1]), m[2], anchor))
            out.append(f'<h{len(m[1])} id="{anchor}">{inline(m[2], link_of)}</h{len(m[1])}>')
            at += 1
        elif line.lstrip().startswith("|") and at + 1 < len(lines) and re.match(r"\s*\|[\s:|-]+\|?\s*$", lines[at + 1]):
            out.append('<div class="wide"><table><tr>' + "".join(f"<th>{inline(c, link_of)}</th>" for c in cells(line)) + "</tr>")
            at += 2
            while at < len(lines) and lines[at].lstrip().startswith("|"):
                out.append("<tr>" + "".join(f"<td>{inline(c, link_of)}</td>" for c in cells(lines[at])) + "</tr>")
                at += 1
            out.append("</table></div>")
        elif re.match(r"\s*([-*]|\d+\.) ", line):
            kind = "ol" if re.match(r"\s*\d", line) else "ul"
            items = []
            while at < len(lines) and (re.match(r"\s*([-*]|\d+\.) ", lines[at]) or (items and lines[at].startswith("  ") and lines[at].strip())):
                if m := re.match(r"\s*([-*]|\d+\.) (.*)", lines[at]):
                    items.append([m[2]])
                else:
                    items[-1].append(lines[at].strip())
                at += 1
            out.append(f"<{kind}>" + "".join(f"<li>{paragraph(i)}</li>" for i in items) + f"</{kind}>")
        elif line.startswith(">"):
            quote = []
            while at < len(lines) and lines[at].startswith(">"):
                quote.append(lines[at][1:].strip())
                at += 1
            out.append(f"<blockquote>{paragraph(quote)}</blockquote>")
        elif line.startswith("    "):
            block = []
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                block.append(lines[at][4:])
                at += 1
            out.append("<pre><code>" + html.escape("\n".join(block).rstrip()) + "</code></pre>")
        else:
            words = []
            while at < len(lines) and lines[at].strip() and not re.match(r"(```|#+ |\s*\||>|\s*([-*]|\d+\.) )", lines[at]):
                words.append(lines[at].strip())
                at += 1
            if not words:  # a lone bar or the like: text
                words.append(lines[at].strip())
                at += 1
            out.append(f"<p>{paragraph(words)}</p>")
    return "\n".join(out), headings
