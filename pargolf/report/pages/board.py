"""Many runs as one page: which is best, at what cost, how certain, and why; the page loads nothing from the network.

The page answers in this order: the best number, bits per byte against bytes and seconds with the Pareto front, every
run in a table that sorts and filters (and the filter hides the same runs in every plot), recipes over their seeds with
the test that the best one beats them, curves, where the bytes go, how well sizes were foreseen, what adaptation saved
by document, what each part of a recipe is worth, and what the auditor says. A recipe keeps one colour throughout.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pargolf.core.ablation import Ablation, ranked
from pargolf.core.events import Packed
from pargolf.core.stats import Comparison, Spread, compare_scores, spread
from pargolf.report.entry import Entry, Group, front, grouped
from pargolf.report.pages.template import Cell, Plot, Row, Strip, Table, counted, number, render, words
from pargolf.report.plots import boards, runs
from pargolf.report.plots.drawing import NARROW, WIDE
from pargolf.report.plots.worth import worth_svg

_MOST_CURVES = 80
_MOST_DOTS = 1000
_MOST_ADAPTED = 3
_KINDS = (
    ("embeddings", ("embed", "shared", "head")),
    ("attention", ("attn",)),
    ("mlp", ("mlp",)),
)
_VERDICTS = {"PASS": "good", "FAIL": "bad", "SUSPECT": "bad"}


def board_page(
    entries: Sequence[Entry],
    *,
    title: str = "Board",
    ablations: Sequence[Ablation] = (),
    audits: Sequence[Mapping[str, Any]] = (),
    damaged: Sequence[str] = (),
) -> str:
    """Return the whole board as HTML text.

    Args:
        entries: finished runs; may be empty if there are ablations or audits.
        title: the heading and the name of the browser's tab.
        ablations: contents of `ablation.json` files.
        audits: reports of the auditor as JSON.
        damaged: a sentence for each file that could not be read and is left out.
    """
    groups = grouped(entries)
    return render(
        "board.html",
        title=title,
        entries=entries,
        groups=groups,
        damaged=damaged,
        best=_best(entries) if entries else None,
        **(_of_runs(entries, groups) if entries else {}),
        ablations=[_ablation(ablation) for ablation in ablations if ranked(ablation.rows)],
        audits=_audits(entries, audits),
    )


def _best(entries: Sequence[Entry]) -> Entry:
    """The best run; runs that count come before those that do not."""
    whole = [entry for entry in entries if entry.result.complete] or entries
    return min([entry for entry in whole if entry.result.legal] or whole, key=lambda entry: entry.bpb)


def _of_runs(entries: Sequence[Entry], groups: Sequence[Group]) -> dict[str, Any]:
    """The template's values for runs."""
    best, each = front(entries), max(_MOST_DOTS // len(groups), 1)
    shown = [Group(group.name, group.entries, group.runs[: max(_MOST_CURVES // len(groups), 1)]) for group in groups]
    dots = [
        Group(group.name, group.entries, [run for i, run in enumerate(group.runs) if i < each or run in best])
        for group in groups
    ]
    return {
        "surety": _surety(groups),
        "dots": sum(len(group.runs) for group in dots),
        "texts": sorted({entry.result.val_bytes for entry in entries}),
        "fronts": [
            _front(entries, dots, of, label)
            for of, label in (("bytes", "bytes, model and code"), ("seconds", "seconds of training"))
        ],
        "runs": _runs(entries, groups),
        "recipes": _recipes(entries, groups) if len(groups) > 1 else None,
        "curves": Plot.of(*(boards.all_curves(entries, shown, width=width) for width in (WIDE, NARROW))),
        "kinds": [*(name for name, _ in _KINDS), "the rest", "code"],
        "splits": [_split(group) for group in groups],
        "forecasts": Plot.of(*(boards.forecasts(entries, dots, width=width) for width in (WIDE, NARROW))),
        "gains": _gains(groups),
    }


def _surety(groups: Sequence[Group]) -> str:
    """Whether the best recipe beats the next one, in a sentence."""
    test = _against(groups[0], groups[1]) if len(groups) > 1 else None
    if test is None:
        return ""
    if test.p is None:
        return f"{groups[1].name} is {test.gain_bpb:.4f} behind in the mean; more seeds would say how surely."
    p = f"p = {test.p:.2g}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"Over the seeds it beats {groups[1].name} by {test.gain_bpb:.4f}, {p}."


def _against(group: Group, other: Group) -> Comparison | None:
    """The test that `group` is better; None if they were scored on different texts."""
    if group.entries[0].result.val_bytes != other.entries[0].result.val_bytes:
        return None
    return compare_scores(group.by_seed, other.by_seed, bar=0.0, nats=1.0)


def _front(entries: Sequence[Entry], groups: Sequence[Group], of: str, label: str) -> Plot:
    return Plot.of(*(boards.frontier(entries, groups, of=of, label=label, width=w) for w in (WIDE / 2 + 0.2, NARROW)))


def _runs(entries: Sequence[Entry], groups: Sequence[Group]) -> Table:
    """A row for each run, the best first."""
    best, least = front(entries), min(entry.bpb for entry in entries)
    adapted = any(entry.saved is not None for entry in entries)
    rows = []
    for index, group in enumerate(groups):
        for run in group.runs:
            entry = entries[run]
            cells = _run_cells(entry, least, adapted=adapted)
            name = _name_cell(group, index, link=entry.link, on_front=run in best)
            result = entry.result
            text = f"{group.name} {result.recipe} {result.digest} seed {result.seed} {entry.path}".lower()
            rows.append((entry.bpb, Row([name, *cells], data={"run": str(run), "words": text})))
    heads = ["*recipe", "seed", "bits/byte", "behind", "packing", *["adapted"] * adapted, "bytes", "of cap", "seconds"]
    heads += ["steps", "parameters", "*audit"]
    rows.sort(key=lambda row: row[0])
    return Table(heads, [row for _, row in rows], sortable=True, sorted_by="bits/byte", up=True, name="runs")


def _run_cells(entry: Entry, least: float, *, adapted: bool) -> list[Cell]:
    result, size = entry.result, entry.result.bytes
    share = size.total / max(size.cap, 1)
    return [
        number(f"{result.seed}", result.seed),
        number(f"{entry.bpb:.4f}", entry.bpb),
        number(f"{entry.bpb - least:+.4f}" if entry.bpb > least else "best", entry.bpb - least),
        _signed(entry.gap),
        *([_signed(entry.saved)] if adapted else []),
        number(f"{size.total:,}", size.total),
        number(f"{share:.1%}", share),
        number(f"{entry.seconds:,.1f}", entry.seconds),
        number(f"{result.steps:,}", result.steps),
        number(f"{result.parameters:,}", result.parameters),
        _check_cell(entry),
    ]


def _recipes(entries: Sequence[Entry], groups: Sequence[Group]) -> Table:
    """A row for each recipe: its seeds on one scale, and the test that the best recipe beats it."""
    scores = [entry.bpb for entry in entries]
    spreads = [spread([entry.bpb for entry in group.entries]) for group in groups]
    ends = [value for scatter in spreads for value in (scatter.low, scatter.high) if value is not None]
    # The interval from two seeds may be wider than the range of all scores: cut it off, so that the scale stays useful.
    reach = max(scores) - min(scores) or 0.01
    low = max(min([*scores, *ends]), min(scores) - 0.25 * reach)
    high = min(max([*scores, *ends]), max(scores) + 0.25 * reach)
    rows = []
    for index, (group, scatter) in enumerate(zip(groups, spreads, strict=True)):
        test = _against(groups[0], group) if index else None
        p = None if test is None else test.p
        cells = [
            _name_cell(group, index),
            number(f"{scatter.n}", scatter.n),
            number(f"{scatter.mean:.4f}", scatter.mean),
            number("" if scatter.sd is None else f"{scatter.sd:.4f}", scatter.sd or 0.0),
            Cell(kind="text strip", strip=_strip(group, scatter, low, high, index)),
            number("" if test is None else f"{test.gain_bpb:.4f}", 0.0 if test is None else test.gain_bpb),
            number("" if p is None else f"{p:.2g}", 1.0 if p is None else p),
        ]
        rows.append(Row(cells, data={"runs": _numbers(group)}))
    heads = ["*recipe", "runs", "mean", "sd", "*each seed, and 95 % of the mean", "best is ahead by", "p"]
    return Table(heads, rows, sortable=True, sorted_by="mean", up=True)


def _strip(group: Group, mean: Spread, low: float, high: float, index: int) -> Strip:
    """A dot for each seed over the interval of their mean, on the scale from `low` to `high`."""

    def percent(value: float) -> float:
        return 100 * min(max((value - low) / max(high - low, 1e-12), 0.0), 1.0)

    bar = None if mean.low is None or mean.high is None else (percent(mean.low), percent(mean.high))
    return Strip(index, [(percent(entry.bpb), f"{entry.bpb:.4f}") for entry in group.entries], bar)


def _split(group: Group) -> dict[str, Any]:
    """The bytes of a recipe's best run by kind, as shares of its cap."""
    best = group.entries[0]
    size = best.result.bytes
    packed = [event for event in best.events if isinstance(event, Packed)]
    parts = [*_by_kind(packed[-1].by_role if packed else {}, size.model), ("code", size.code)]
    whole = max(size.total, size.cap, 1)
    runs_of = _numbers(group)
    return {"runs": runs_of, "name": group.name, "total": size.total, "cap": size.cap, "parts": parts, "whole": whole}


def _by_kind(by_role: Mapping[str, int], model: int) -> list[tuple[str, int]]:
    """Bytes of embeddings, attention, MLPs, and the rest of the model."""
    sums = [
        (name, sum(size for role, size in by_role.items() if role.split(".")[0] in heads)) for name, heads in _KINDS
    ]
    return [*sums, ("the rest", max(model - sum(size for _, size in sums), 0))]


def _gains(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The gain by adaptation for each document, in the best run of each of the first recipes that adapt."""
    gains: list[dict[str, Any]] = []
    for index, group in enumerate(groups):
        best = next((entry for entry in group.entries if entry.saved is not None and entry.documents), None)
        if best is None or len(gains) == _MOST_ADAPTED:
            continue
        plot = Plot.of(*(runs.gains(best.documents, width=width, name=f"gains{index}") for width in (WIDE, NARROW)))
        if plot.wide:
            seed = best.result.seed
            gains.append({"runs": _numbers(group), "place": index, "name": group.name, "seed": seed, "plot": plot})
    return gains


def _ablation(ablation: Ablation) -> dict[str, Any]:
    """What each part of a recipe is worth, and what could not run."""
    rows = ranked(ablation.rows)
    work = f"{ablation.steps:,} steps" if ablation.steps else f"{ablation.seconds:g} s"
    seeds = max(len(row.scores) for row in ablation.rows)
    plus = " Below, behind a plus, what it does not have." if rows[-1].is_addition else ""
    note = (
        f"{ablation.recipe} without each part in turn, {work} and {counted(seeds, 'seed')} each, over "
        f"{ablation.windows}: what the part is worth in bits per byte with its 95 % interval, and what it costs a "
        f"step and in bytes.{plus}"
    )
    plot = Plot.of(worth_svg(ablation.rows), worth_svg(ablation.rows, width=NARROW))
    failed = [row for row in ablation.rows if row.failed]
    return {"recipe": ablation.recipe, "note": note, "plot": plot, "failed": failed}


def _audits(entries: Sequence[Entry], audits: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Findings on runs, and the reports on submissions; None if nothing was audited."""
    reports_of_runs = [entry.audit for entry in entries if entry.audit is not None]
    rows = [
        _audit_row(report)
        for report in [
            *audits,
            *(report_of_run for report_of_run in reports_of_runs if report_of_run["verdict"] != "PASS"),
        ]
    ]
    if not reports_of_runs and not rows:
        return None
    passes = sum(report["verdict"] == "PASS" for report in reports_of_runs)
    heads = ["*of", "*verdict", "*track", "*why", "not checked"]
    return {
        "passed": f"{passes:,} of {counted(reports_of_runs, 'run')} passed what was checked."
        if reports_of_runs
        else "",
        "table": Table(heads, rows, sortable=True) if rows else None,
    }


def _audit_row(report: Mapping[str, Any]) -> Row:
    bad = [finding for finding in report["findings"] if finding["status"] != "PASS"]
    reason = "; ".join(f"{finding['rule']}: {finding['summary']}" for finding in bad[:3])
    unchecked = len(report["unchecked"])
    return Row(
        [
            words(str(report["target"])),
            words(report["verdict"], _VERDICTS.get(report["verdict"], "")),
            words(report["track"] or ""),
            words(reason or "Every check that ran passed.", "long"),
            number(f"{unchecked}", unchecked),
        ]
    )


def _check_cell(entry: Entry) -> Cell:
    """The auditor's verdict; without one, the result's own objection to its number."""
    if entry.audit is not None:
        verdict = str(entry.audit["verdict"])
        return words(verdict, _VERDICTS.get(verdict, ""))
    doubts = entry.result.why_not
    return words(", ".join(doubts) or "not asked", "bad" if doubts else "")


def _name_cell(group: Group, index: int, *, link: str = "", on_front: bool = False) -> Cell:
    """A recipe's colour and name, with a link to the run's page if there is one."""
    return Cell(group.name, "text", value=group.name, place=index, link=link, front=on_front)


def _signed(value: float | None) -> Cell:
    return number("" if value is None else f"{value:+.4f}", 0.0 if value is None else value)


def _numbers(group: Group) -> str:
    """The numbers of a group's runs, which the page's script uses to find their elements."""
    return " ".join(map(str, group.runs))
