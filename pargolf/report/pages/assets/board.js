{
  const rows = [...document.querySelectorAll("#runs tbody tr")], count = document.getElementById("count");
  const shown = [...document.querySelectorAll("[data-runs]")], box = document.getElementById("filter");
  const of = thing => thing.dataset.runs.split(" ");
  const number = value => value.toLocaleString("en");
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(word => word), left = new Set();
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
