"""Every audit as pages for a browser: one table of all submissions with filters, one page of reasons for each.

`write_site` takes the lines that `audit --all` wrote. The pages look like every other page of the package. Nothing is
fetched; the templates escape every text of a submission; the table reads well without any script, which only hides and
sorts rows.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pargolf.audit.report import MEANINGS, ORDER, PASS
from pargolf.core.files import write_text
from pargolf.report.pages.template import render

_WORSE_FIRST = tuple(reversed(ORDER))
_MOST_WHY = 3


@dataclass(frozen=True)
class Verdict:
    """A verdict in the index: how many submissions have it, and their share in percent."""

    name: str
    means: str
    count: int
    share: float


@dataclass(frozen=True)
class Row:
    """A submission in the index: `why` the worst findings by rule, `score` the corrected bits per byte, if any.

    `source` says which earlier submission its functions come from.
    """

    number: str
    file: str
    verdict: str
    rank: int
    name: str
    facts: tuple[str, ...]
    track: str
    rules: tuple[str, ...]
    why: tuple[tuple[str, str], ...]
    also: tuple[str, ...]
    score: float | None
    declared: float | None
    source: str = ""


def write_site(
    reports: Sequence[Mapping[str, Any]],
    folder: str | Path,
    *,
    title: str = "Audit",
    sources: Mapping[str, str] | None = None,
) -> Path:
    """Write `index.html` and one page for each report; return the index's path.

    Args:
        reports: reports in their JSON form.
        folder: the folder for the pages; created if missing.
        title: the index's heading.
        sources: the origin of each submission, by its short name such as `#861`; shown as a column.
    """
    folder = Path(folder)
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    names = _names(reports)
    order = sorted(range(len(reports)), key=lambda i: (len(names[i]), names[i]))
    for position, i in enumerate(order):
        previous = names[order[position - 1]] if position else ""
        after = names[order[position + 1]] if position + 1 < len(order) else ""
        page = render("submission.html", before=previous, after=after, **_facts(reports[i]))
        write_text(folder / "heads" / f"{names[i]}.html", page)
    rows = [_row(reports[i], names[i], sources or {}) for i in order]
    page = render(
        "audits.html",
        title=title,
        derived=bool(sources),
        rows=rows,
        verdicts=_verdicts(rows),
        filters=(
            ("rule", "Any rule", _counted(rule for row in rows for rule in row.rules)),
            ("track", "Any track", _counted(row.track for row in rows)),
        ),
    )
    index = folder / "index.html"
    write_text(index, page)
    return index


def _short(report: Mapping[str, Any]) -> str:
    """`#861` of `git:...@pull/861/head`; another target as it is."""
    parts = str(report["target"]).rpartition("@")[2].split("/")
    is_pull = len(parts) >= 3 and parts[-1] == "head" and parts[-2].isdecimal()
    return f"#{parts[-2]}" if is_pull else str(report["target"])


def _names(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A file name for each report: the submission's number, or its position in the list."""
    shorts = [_short(report) for report in reports]
    return [s[1:] if s[1:].isdecimal() else f"report-{i}" for i, s in enumerate(shorts)]


def _folders(report: Mapping[str, Any]) -> list[str]:
    """The folders that a report judges, as its findings on the package name them."""
    paths = [e["file"] for f in report["findings"] if f["rule"] == "package" for e in f["evidence"] if not e["line"]]
    return list(dict.fromkeys(path for path in paths if path.startswith("records/") and path.count("/") == 2))


def _wrong(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings other than PASS, the worst first."""
    findings = (finding for finding in report["findings"] if finding["status"] != PASS)
    return sorted(findings, key=lambda finding: -ORDER.index(finding["status"]))


# ---- all submissions


def _verdicts(rows: Sequence[Row]) -> list[Verdict]:
    counts = Counter(row.verdict for row in rows)
    total = max(len(rows), 1)
    return [Verdict(name, MEANINGS[name], counts[name], 100 * counts[name] / total) for name in _WORSE_FIRST]


def _counted(names: Iterable[str]) -> list[tuple[str, int]]:
    return sorted((name, n) for name, n in Counter(names).items() if name)


def _row(report: Mapping[str, Any], file: str, sources: Mapping[str, str]) -> Row:
    wrong = _wrong(report)
    worst: dict[str, str] = {}
    for finding in wrong:
        if finding["status"] == report["verdict"]:
            worst.setdefault(finding["rule"], _clipped(finding["summary"]))
    why = tuple(worst.items())[:_MOST_WHY]
    rules = sorted({finding["rule"] for finding in wrong})
    folders, track = _folders(report), str(report["track"] or "")
    dated = re.fullmatch(r"(?:(\d{4}-\d\d-\d\d)[_-])?(.*)", PurePosixPath(folders[0]).name if folders else "", re.S)
    date, name = dated.groups() if dated else (None, "")
    facts = (track or "no track", date, f"and {len(folders) - 1} more" if len(folders) > 1 else "")
    score, declared = _score(wrong)
    return Row(
        _short(report),
        file,
        report["verdict"],
        ORDER.index(report["verdict"]),
        name,
        tuple(fact for fact in facts if fact),
        track,
        tuple(rules),
        why,
        tuple(rule for rule in rules if rule not in dict(why)),
        score,
        declared,
        sources.get(_short(report), ""),
    )


def _score(wrong: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """The corrected and the declared bits per byte, if the arithmetic rule computed them."""
    fixed = next((f["numbers"] for f in wrong if "corrected_bpb" in f["numbers"]), None)
    if fixed is None:
        return None, None
    return float(fixed["corrected_bpb"]), fixed["bpb"] if isinstance(fixed.get("bpb"), float) else None


def _clipped(text: str, most: int = 190) -> str:
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " ..."


# ---- one submission


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values for the page of one submission. Reports of earlier versions lack the texts of rules."""
    wrong = [{"words": "", "source": "", **finding} for finding in _wrong(report)]
    passed = [finding for finding in report["findings"] if finding["status"] == PASS]
    return {
        "report": report,
        "number": _short(report),
        "means": MEANINGS[report["verdict"]],
        "folders": _folders(report),
        "wrong": wrong,
        "passed": passed,
    }
