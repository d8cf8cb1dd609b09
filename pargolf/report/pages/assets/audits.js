const table = document.getElementById("all"), body = table.tBodies[0], none = document.getElementById("none");
const rows = [...body.rows].map(row => ({row, is: row.dataset.is, rules: row.dataset.rules.split(" "),
  track: row.dataset.track, text: row.textContent.toLowerCase()}));
const get = id => document.getElementById(id);
const word = get("word"), rule = get("rule"), track = get("track"), count = get("count"), all = get("reset");
const boxes = [...document.querySelectorAll("[data-verdict]")];
const show = () => {
  const words = word.value.toLowerCase().split(/\s+/).filter(Boolean);
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
