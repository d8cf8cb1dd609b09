"""Many runs as one page: which is best, at what cost, how sure, and why; `board.html` asks the network for nothing.

The page answers in this order: the best number, bits per byte against bytes and seconds with the Pareto front, every
run in a table that sorts and filters (and the filter hides the same runs in every plot), recipes over their seeds with
the test that the best one beats them, curves, where the bytes go, how well sizes were foreseen, what adaptation saved
by document, what each part of a recipe is worth, and what the auditor says. A recipe keeps one colour throughout.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pargolf.core.ablation import Ablation, ranked
from pargolf.core.events import Packed
from pargolf.core.stats import Comparison, compare_scores, spread
from pargolf.report.pages.entry import Entry, Group, front, grouped
from pargolf.report.pages.html import figure_pair, number_cell, page, section, table_of, text_cell
from pargolf.report.pages.style import BOARD_SCRIPT
from pargolf.report.plots import boards, runs
from pargolf.report.plots.drawing import NARROW, WIDE
from pargolf.report.plots.worth import worth_svg

_MOST_CURVES = 80
_MOST_ADAPTED = 3
_KINDS = (
    ("embeddings", ("embed", "shared", "head")),
    ("attention", ("attn",)),
    ("mlp", ("mlp",)),
)

_KINDS_OF_VERDICT = {"PASS": "good", "FAIL": "bad", "SUSPECT": "bad"}


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
        entries: finished runs; none is fine where there are ablations or audits.
        title: the heading and the name of the browser's tab.
        ablations: what `ablation.json` files hold.
        audits: reports of the auditor as JSON.
        damaged: what could not be read and is left out, a sentence each with its file.
    """
    groups = grouped(entries)
    parts = [
        _header(entries, groups, title),
        _damaged(damaged),
        *(_of_runs(entries, groups) if entries else []),
        *(_ablation(found) for found in ablations),
        _audits(entries, audits),
    ]
    body = "\n".join(part for part in parts if part)
    return page(f'<div class="board">{body}</div>', title=title, script=BOARD_SCRIPT)


def _of_runs(entries: Sequence[Entry], groups: Sequence[Group]) -> list[str]:
    return [
        _hero(entries, groups),
        _fronts(entries, groups),
        _runs(entries, groups),
        _recipes(entries, groups),
        _curves(entries, groups),
        _bytes(groups),
        _forecasts(entries, groups),
        _adaptation(groups),
    ]


def _header(entries: Sequence[Entry], groups: Sequence[Group], title: str) -> str:
    facts = f"{_count(len(entries), 'run')} · {_count(len(groups), 'recipe')}"
    return f"<header><h1>{escape(title)}</h1><p>{facts}</p></header>"


def _damaged(lines: Sequence[str]) -> str:
    """What was left out, and why."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f'<div class="alarm"><b>Left out.</b> {_count(len(lines), "folder")} could not be read:<ul>{items}</ul></div>'
    )


def _hero(entries: Sequence[Entry], groups: Sequence[Group]) -> str:
    whole = [entry for entry in entries if entry.result.complete] or entries
    best = min([entry for entry in whole if entry.result.legal] or whole, key=lambda entry: entry.bpb)
    size = best.result.bytes
    what = (
        f"The best of them is <b>{escape(best.recipe)}</b>, seed {best.result.seed}: {size.total:,} bytes of "
        f"{size.cap:,}, {best.seconds:,.0f} s of training. {_surety(groups)}"
    )
    texts = {entry.result.val_bytes for entry in entries}
    warn = ""
    if len(texts) > 1:
        warn = (
            '<p class="alarm"><b>Different texts.</b> These runs graded '
            + " and ".join(f"{size:,}" for size in sorted(texts))
            + " bytes; numbers over different texts cannot be compared.</p>"
        )
    return f"""<div class="hero">
<div><p class="number">{best.bpb:.4f}</p>
<p class="unit">bits per byte <span>· {best.result.val_loss:.4f} nats per token</span></p></div>
<p class="said">{what}</p>
</div>{warn}"""


def _surety(groups: Sequence[Group]) -> str:
    """Whether the best recipe beats the next one, in a sentence."""
    if len(groups) < 2:
        return ""
    test = _against(groups[0], groups[1])
    if test is None:
        return ""
    if test.p is None:
        return f"{escape(groups[1].name)} is {test.gain_bpb:.4f} behind in the mean; more seeds would say how surely."
    p = f"p = {test.p:.2g}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"Over the seeds it beats {escape(groups[1].name)} by {test.gain_bpb:.4f}, {p}."


def _against(ours: Group, theirs: Group) -> Comparison | None:
    """The test that `ours` is better; None where they graded different texts."""
    if ours.entries[0].result.val_bytes != theirs.entries[0].result.val_bytes:
        return None
    return compare_scores(ours.by_seed, theirs.by_seed, bar=0.0, nats=1.0)


def _fronts(entries: Sequence[Entry], groups: Sequence[Group]) -> str:
    figures = []
    for of, label in (("bytes", "bytes, model and code"), ("seconds", "seconds of training")):
        wide = boards.frontier(entries, groups, of=of, label=label, width=WIDE / 2 + 0.2)
        narrow = boards.frontier(entries, groups, of=of, label=label, width=NARROW)
        figures.append(figure_pair(wide, narrow))
    note = (
        "A dot is a run. Filled: no other run is as good in bits per byte, bytes and seconds at once. The line is the "
        "edge of what was reached."
    )
    return section("What it costs", note, f'<div class="pair">{"".join(figures)}</div>')


def _runs(entries: Sequence[Entry], groups: Sequence[Group]) -> str:
    best, least = front(entries), min(entry.bpb for entry in entries)
    adapted = any(entry.saved is not None for entry in entries)
    rows = []
    for place, group in enumerate(groups):
        for run in group.runs:
            rows.append((entries[run].bpb, _run_row(entries[run], group, place, run, run in best, least, adapted)))
    heads = ["*recipe", "seed", "bits/byte", "behind", "packing", *["adapted"] * adapted, "bytes", "of cap", "seconds"]
    heads += ["steps", "parameters", "*audit"]
    rows.sort(key=lambda row: row[0])
    table = table_of(heads, [row for _, row in rows], sortable=True, sorted_by="bits/byte", up=True, name="runs")
    box = (
        '<p class="filter"><input id="filter" type="search" placeholder="Filter by any word" '
        'aria-label="Filter runs by any word" autocomplete="off" spellcheck="false"> '
        f'<output id="count" for="filter">{len(entries):,} of {len(entries):,}</output></p>'
    )
    note = "Packing: what it cost in bits per byte. Adapted: what adaptation saved. A filter holds for every plot."
    return section("Runs", note, box + table)


def _run_row(entry: Entry, group: Group, place: int, run: int, on_front: bool, least: float, adapted: bool) -> str:
    result, size = entry.result, entry.result.bytes
    cells = [
        _name_cell(group, place, link=entry.link, on_front=on_front),
        number_cell(f"{result.seed}", result.seed),
        number_cell(f"{entry.bpb:.4f}", entry.bpb),
        number_cell(f"{entry.bpb - least:+.4f}" if entry.bpb > least else "best", entry.bpb - least),
        _signed(entry.gap),
        *([_signed(entry.saved)] if adapted else []),
        number_cell(f"{size.total:,}", size.total),
        number_cell(f"{size.total / max(size.cap, 1):.1%}", size.total / max(size.cap, 1)),
        number_cell(f"{entry.seconds:,.1f}", entry.seconds),
        number_cell(f"{result.steps:,}", result.steps),
        number_cell(f"{result.parameters:,}", result.parameters),
        _check_cell(entry),
    ]
    found = escape(f"{group.name} {result.recipe} {result.digest} seed {result.seed} {entry.path}".lower())
    return f'<tr data-run="{run}" data-words="{found}">{"".join(cells)}</tr>'


def _recipes(entries: Sequence[Entry], groups: Sequence[Group]) -> str:
    if len(groups) < 2:
        return ""
    scores = [entry.bpb for entry in entries]
    spreads = [spread([entry.bpb for entry in group.entries]) for group in groups]
    ends = [value for found in spreads for value in (found.low, found.high) if value is not None]
    # An interval from two seeds may be wider than all scores: it is cut off rather than flatten the rest.
    reach = max(scores) - min(scores) or 0.01
    low, high = (
        max(min([*scores, *ends]), min(scores) - 0.25 * reach),
        min(max([*scores, *ends]), max(scores) + 0.25 * reach),
    )
    rows = []
    for place, (group, found) in enumerate(zip(groups, spreads, strict=True)):
        test = _against(groups[0], group) if place else None
        p = "" if test is None or test.p is None else f"{test.p:.2g}"
        cells = [
            _name_cell(group, place),
            number_cell(f"{found.n}", found.n),
            number_cell(f"{found.mean:.4f}", found.mean),
            number_cell("" if found.sd is None else f"{found.sd:.4f}", found.sd or 0.0),
            f'<td class="text strip">{_strip(group, found.low, found.high, low, high, place)}</td>',
            number_cell("" if test is None else f"{test.gain_bpb:.4f}", 0.0 if test is None else test.gain_bpb),
            number_cell(p, 1.0 if test is None or test.p is None else test.p),
        ]
        rows.append(f'<tr data-runs="{" ".join(map(str, group.runs))}">{"".join(cells)}</tr>')
    heads = ["*recipe", "runs", "mean", "sd", "*each seed, and 95 % of the mean", "best is ahead by", "p"]
    note = (
        "One-sided test that the best recipe is better: paired by seed where both ran the same ones, Welch's else. The "
        "record rule asks for .005 nats per token at p &lt; .01; <code>pargolf compare</code> applies it."
    )
    table = table_of(heads, rows, sortable=True, sorted_by="mean", up=True)
    return f'<section><h2>Recipes over seeds</h2><p class="note">{note}</p>{table}</section>'


def _strip(group: Group, left: float | None, right: float | None, low: float, high: float, place: int) -> str:
    """A line of dots, a seed each, over the interval of their mean."""

    def at(value: float) -> str:
        return f"{100 * min(max((value - low) / max(high - low, 1e-12), 0.0), 1.0):.2f}%"

    bar = ""
    if left is not None and right is not None:
        bar = f'<b style="left:{at(left)};right:calc(100% - {at(right)})"></b>'
    dots = "".join(f'<i style="left:{at(entry.bpb)}" title="{entry.bpb:.4f}"></i>' for entry in group.entries)
    return f'<span class="dots s{min(place, 7) + 1}">{bar}{dots}</span>'


def _curves(entries: Sequence[Entry], groups: Sequence[Group]) -> str:
    shown = [Group(group.name, group.entries, group.runs[: max(_MOST_CURVES // len(groups), 1)]) for group in groups]
    note = "Training loss, smoothed, on the validation text's scale of bits per byte, before packing."
    wide, narrow = (boards.all_curves(entries, shown, width=width) for width in (WIDE, NARROW))
    return section("Curves", note, figure_pair(wide, narrow))


def _bytes(groups: Sequence[Group]) -> str:
    """A bar of the cap for each recipe, of its best run."""
    rows = []
    for group in groups:
        best = group.entries[0]
        size = best.result.bytes
        whole = max(size.total, size.cap, 1)
        packed = [event for event in best.events if isinstance(event, Packed)]
        parts = [*_by_kind(packed[-1].by_role if packed else {}, size.model), ("code", size.code)]
        bars = "".join(
            f'<span class="k{i}" style="width:{100 * count / whole:.3f}%" title="{name}: {count:,} bytes"></span>'
            for i, (name, count) in enumerate(parts)
        )
        said = ", ".join(f"{name} {count:,}" for name, count in parts)
        rows.append(
            f'<div class="split" data-runs="{" ".join(map(str, group.runs))}"><p>{escape(group.name)} '
            f"<small>{size.total:,} of {size.cap:,}</small></p>"
            f'<div class="track" role="img" aria-label="{escape(said)}">{bars}</div></div>'
        )
    names = [*(name for name, _ in _KINDS), "the rest", "code"]
    key = "".join(f'<li class="k{i}">{name}</li>' for i, name in enumerate(names))
    note = "The best run of each recipe, on the length of its cap."
    return section("Where the bytes go", note, f'<ul class="keys">{key}</ul>{"".join(rows)}')


def _by_kind(by_role: Mapping[str, int], model: int) -> list[tuple[str, int]]:
    """Bytes of embeddings, attention, MLPs, and what is left of the model."""
    sums = [
        (name, sum(size for role, size in by_role.items() if role.split(".")[0] in heads)) for name, heads in _KINDS
    ]
    return [*sums, ("the rest", max(model - sum(size for _, size in sums), 0))]


def _forecasts(entries: Sequence[Entry], groups: Sequence[Group]) -> str:
    note = (
        "What training said the model would weigh, against what it came to. Runs that fill their cap are left out: "
        "packing chose other grids for them than the forecast is of."
    )
    wide, narrow = (boards.forecasts(entries, groups, width=width) for width in (WIDE, NARROW))
    return section("Forecasts of size", note, figure_pair(wide, narrow))


def _adaptation(groups: Sequence[Group]) -> str:
    found: list[str] = []
    for place, group in enumerate(groups):
        best = next((entry for entry in group.entries if entry.saved is not None and entry.documents), None)
        if best is None or len(found) == _MOST_ADAPTED:
            continue
        wide, narrow = (runs.gains(best.documents, width=width, name=f"gains{place}") for width in (WIDE, NARROW))
        if wide:
            numbers = " ".join(map(str, group.runs))
            head = f'<h3><i class="key s{min(place, 7) + 1}"></i>{escape(group.name)}, seed {best.result.seed}</h3>'
            found.append(f'<div data-runs="{numbers}">{head}{figure_pair(wide, narrow)}</div>')
    note = "Bits per byte of each document without adaptation, less those with it; the best run of each recipe."
    return section("What adaptation saved", note, "".join(found))


def _ablation(found: Ablation) -> str:
    rows = ranked(found.rows)
    if not rows:
        return ""
    work = f"{found.steps:,} steps" if found.steps else f"{found.seconds:g} s"
    seeds = max(len(row.scores) for row in found.rows)
    plus = " Below, behind a plus, what it does not have." if rows[-1].is_addition else ""
    note = (
        f"{found.recipe} without each part in turn, {work} and {_count(seeds, 'seed')} each, over "
        f"{found.windows}: what the part is worth in bits per byte with its 95 % interval, and what it costs a "
        f"step and in bytes.{plus}"
    )
    failed = [row for row in found.rows if row.failed]
    lost = "".join(f"<li><b>{escape(row.part)}</b> {escape(row.failed)}</li>" for row in failed)
    left = f'<p class="note lost">These could not run:</p><ul>{lost}</ul>' if lost else ""
    figures = figure_pair(worth_svg(found.rows), worth_svg(found.rows, width=NARROW))
    return section(f"What each part of {found.recipe} is worth", note, figures + left)


def _audits(entries: Sequence[Entry], audits: Sequence[Mapping[str, Any]]) -> str:
    """What stands against runs, and all of the submissions."""
    own = [entry.audit for entry in entries if entry.audit is not None]
    rows = [_audit_row(report) for report in [*audits, *(one for one in own if one["verdict"] != "PASS")]]
    heads = ["*of", "*verdict", "*track", "*why", "not checked"]
    passed = sum(report["verdict"] == "PASS" for report in own)
    said = f"{passed:,} of {_count(len(own), 'run')} passed what was checked." if own else ""
    table = table_of(heads, rows, sortable=True) if rows else ""
    note = f"{said} What was not checked has not passed; for a run, the laws that <code>pargolf probe</code> tests."
    if not own and not rows:
        return ""
    return f'<section><h2>Audit</h2><p class="note">{note}</p>{table}</section>'


def _audit_row(report: Mapping[str, Any]) -> str:
    bad = [finding for finding in report["findings"] if finding["status"] != "PASS"]
    why = "; ".join(f"{finding['rule']}: {finding['summary']}" for finding in bad[:3])
    cells = [
        text_cell(str(report["target"])),
        text_cell(report["verdict"], kind=_KINDS_OF_VERDICT.get(report["verdict"], "")),
        text_cell(report["track"] or ""),
        text_cell(why or "Every check that ran passed.", kind="long"),
        number_cell(f"{len(report['unchecked'])}", len(report["unchecked"])),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _check_cell(entry: Entry) -> str:
    """The auditor's verdict; without one, what the result itself says against its number."""
    if entry.audit is not None:
        verdict = str(entry.audit["verdict"])
        return text_cell(verdict, kind=_KINDS_OF_VERDICT.get(verdict, ""))
    doubts = entry.result.why_not
    return text_cell(", ".join(doubts) or "not asked", kind="bad" if doubts else "")


def _name_cell(group: Group, place: int, *, link: str = "", on_front: bool = False) -> str:
    """A recipe's colour and name, leading to the run's page where there is one."""
    name = escape(group.name)
    shown = f'<a href="{escape(link)}">{name}</a>' if link else name
    mark = '<span class="front" title="On the Pareto front">front</span>' if on_front else ""
    return f'<td class="text" data-value="{name}"><i class="key s{min(place, 7) + 1}"></i>{shown}{mark}</td>'


def _signed(value: float | None) -> str:
    return number_cell("" if value is None else f"{value:+.4f}", 0.0 if value is None else value)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
