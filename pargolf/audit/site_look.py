"""Style and script of the auditor's pages, on top of the package's one look.

A verdict has a colour and always its word. The script only hides, sorts and remembers: filters stand in the address
after `#`, so a view can be bookmarked and the back button returns to it. Rows are laid out in a table of fixed columns,
which two thousand of them stay quick in; on a phone each row becomes a card.
"""

VERDICT_CSS = """
:root { --fail: #b42318; --suspect: #b25e09; --unverifiable: #6b7280; --hold: #0b6cb8; --pass: #1a7f4b; }
@media (prefers-color-scheme: dark) {
  :root { --fail: #ff8a7a; --suspect: #f5a742; --unverifiable: #97a1ad; --hold: #58b0f5; --pass: #4cc38a; }
}
.FAIL { --tone: var(--fail); } .SUSPECT { --tone: var(--suspect); } .UNVERIFIABLE { --tone: var(--unverifiable); }
.HOLD { --tone: var(--hold); } .PASS { --tone: var(--pass); }
.badge { color: var(--tone); font-weight: 650; font-size: .8rem; letter-spacing: .02em; white-space: nowrap; }
.badge::before {
  content: ""; display: inline-block; width: .55rem; height: .55rem; border-radius: 50%;
  background: var(--tone); margin-right: .45rem;
}
.finding { border-left: 3px solid var(--tone); padding: .1rem 0 .1rem 1.1rem; margin-top: 1.8rem; }
.finding h3 { margin: 0 0 .35rem; font-size: 1rem; font-weight: 600; display: flex; flex-wrap: wrap;
  gap: .2rem .9rem; }
.finding p { max-width: 46rem; text-wrap: pretty; overflow-wrap: anywhere; }
.lines { margin: .7rem 0 0; padding: .6rem .9rem; background: var(--raised); border-radius: .4rem; list-style: none; }
.lines li { font-family: var(--mono); font-size: .8rem; line-height: 1.55; overflow-wrap: anywhere; }
.lines b { color: var(--soft); font-weight: 500; margin-right: .8rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .6rem 0 0; font-size: .88rem; }
.numbers div { display: flex; gap: .4rem; }
.numbers dt { color: var(--soft); } .numbers dd { margin: 0; overflow-wrap: anywhere; }
.verdict { margin-top: 2.4rem; font-size: clamp(2.2rem, 8vw, 3.6rem); font-weight: 650; letter-spacing: -.04em;
  line-height: 1; color: var(--tone); }
.verdict + p { margin-top: .7rem; color: var(--soft); }
.plain { margin: .6rem 0 0; padding: 0; list-style: none; }
.plain li { padding: .45rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.plain b { font-weight: 600; margin-right: .5rem; }
.trail { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .4rem 1.5rem;
  margin-bottom: 2.4rem; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline;
  text-underline-offset: .2em; }
"""

INDEX_CSS = """
main { max-width: 76rem; }
.share { display: flex; height: .9rem; gap: 2px; border-radius: .45rem; overflow: hidden; margin-top: 2.6rem; }
.share div { background: var(--tone); min-width: 2px; }
.kinds { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 0; padding: 0; border: 0; }
.kinds label {
  display: flex; align-items: baseline; gap: .5rem; padding: .3rem .8rem; border: 1px solid var(--line);
  border-radius: 2rem; cursor: pointer; user-select: none;
}
.kinds input { position: absolute; opacity: 0; pointer-events: none; }
.kinds label:has(input:not(:checked)) { opacity: .45; }
.kinds label:has(input:focus-visible) { outline: 2px solid var(--accent); outline-offset: 2px; }
.kinds .n { font-weight: 600; }
.means { color: var(--soft); font-size: .92rem; max-width: 52rem; margin-top: 1rem; }
.tools { display: flex; flex-wrap: wrap; align-items: center; gap: .6rem; margin: 2.2rem 0 .8rem; }
.tools input, .tools select, .tools button {
  font: inherit; font-size: .92rem; color: inherit; background: var(--raised); border: 1px solid var(--line);
  border-radius: .45rem; padding: .42rem .7rem;
}
.tools button { cursor: pointer; } .tools input[type=search] { flex: 1 1 15rem; min-width: 0; }
.tools select { max-width: 14rem; }
#count { color: var(--soft); font-size: .92rem; margin-left: auto; }
#all { table-layout: fixed; }
#all th { position: sticky; top: 0; background: var(--ground); z-index: 1; }
#all th, #all td { text-align: left; white-space: normal; vertical-align: top; padding: .6rem 1rem .6rem 0; }
#all .number { text-align: right; padding-right: 0; white-space: nowrap; font: inherit; letter-spacing: 0; }
#all .number s { color: var(--soft); }
#all col:nth-child(1) { width: 5rem; } #all col:nth-child(2) { width: 9rem; } #all col:nth-child(3) { width: 16rem; }
#all col:nth-child(5) { width: 9.5rem; }
#all .name { overflow-wrap: anywhere; font-size: .86rem; } #all .name small { display: block; color: var(--soft); }
#all .why { overflow-wrap: anywhere; } #all .why p + p { margin-top: .25rem; } #all .why b { font-weight: 600; }
#all .also { color: var(--soft); font-size: .86rem; }
#none { padding: 3rem 0; text-align: center; color: var(--soft); }
@media (max-width: 52rem) {
  #all, #all tbody { display: block; } #all thead, #all colgroup { display: none; }
  #all tr { display: grid; grid-template-columns: auto 1fr auto; gap: .1rem .9rem; padding: .9rem 0;
  border-bottom: 1px solid var(--line); }
  #all tr[hidden] { display: none; }
  #all td { display: block; padding: 0; border: 0; }
  #all .name, #all .why { grid-column: 1 / -1; } #all .why { margin-top: .25rem; }
  #all .number:empty { display: none; }
  .tools select { flex: 1 1 8rem; }
}
"""

FILTER_SCRIPT = """
const table = document.getElementById("all"), body = table.tBodies[0], none = document.getElementById("none");
const rows = [...body.rows].map(row => ({row, is: row.dataset.is, rules: row.dataset.rules.split(" "),
  track: row.dataset.track, text: row.textContent.toLowerCase()}));
const get = id => document.getElementById(id);
const word = get("word"), rule = get("rule"), track = get("track"), count = get("count"), all = get("reset");
const boxes = [...document.querySelectorAll("[data-verdict]")];
const show = () => {
  const words = word.value.toLowerCase().split(/\\\\s+/).filter(Boolean);
  const on = new Set(boxes.filter(b => b.checked).map(b => b.dataset.verdict));
  let shown = 0;
  for (const {row, is, rules, track: at, text} of rows) {
    const fits = on.has(is) && (!rule.value || rules.includes(rule.value)) && (!track.value || at === track.value)
      && words.every(w => w[0] === "#" ? row.dataset.short === w : text.includes(w));
    if (row.hidden === fits) row.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown === rows.length ? rows.length.toLocaleString("en") + " submissions"
    : shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en");
  none.hidden = shown > 0;
  all.hidden = shown === rows.length;
};
const keep = () => {
  const off = boxes.filter(b => !b.checked).map(b => b.dataset.verdict), said = new URLSearchParams();
  if (word.value) said.set("q", word.value);
  if (rule.value) said.set("rule", rule.value);
  if (track.value) said.set("track", track.value);
  if (off.length) said.set("without", off.join(","));
  history.replaceState(null, "", "#" + said);
};
const recall = () => {
  const said = new URLSearchParams(location.hash.slice(1)), off = (said.get("without") ?? "").split(",");
  word.value = said.get("q") ?? ""; rule.value = said.get("rule") ?? ""; track.value = said.get("track") ?? "";
  for (const list of [rule, track]) if (list.selectedIndex < 0) list.value = "";
  for (const box of boxes) box.checked = !off.includes(box.dataset.verdict);
  show();
};
for (const part of [word, rule, track, ...boxes]) part.addEventListener("input", () => { show(); keep(); });
for (const box of boxes) box.closest("label").addEventListener("dblclick", event => {
  event.preventDefault();
  for (const other of boxes) other.checked = other === box;
  show(); keep();
});
all.addEventListener("click", () => { location.hash = ""; recall(); });
addEventListener("hashchange", recall);
addEventListener("keydown", event => {
  if (event.key === "/" && !/^(INPUT|SELECT)$/.test(document.activeElement.tagName)) { event.preventDefault();
  word.focus(); }
});
recall();
""".replace("\\\\", "\\")
