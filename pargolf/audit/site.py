"""Every audit as pages for a browser: one table of all submissions with filters, one page of reasons for each.

`write_site` takes the lines that `audit --all` wrote and a shell that puts a body between head and foot, so that the
pages look like every other page of the package. Nothing is fetched; every text of a submission is escaped; the table
reads well without any script, which only hides and sorts rows.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from pargolf.audit.report import FAIL, MEANINGS, ORDER, PASS, SUSPECT
from pargolf.core.files import write_text

_WORSE_FIRST = tuple(reversed(ORDER))


def _asset(name: str) -> str:
    """A file of style or script beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def write_site(
    reports: Sequence[Mapping[str, Any]], folder: str | Path, *, shell: Callable[..., str], title: str = "Audit"
) -> Path:
    """Write `index.html` and one page for each report; return the index's path.

    Args:
        reports: reports in their JSON form.
        folder: where the pages go; it is made when it is not there.
        shell: `shell(body, title=..., style=...)` gives a whole document.
        title: the index's heading.
    """
    folder = Path(folder)
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    names, style = _names(reports), _asset("site.css")
    order = sorted(range(len(reports)), key=lambda i: (len(names[i]), names[i]))
    for at, i in enumerate(order):
        before = names[order[at - 1]] if at else ""
        after = names[order[at + 1]] if at + 1 < len(order) else ""
        body = _trail(before, after) + _report(reports[i])
        heading = f"{_short(reports[i])}: {reports[i]['verdict']}"
        write_text(folder / "heads" / f"{names[i]}.html", shell(body, title=heading, style=style))
    index = folder / "index.html"
    body = _index([reports[i] for i in order], [names[i] for i in order], title)
    write_text(index, shell(body, title=title, style=style + _asset("index.css")))
    return index


def _short(report: Mapping[str, Any]) -> str:
    """`#861` of `git:...@pull/861/head`; another target as it is."""
    parts = str(report["target"]).rpartition("@")[2].split("/")
    return f"#{parts[-2]}" if len(parts) >= 3 and parts[-1] == "head" and parts[-2].isdigit() else str(report["target"])


def _names(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A file name for each report: its number, or its place."""
    shorts = [_short(report) for report in reports]
    return [s[1:] if s[1:].isdigit() else f"report-{i}" for i, s in enumerate(shorts)]


def _folders(report: Mapping[str, Any]) -> list[str]:
    """The folders that a report judges, as its findings on the package name them."""
    held = [e["file"] for f in report["findings"] if f["rule"] == "package" for e in f["evidence"] if not e["line"]]
    return list(dict.fromkeys(path for path in held if path.startswith("records/") and path.count("/") == 2))


# ---- all submissions


def _index(reports: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> str:
    verdicts = Counter(report["verdict"] for report in reports)
    rules = Counter(rule for r in reports for rule in {f["rule"] for f in r["findings"] if f["status"] != PASS})
    tracks = Counter(str(report["track"] or "") for report in reports)
    total = max(len(reports), 1)
    share = "".join(
        f'<div class="{v}" style="width:{100 * verdicts[v] / total:.2f}%" title="{v} {verdicts[v]:,}"></div>'
        for v in _WORSE_FIRST
        if verdicts[v]
    )
    boxes = "".join(
        f'<label class="{v}" title="{escape(MEANINGS[v])}; double-click for these alone">'
        f'<input type="checkbox" data-verdict="{v}" checked>'
        f'<span class="badge">{v}</span><span class="n">{verdicts[v]:,}</span></label>'
        for v in _WORSE_FIRST
    )
    rows = "\n".join(_row(report, name) for report, name in zip(reports, names))
    said = ", ".join(f"{v} {verdicts[v]:,}" for v in _WORSE_FIRST)
    means = " ".join(f"{v}: {escape(MEANINGS[v])}." for v in _WORSE_FIRST)
    return f"""<header><h1>{escape(title)}</h1>
<p>{len(reports):,} submissions, each judged without running any of it</p></header>
<div class="share" role="img" aria-label="{said}">{share}</div>
<fieldset class="kinds" aria-label="Verdicts">{boxes}</fieldset>
<p class="means">{means} What did not run is listed on each page.</p>
<div class="tools"><input id="word" type="search" placeholder="Search: #861, a folder, a word" aria-label="Search">
<select id="rule" aria-label="Rule"><option value="">Any rule</option>{_options(rules)}</select>
<select id="track" aria-label="Track"><option value="">Any track</option>{_options(tracks)}</select>
<button id="reset" type="button" hidden>Show all</button>
<span id="count" aria-live="polite">{len(reports):,} submissions</span></div>
<table id="all" data-sortable><colgroup><col><col><col><col><col></colgroup><thead><tr>
<th><button>PR</button></th><th><button>Verdict</button></th><th class="text"><button>Submission</button></th>
<th class="text">Why</th><th class="number"><button>True score</button></th></tr></thead>
<tbody>
{rows}
</tbody></table>
<p id="none" hidden>No submission fits. Take a filter away.</p>
<script>{_asset("filter.js")}</script>"""


def _options(counts: Mapping[str, int]) -> str:
    shown = sorted((name, n) for name, n in counts.items() if name)
    return "".join(f'<option value="{escape(name)}">{escape(name)} ({n:,})</option>' for name, n in shown)


def _row(report: Mapping[str, Any], name: str) -> str:
    bad = sorted((f for f in report["findings"] if f["status"] != PASS), key=lambda f: -ORDER.index(f["status"]))
    worst = [f for f in bad if f["status"] == report["verdict"]]
    seen: dict[str, str] = {}
    for finding in worst:
        seen.setdefault(finding["rule"], finding["summary"])
    why = "".join(f"<p><b>{escape(rule)}</b> {_prose(_clipped(text))}</p>" for rule, text in list(seen.items())[:3])
    also = sorted({f["rule"] for f in bad} - set(list(seen)[:3]))
    why += f'<p class="also">also {escape(", ".join(also))}</p>' if also else ""
    rules = " ".join(sorted({f["rule"] for f in bad}))
    number, folders = _short(report), _folders(report)
    dated = re.fullmatch(r"(?:(\d{4}-\d\d-\d\d)[_-])?(.*)", PurePosixPath(folders[0]).name if folders else "", re.S)
    date, called = dated.groups() if dated else (None, "")
    more = f"and {len(folders) - 1} more" if len(folders) > 1 else ""
    small = " · ".join(x for x in (str(report["track"] or "no track"), date, more) if x)
    rank = ORDER.index(report["verdict"])
    return (
        f'<tr class="{report["verdict"]}" data-is="{report["verdict"]}" data-rules="{escape(rules)}"'
        f' data-track="{escape(str(report["track"] or ""))}" data-short="{escape(number)}">'
        f'<td data-value="{escape(number.lstrip("#"))}"><a href="heads/{name}.html">{escape(number)}</a></td>'
        f'<td data-value="{rank}"><span class="badge">{report["verdict"]}</span></td>'
        f'<td class="name">{escape(called)}<small>{escape(small)}</small></td>'
        f'<td class="why">{why or "Every check that ran passed."}</td>{_score(bad)}</tr>'
    )


def _score(bad: Sequence[Mapping[str, Any]]) -> str:
    """The corrected bits per byte beside the declared ones, where arithmetic gives them."""
    fixed = next((f["numbers"] for f in bad if "corrected_bpb" in f["numbers"]), None)
    if fixed is None:
        return '<td class="number" data-value="0"></td>'
    declared = f"<s>{fixed['bpb']:.4f}</s> " if isinstance(fixed.get("bpb"), float) else ""
    value = fixed["corrected_bpb"]
    return f'<td class="number" data-value="{value}">{declared}<b>{value:.4f}</b></td>'


def _clipped(text: str, most: int = 190) -> str:
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " ..."


# ---- one submission


def _trail(before: str, after: str) -> str:
    def link(name: str, text: str) -> str:
        return f'<a href="{name}.html">{text}</a>' if name else ""

    beside = " &nbsp; ".join(x for x in (link(before, f"← {before}"), link(after, f"{after} →")) if x)
    return f'<nav class="trail"><a href="../index.html">All submissions</a><span>{beside}</span></nav>\n'


def _report(report: Mapping[str, Any]) -> str:
    verdict = report["verdict"]
    bad = sorted((f for f in report["findings"] if f["status"] != PASS), key=lambda f: -ORDER.index(f["status"]))
    good = [f for f in report["findings"] if f["status"] == PASS]
    head = f" · {escape(str(report['head'])[:10])}" if report["head"] else ""
    folders = "".join(f"<li>{escape(path)}</li>" for path in _folders(report))
    return f"""<header><h1>{escape(_short(report))}</h1>
<p>{escape(str(report["track"] or "no track"))}{head}</p></header>
<p class="verdict {verdict}">{verdict}</p><p>{escape(MEANINGS[verdict])}</p>
{f'<ul class="plain mono">{folders}</ul>' if folders else ""}
{_section("What is wrong" if verdict in (FAIL, SUSPECT) else "What to look at", "".join(_finding(f) for f in bad))}
{_section("What passed", _plain([f"<b>{escape(f['rule'])}</b>{escape(f['summary'])}" for f in good]))}
{_section("Not checked, and so not passed", _plain([escape(text) for text in report["unchecked"]]))}"""


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>{body}</section>" if body else ""


def _plain(items: Sequence[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{item}</li>" for item in items)}</ul>' if items else ""


def _finding(finding: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<li><b>{escape(e['file'])}{':' + str(e['line']) if e['line'] else ''}</b>{escape(e['text'][:240])}</li>"
        for e in finding["evidence"][:6]
    )
    numbers = "".join(
        f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_number(value))}</dd></div>"
        for name, value in finding["numbers"].items()
        if value is not None
    )
    status, words = finding["status"], finding.get("words", "")
    return (
        f'<div class="finding {status}"><h3><span class="badge">{status}</span>{escape(finding["rule"])}</h3>'
        f"<p>{_prose(finding['summary'])}</p>"
        + (f'<p class="rule">{escape(words)} <span>{escape(finding.get("source", ""))}</span></p>' if words else "")
        + (f'<ul class="lines">{lines}</ul>' if lines else "")
        + (f'<dl class="numbers">{numbers}</dl>' if numbers else "")
        + "</div>"
    )


def _prose(text: str) -> str:
    """A summary as HTML: escaped, with `code` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " / ".join(_number(v) for v in value)
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
