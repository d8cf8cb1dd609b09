"""Every audit as pages for a browser: one table of all submissions with filters, one page of reasons for each.

`write_site` takes the lines that `audit --all` wrote and a shell that puts a body between head and foot, so that the
pages look like every other page of the package. Nothing is fetched; every text of a submission is escaped; a row reads
well without any script, which only hides rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pargolf.audit.verdict import ORDER, PASS
from pargolf.core.files import write_text

_WORSE_FIRST = tuple(reversed(ORDER))
_FILTER = """
<script>
const rows = [...document.querySelectorAll("#all tbody tr")], count = document.getElementById("count");
const word = document.getElementById("word"), boxes = [...document.querySelectorAll("[data-verdict]")];
const rule = document.getElementById("rule");
const show = () => {
  const text = word.value.toLowerCase(), on = new Set(boxes.filter(b => b.checked).map(b => b.dataset.verdict));
  let shown = 0;
  for (const row of rows) {
    const rules = row.dataset.rules.split(" ");
    const fits = on.has(row.dataset.is) && (!rule.value || rules.includes(rule.value))
      && row.textContent.toLowerCase().includes(text);
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en");
};
[word, rule, ...boxes].forEach(e => e.addEventListener("input", show));
show();
</script>
"""


def write_site(
    reports: Sequence[Mapping[str, Any]], folder: str | Path, *, shell: Callable[..., str], title: str = "Audit"
) -> Path:
    """Write `index.html` and one page for each report; return the index's path.

    Args:
        reports: reports in their JSON form.
        folder: where the pages go; it is made when it is not there.
        shell: `shell(body, title=...)` gives a whole document.
        title: the index's heading.
    """
    folder = Path(folder)
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    names = _names(reports)
    for report, name in zip(reports, names):
        body = f'<p class="note"><a href="../index.html">All submissions</a></p>\n{_report(report)}'
        write_text(folder / "heads" / f"{name}.html", shell(body, title=f"{_short(report)}: {report['verdict']}"))
    index = folder / "index.html"
    write_text(index, shell(_index(reports, names, title), title=title))
    return index


def _short(report: Mapping[str, Any]) -> str:
    """`#861` of `git:...@pull/861/head`; another target as it is."""
    parts = str(report["target"]).rpartition("@")[2].split("/")
    return f"#{parts[-2]}" if len(parts) >= 3 and parts[-1] == "head" and parts[-2].isdigit() else str(report["target"])


def _names(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A file name for each report: its number, or its place."""
    shorts = [_short(report) for report in reports]
    return [s[1:] if s[1:].isdigit() else f"report-{i}" for i, s in enumerate(shorts)]


def _index(reports: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> str:
    verdicts = Counter(report["verdict"] for report in reports)
    rules = sorted({f["rule"] for r in reports for f in r["findings"] if f["status"] != PASS})
    box = '<label><input type="checkbox" data-verdict="{0}" checked> {0} {1:,}</label>'
    boxes = " ".join(box.format(v, verdicts[v]) for v in _WORSE_FIRST)
    options = "".join(f'<option value="{escape(rule)}">{escape(rule)}</option>' for rule in rules)
    order = sorted(range(len(reports)), key=lambda i: (len(names[i]), names[i]))
    rows = "\n".join(_row(reports[i], names[i]) for i in order)
    return f"""<header><h1>{escape(title)}</h1><p>{len(reports):,} submissions</p></header>
<p class="note">FAIL is proven by arithmetic or by the submission's own words. SUSPECT is read from code or log and
names the probe that would prove it. HOLD waits for a ruling. UNVERIFIABLE says what is missing.</p>
<p>{boxes}</p>
<p><input id="word" type="search" placeholder="Number, rule or word" aria-label="Search">
<select id="rule" aria-label="Rule"><option value="">Any rule</option>{options}</select> <span id="count"></span></p>
<div class="wide"><table id="all" data-sortable><thead><tr><th><button>PR</button></th>
<th class="text"><button>Verdict</button></th><th class="text"><button>Track</button></th>
<th class="text">Why</th><th><button>Corrected bpb</button></th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
{_FILTER}"""


def _row(report: Mapping[str, Any], name: str) -> str:
    bad = sorted((f for f in report["findings"] if f["status"] != PASS), key=lambda f: -ORDER.index(f["status"]))
    worst = [f for f in bad if f["status"] == report["verdict"]]
    why = " ".join(f"<b>{escape(f['rule'])}</b> {escape(_clipped(f['summary']))}" for f in worst[:3])
    fixed = next((f["numbers"]["corrected_bpb"] for f in bad if "corrected_bpb" in f["numbers"]), None)
    rules = " ".join(sorted({f["rule"] for f in bad}))
    number = _short(report)
    return (
        f'<tr data-is="{report["verdict"]}" data-rules="{escape(rules)}">'
        f'<td data-value="{escape(number.lstrip("#"))}"><a href="heads/{name}.html">{escape(number)}</a></td>'
        f'<td class="text">{report["verdict"]}</td><td class="text">{escape(report["track"] or "")}</td>'
        f'<td class="text">{why or "Every check that ran passed."}</td>'
        f'<td data-value="{fixed or 0}">{f"{fixed:.4f}" if fixed else ""}</td></tr>'
    )


def _clipped(text: str, most: int = 170) -> str:
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " ..."


def _report(report: Mapping[str, Any]) -> str:
    findings = sorted(report["findings"], key=lambda f: -ORDER.index(f["status"]))
    rows = "\n".join(_finding(f) for f in findings)
    unchecked = "".join(f"<li>{escape(text)}</li>" for text in report["unchecked"])
    left = f"<section><h2>Not checked, and so not passed</h2><ul>{unchecked}</ul></section>" if unchecked else ""
    head = f" · {escape(str(report['head'])[:10])}" if report["head"] else ""
    return f"""<header><h1>{escape(_short(report))}</h1><p>{escape(report["track"] or "no track")}{head}</p></header>
<div class="hero"><p class="unit">{report["verdict"]}</p></div>
<section><h2>Findings</h2><div class="wide"><table class="pairs"><tbody>
{rows}
</tbody></table></div></section>
{left}"""


def _finding(finding: Mapping[str, Any]) -> str:
    places = "".join(
        f"<br><code>{escape(e['file'])}{':' + str(e['line']) if e['line'] else ''}</code> {escape(e['text'][:200])}"
        for e in finding["evidence"][:6]
    )
    return (
        f"<tr><td>{finding['status']}<br><b>{escape(finding['rule'])}</b></td>"
        f"<td>{escape(finding['summary'])}{places}</td></tr>"
    )
