"""The one look of every page: a style sheet and a few lines of script, both put inside the page.

Quiet ink on plain ground, one blue and one vermillion (told apart by colour-blind readers), on a board one colour a
recipe; system fonts, figures of equal width in every table. Dark and light follow the reader's system; a phone gets one
column and its own plots. Nothing is fetched: the policy below forbids it, so a page opened years later, off the
network, looks the same.
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

CSS = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f7f9; --line: #e3e6ea; --ink: #14171c; --soft: #5b6470;
  --series-1: #0b6cb8; --series-2: #bf4c06; --series-3: #00805a; --series-4: #7b4ab5;
  --series-5: #8f6600; --series-6: #0a7c8c; --series-7: #b8326f; --series-8: #6b7480;
  --accent: #0b6cb8; --warn: #b42318; --good: #00805a;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0f1216; --raised: #171b21; --line: #2a3038; --ink: #e8ebef; --soft: #97a1ad;
    --series-1: #58b0f5; --series-2: #f59a4c; --series-3: #4fc48f; --series-4: #b99af0;
    --series-5: #dcb85a; --series-6: #56c7d6; --series-7: #f28ab8; --series-8: #97a1ad;
    --accent: #58b0f5; --warn: #ff8a7a; --good: #4fc48f;
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
h3 { font-size: .95rem; font-weight: 600; margin: 1.4rem 0 .4rem; }
a { color: inherit; text-decoration-color: var(--line); text-underline-offset: .2em; }
a:hover { text-decoration-color: currentColor; }
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
details summary small {
  color: var(--soft); font-size: .84rem; font-weight: 400; letter-spacing: 0; margin-left: .5rem;
}
details[open] summary { margin-bottom: .8rem; }
footer { margin-top: 5rem; color: var(--soft); font-size: .84rem; }

main:has(.board) { max-width: 84rem; }
#runs th, #runs td { padding-left: 1rem; }
#runs td.text { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
#runs th:first-child, #runs td:first-child { position: sticky; left: 0; background: var(--ground); padding-left: 0; }
.lost { margin: 1.2rem 0 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2.5rem; }
.filter { display: flex; align-items: baseline; gap: 1rem; margin-bottom: .8rem; }
.filter input {
  font: inherit; color: inherit; background: var(--raised); border: 1px solid var(--line);
  border-radius: .4rem; padding: .45rem .75rem; width: min(22rem, 100%);
}
.filter input:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.filter output { color: var(--soft); font-size: .9rem; white-space: nowrap; }
#runs tbody tr:hover td, #runs tbody tr.hot td { background: var(--raised); }
#runs td:first-child { padding-right: .6rem; }
.key { display: inline-block; width: .6rem; height: .6rem; border-radius: 50%; margin-right: .55rem; }
.key, .dots { --hue: var(--series-8); }
.s1 { --hue: var(--series-1) !important; } .s2 { --hue: var(--series-2) !important; }
.s3 { --hue: var(--series-3) !important; } .s4 { --hue: var(--series-4) !important; }
.s5 { --hue: var(--series-5) !important; } .s6 { --hue: var(--series-6) !important; }
.s7 { --hue: var(--series-7) !important; }
.key { background: var(--hue); }
.front { margin-left: .6rem; font-size: .74rem; font-weight: 600; color: var(--accent); }
td.good { color: var(--good); }
td.bad { color: var(--warn); font-weight: 600; }
td.long { white-space: normal; min-width: 16rem; }
td.strip { width: 34%; min-width: 11rem; padding-right: .6rem; }
.dots { display: block; position: relative; height: 1.1rem; }
.dots b {
  position: absolute; top: .43rem; height: .24rem; min-width: 2px; border-radius: 2px; background: var(--hue);
  opacity: .28;
}
.dots i {
  position: absolute; top: .3rem; width: .5rem; height: .5rem; margin-left: -.25rem; border-radius: 50%;
  background: var(--hue);
}
.split { margin-top: 1.1rem; }
.split p { font-size: .92rem; margin-bottom: .35rem; }
.split small { color: var(--soft); margin-left: .5rem; font-size: .84rem; }
.split .track {
  display: flex; gap: 2px; height: .8rem; border-radius: .4rem; overflow: hidden; background: var(--line);
}
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; margin: 0; padding: 0; }
.keys li { color: var(--soft); font-size: .9rem; }
.keys li::before {
  content: ""; display: inline-block; width: .6rem; height: .6rem; border-radius: 2px; margin-right: .5rem;
  background: var(--part);
}
.k0 { --part: var(--series-1); } .k4 { --part: var(--series-2); }
.k1 { --part: color-mix(in srgb, var(--series-1) 66%, var(--ground)); }
.k2 { --part: color-mix(in srgb, var(--series-1) 42%, var(--ground)); }
.k3 { --part: color-mix(in srgb, var(--series-1) 24%, var(--ground)); }
.split .track span { background: var(--part); }
svg [data-runs] { transition: opacity .12s; }
svg.lit [data-runs]:not(.hot) { opacity: .14; }
[hidden], svg [data-runs].gone { display: none; }

@media (max-width: 76rem) {
  #runs { font-size: .82rem; }
  #runs th, #runs td { padding-left: .65rem; }
}
@media (max-width: 44rem) {
  .pair { grid-template-columns: 1fr; gap: 1.5rem; }
  td.strip { min-width: 8rem; }
  .front { display: none; }
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

BOARD_SCRIPT = """
{
  const rows = [...document.querySelectorAll("#runs tbody tr")], count = document.getElementById("count");
  const shown = [...document.querySelectorAll("[data-runs]")], box = document.getElementById("filter");
  const of = thing => thing.dataset.runs.split(" ");
  const number = value => value.toLocaleString("en");
  const filter = () => {
    const words = box.value.toLowerCase().split(/\\s+/).filter(word => word), left = new Set();
    for (const row of rows) {
      const fits = words.every(word => (row.dataset.words + " " + row.textContent.toLowerCase()).includes(word));
      row.hidden = !fits;
      if (fits) left.add(row.dataset.run);
    }
    for (const thing of shown) {
      const gone = !of(thing).some(run => left.has(run));
      if (thing instanceof SVGElement) thing.classList.toggle("gone", gone); else thing.hidden = gone;
    }
    count.textContent = number(left.size) + " of " + number(rows.length);
  };
  const light = run => {
    for (const thing of shown) thing.classList.toggle("hot", run !== null && of(thing).includes(run));
    for (const row of rows) row.classList.toggle("hot", row.dataset.run === run);
    for (const plot of new Set(shown.map(thing => thing.ownerSVGElement)))
      plot?.classList.toggle("lit", run !== null && plot.querySelector(".hot") !== null);
  };
  box?.addEventListener("input", filter);
  for (const row of rows) {
    row.addEventListener("pointerenter", () => light(row.dataset.run));
    row.addEventListener("pointerleave", () => light(null));
  }
  for (const thing of shown.filter(thing => thing instanceof SVGElement && of(thing).length === 1)) {
    thing.addEventListener("pointerenter", () => light(of(thing)[0]));
    thing.addEventListener("pointerleave", () => light(null));
  }
  if (box?.value) filter();
}
"""
