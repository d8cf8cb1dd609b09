"""The one look of every page: a style sheet and a few lines of script, both put inside the page.

Quiet ink on plain ground, one blue and one vermillion (told apart by colour-blind readers), system fonts, figures of
equal width in every table. Dark and light follow the reader's system; a phone gets one column and its own plots.
Nothing is fetched: the policy below forbids it, so a page opened years later, off the network, looks the same.
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

CSS = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f7f9; --line: #e3e6ea; --ink: #14171c; --soft: #5b6470;
  --series-1: #0b6cb8; --series-2: #c8520a; --accent: #0b6cb8; --warn: #b42318;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0f1216; --raised: #171b21; --line: #2a3038; --ink: #e8ebef; --soft: #97a1ad;
    --series-1: #58b0f5; --series-2: #f59a4c; --accent: #58b0f5; --warn: #ff8a7a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 var(--sans); font-variant-numeric: tabular-nums;
}
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; letter-spacing: -.005em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; font-weight: 600; letter-spacing: -.015em; margin: 0 0 .3rem; }
p { margin: 0; }
section { margin-top: 4rem; }
.note { color: var(--soft); max-width: 42rem; margin-bottom: 1.2rem; }
code, pre, .mono { font-family: var(--mono); font-size: .86em; }
header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .3rem 1.5rem; }
header p { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }

.hero {
  margin-top: 3rem; display: grid; grid-template-columns: auto 1fr; gap: 1.5rem 3.5rem;
  align-items: end;
}
.number { font-size: clamp(4rem, 13vw, 7.5rem); font-weight: 650; line-height: .86; letter-spacing: -.055em; }
.unit { margin-top: 1.1rem; font-size: 1.05rem; font-weight: 600; }
.unit span { color: var(--soft); font-weight: 400; }
.hero .said { font-size: 1.12rem; line-height: 1.55; max-width: 30rem; text-wrap: pretty; }
.alarm {
  margin-top: 2rem; padding: .7rem 1rem; border-left: 3px solid var(--warn);
  background: var(--raised);
}
.alarm b { color: var(--warn); }

.meter { margin-top: 3rem; }
.meter .track {
  display: flex; height: .8rem; border-radius: .4rem; overflow: hidden; background: var(--line);
  gap: 2px;
}
.track .model { background: var(--series-1); }
.track .code { background: var(--series-2); }
.meter ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.8rem; margin: .7rem 0 0;
  padding: 0;
}
.meter li { color: var(--soft); font-size: .9rem; }
.meter li::before {
  content: ""; display: inline-block; width: .6rem; height: .6rem; border-radius: 2px;
  margin-right: .5rem;
}
.meter li.model::before { background: var(--series-1); }
.meter li.code::before { background: var(--series-2); }
.meter li.free::before { background: var(--line); }
.meter li b { color: var(--ink); font-weight: 600; }

.cards {
  margin: 3rem 0 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 1.6rem 1.5rem;
}
.cards div { border-top: 1px solid var(--line); padding-top: .8rem; }
.cards dt { color: var(--soft); font-size: .84rem; }
.cards dd {
  margin: .1rem 0 0; font-size: 1.45rem; font-weight: 600; letter-spacing: -.02em;
  line-height: 1.25;
}
.cards dd small {
  display: block; font-size: .84rem; font-weight: 400; letter-spacing: 0; color: var(--soft);
}

figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg text { font-family: var(--sans); }
figure .narrow { display: none; }
figure + .scroll { margin-top: 1.6rem; }

.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
th, td {
  text-align: right; padding: .5rem 0 .5rem 1.4rem; border-bottom: 1px solid var(--line);
  white-space: nowrap;
}
th:first-child, td:first-child { padding-left: 0; }
th { color: var(--soft); font-weight: 500; font-size: .84rem; vertical-align: bottom; }
th.text, td.text { text-align: left; }
tr.chosen td { font-weight: 650; }
tr.chosen td:first-child::after {
  content: "graded"; margin-left: .7rem; font-size: .74rem; font-weight: 600; color: var(--accent);
}
tfoot td { font-weight: 600; border-bottom: 0; }
th button { all: unset; cursor: pointer; }
th button:hover, th button:focus-visible {
  color: var(--ink); text-decoration: underline; text-underline-offset: .25em;
}
th[aria-sort="ascending"] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort="descending"] button::after { content: " \\2193"; color: var(--accent); }
.tall { max-height: 27rem; overflow: auto; }
.tall thead th { position: sticky; top: 0; background: var(--ground); box-shadow: 0 1px 0 var(--line); }
table.pairs td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.pairs td:first-child { width: 38%; color: var(--soft); padding-right: 1rem; }
pre {
  margin: 0; padding: 1rem 1.2rem; background: var(--raised); border-radius: .5rem;
  overflow-x: auto; line-height: 1.6;
}
details summary { cursor: pointer; font-size: 1.25rem; font-weight: 600; letter-spacing: -.015em; }
details[open] summary { margin-bottom: .8rem; }
footer { margin-top: 5rem; color: var(--soft); font-size: .84rem; }

@media (max-width: 44rem) {
  main { padding: 2rem 1.1rem 3rem; }
  section { margin-top: 3rem; }
  .hero { grid-template-columns: 1fr; margin-top: 2.2rem; }
  .hero .said { font-size: 1.02rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: 1.1rem 1.1rem; margin-top: 2.2rem; }
  .cards dd { font-size: 1.25rem; }
  figure .wide { display: none; }
  figure .narrow { display: block; }
  table { font-size: .86rem; }
  th, td { padding-left: .9rem; }
}
@media print {
  main { max-width: none; padding: 0; }
  section { break-inside: avoid; margin-top: 2rem; }
  .tall { max-height: none; }
}
"""

SORT_SCRIPT = """
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, at) => { const cell = row.cells[at]; return cell.dataset.value ?? cell.textContent; };
  heads.forEach((head, at) => head.querySelector("button")?.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending", numeric = !head.classList.contains("text");
    const words = (a, b) => a.localeCompare(b, "en", {numeric: true}), numbers = (a, b) => a - b;
    const order = (a, b) => (numeric ? numbers : words)(key(a, at), key(b, at));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  }));
}
"""
