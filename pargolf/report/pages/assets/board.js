{
  const rows = [...document.querySelectorAll("#runs tbody tr")], count = document.getElementById("count");
  const shown = [...document.querySelectorAll("[data-runs]")], box = document.getElementById("filter");
  const of = thing => thing.dataset.runs.split(" ");
  const number = value => value.toLocaleString("en");
  const table = document.getElementById("runs"), pager = document.getElementById("pager"), most = 200;
  let fitting = rows, first = 0;
  const page = () => {
    const fits = new Set(fitting), order = table ? [...table.tBodies[0].rows].filter(row => fits.has(row)) : [];
    first = Math.max(0, Math.min(first, Math.floor((order.length - 1) / most) * most));
    const visible = new Set(order.slice(first, first + most));
    for (const row of rows) row.hidden = !visible.has(row);
    if (!pager) return;
    pager.hidden = order.length <= most;
    pager.querySelector("output").textContent =
      number(first + 1) + " to " + number(Math.min(first + most, order.length)) + " of " + number(order.length);
    const [back, on] = pager.querySelectorAll("button");
    back.disabled = first === 0;
    on.disabled = first + most >= order.length;
  };
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(word => word), left = new Set();
    fitting = rows.filter(row =>
      words.every(word => (row.dataset.words + " " + row.textContent.toLowerCase()).includes(word)));
    for (const row of fitting) left.add(row.dataset.run);
    first = 0;
    page();
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
  table?.addEventListener("sorted", () => { first = 0; page(); });
  pager?.querySelectorAll("button").forEach((button, at) =>
    button.addEventListener("click", () => { first += at ? most : -most; page(); }));
  for (const row of rows) {
    row.addEventListener("pointerenter", () => light(row.dataset.run));
    row.addEventListener("pointerleave", () => light(null));
  }
  for (const thing of shown.filter(thing => thing instanceof SVGElement && of(thing).length === 1)) {
    thing.addEventListener("pointerenter", () => light(of(thing)[0]));
    thing.addEventListener("pointerleave", () => light(null));
  }
  if (box?.value) filter(); else page();
}
