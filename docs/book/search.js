// Search without a server: `pages` (search-index.js) is a list of [title, address, words].
const box = document.getElementById("search"), found = document.getElementById("found");
const root = document.body.dataset.root;
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  found.textContent = "";
  found.style.display = words.length ? "block" : "none";
  if (!words.length) return;
  // A whole word counts more than a part of one, the title more than the opening, the opening more than the rest.
  const whole = (text, w) => {
    for (let at = text.indexOf(w); at >= 0; at = text.indexOf(w, at + 1))
      if (!/[a-z0-9]/.test(text[at - 1] ?? " ") && !/[a-z0-9]/.test(text[at + w.length] ?? " ")) return true;
    return false;
  };
  const score = ([title, , text]) => words.reduce((s, w) => {
    const head = title.toLowerCase(), inTitle = head.includes(w), inText = text.includes(w);
    if (s === 0 || (!inTitle && !inText)) return 0;
    return s + (inTitle ? (whole(head, w) ? 12 : 6) : 0) + (whole(text.slice(0, 500), w) ? 4 : 0) + 1;
  }, 1);
  const hits = pages.map((p) => [score(p), p]).filter(([s]) => s > 0).sort((x, y) => y[0] - x[0]).slice(0, 12);
  for (const [, [title, address, text]] of hits) {
    const a = document.createElement("a");
    a.href = root + address;
    a.textContent = title;
    const at = text.indexOf(words[0]), around = document.createElement("small");
    around.textContent = at < 0 ? "" : " … " + text.slice(Math.max(0, at - 30), at + 60);
    a.append(around);
    found.append(a);
  }
  if (!hits.length) found.textContent = "nothing found";
});
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && document.activeElement !== box) { e.preventDefault(); box.focus(); }
  if (e.key === "Escape") { box.value = ""; found.style.display = "none"; }
});
