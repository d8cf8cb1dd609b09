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
    table.dispatchEvent(new Event("sorted"));
  }));
}
