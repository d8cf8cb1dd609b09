"""Fit the planner's law: train the runs of its grid, fit its constants, and print its errors.

    python benchmarks/plan.py --run [--minutes 3]    trains what is missing of the grid, on one thread, until time is up
    python benchmarks/plan.py --run --on ray         the same on a cluster, a core for each point
    python benchmarks/plan.py --add RUN...           adds finished runs of the family on the embedded text to the law's
    python benchmarks/plan.py --fit                  fits the constants on the runs, and writes both to law.json
    python benchmarks/plan.py --cells                plans and forecasts for some caps and clocks, on this machine
    python benchmarks/plan.py --scoring RUN --data DATA [--positions 16000]    forecast and seconds of a run's scoring
    python benchmarks/plan.py --full                 a plan for 16 MB and 600 s of eight H100s, as a recipe
    python benchmarks/plan.py                        each run, the law's value, and the error when it is left out

A run of the grid is a training of some hundred steps with its own warmdown. It is scored before packing on 40,000
tokens of the embedded validation split, and packed under the caps of its point. Seconds are processor seconds. The fit
is least squares of log L under the weak priors below; an error is that of a run left out of the fit.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import add_options, values_of
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares

from pargolf import api
from pargolf.core.budget import Budget, Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Step
from pargolf.core.files import claimed, write_json
from pargolf.core.result import read_result
from pargolf.core.spec import build, edit
from pargolf.core.units import size_text
from pargolf.core.work import Work
from pargolf.core.world import World
from pargolf.data.corpus import embedded
from pargolf.data.documents import Document
from pargolf.data.folder import DataFolder, open_data
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.transformer import Model, Transformer
from pargolf.quant.calibrate import calibrate
from pargolf.recipes.family import Shape, member
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.run.pack import fit, on_cpu, read_artifact, unpack
from pargolf.run.pipeline import score_unpacked
from pargolf.run.score import open_text, score_sample
from pargolf.study.planning import law as laws
from pargolf.study.planning.law import Constants, Curve, Law, Packing, Run, read_law
from pargolf.study.planning.sample import TextFacts, read_text, xz_bits
from pargolf.study.planning.search import CODE, Search, regularized, stored_whole
from pargolf.study.planning.throughput import Throughput, measured
from pargolf.study.planning.words import Plan, make_plan, recipe_file
from pargolf.training.loop import Training

LAW = Path(laws.__file__).with_name("law.json")
WINDOWS = 160
NAMES = "E", "log A", "a", "log B", "b", "log R", "table's share", "power of bytes per token"
PRIORS = {  # mean and standard deviation, from the literature or by reasoning
    "E": (0.80, 0.15),
    "log A": (-1.5, 1.0),
    "a": (0.35, 0.10),
    "log B": (0.0, 1.0),
    "b": (0.40, 0.15),
    "log R": (math.log(8.0), 0.7),
    "table's share": (0.5, 0.3),
    "power of bytes per token": (0.8, 0.4),
}
CRITICAL_BATCH = 12_000.0  # from house's ablation: 4,096 tokens a step at equal seconds are .0046 behind 2,048
TENTH = "a tenth of embedded"


@dataclass(frozen=True)
class Point:
    """One training of the grid, and the caps under which it is packed."""

    shape: Shape
    steps: int
    text: str = "embedded"
    caps: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The point's file name."""
        shape = self.shape
        sizes = f"{shape.vocab}-{shape.dim}-{shape.blocks}-{shape.hidden}-{self.steps}"
        return f"{sizes}-{self.text.replace(' ', '-')}"


def _point(vocab: int, dim: int, blocks: int, hidden: int, steps: int, *caps: int, text: str = "embedded") -> Point:
    return Point(Shape(vocab, dim, blocks, hidden), steps, text, caps)


GRID = [
    _point(512, 64, 2, 128, 400, 64_000, 54_000, 46_000),
    _point(1024, 64, 2, 128, 400),
    _point(1024, 128, 4, 256, 150),
    _point(4096, 128, 4, 256, 200),
    _point(4096, 192, 4, 384, 120),
    _point(1024, 64, 3, 192, 1000, 100_000, 80_000, 64_000),
    _point(2048, 96, 3, 192, 300),
    _point(2048, 128, 4, 256, 500, 400_000, 300_000, 250_000),
    _point(4096, 192, 4, 384, 300),
    _point(512, 64, 2, 128, 1500),
    _point(1024, 128, 4, 256, 500),
    _point(4096, 128, 4, 256, 500),
    _point(2048, 192, 4, 384, 300),
    _point(4096, 256, 4, 512, 120),
    _point(4096, 256, 4, 512, 300),
    _point(4096, 192, 6, 384, 200),
    _point(4096, 192, 2, 384, 300),
    _point(4096, 192, 4, 768, 200),
    _point(1024, 96, 3, 192, 700),
    _point(4096, 128, 4, 256, 110, text=TENTH),
    _point(4096, 128, 4, 256, 330, text=TENTH),
    _point(4096, 128, 4, 256, 900, text=TENTH),
    _point(1024, 96, 3, 192, 350, text=TENTH),
    _point(1024, 96, 3, 192, 1000, text=TENTH),
    _point(4096, 192, 4, 384, 660, text=TENTH),
    _point(1024, 96, 3, 192, 2000),
    _point(1024, 64, 2, 128, 2500),
    _point(4096, 192, 4, 384, 700),
    _point(4096, 320, 4, 640, 200),
    _point(4096, 128, 4, 256, 1000, 1_000_000, 500_000),
    _point(4096, 96, 3, 192, 400),
    _point(4096, 96, 3, 192, 1200, 400_000, 250_000),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="train what is missing of the grid")
    parser.add_argument("--minutes", type=float, default=1e9, help="of training, at most")
    parser.add_argument("--add", type=Path, nargs="+", default=[], help="folders of finished runs of the family")
    parser.add_argument("--fit", action="store_true", help="fit the law to the runs")
    parser.add_argument("--cells", action="store_true", help="plan caps and clocks on this machine")
    parser.add_argument("--full", action="store_true", help="plan for eight H100s, which nobody has run")
    parser.add_argument("--scoring", type=Path, help="a run of the family: time its scoring beside the forecast")
    parser.add_argument("--data", type=Path, help="the text it is scored on")
    parser.add_argument("--positions", type=int, default=16_000, help="of it, from its beginning")
    parser.add_argument("--out", type=Path, default=Path("runs/plan"), help="where prepared text goes")
    add_options(parser)
    options = parser.parse_args()
    if options.cells:
        _print_cells()
        return
    if options.full:
        print(recipe_file(_full(), "python benchmarks/plan.py --full; a forecast, no result"))
        return
    if options.scoring:
        _print_scoring(options)
        return
    if options.run:
        _run_missing(options)
    if options.add:
        law = read_law(LAW)
        _write(replace(law, runs=(*law.runs, *map(run_of, options.add))))
    if options.fit:
        _write(fit_law(read_law(LAW), pieces_of(options.out)))
    _print(read_law(LAW))


def _run_missing(options: argparse.Namespace) -> None:
    """Train the grid's points that have no run yet. Each run is stored as soon as it has ended."""
    torch.set_num_threads(1)
    until = time.time() + 60 * options.minutes
    trained = {(run.shape, run.steps, run.text) for run in read_law(LAW).runs}
    missing = [point for point in GRID if (_shape_of_run(point), point.steps, point.text) not in trained]
    todo = {point.name: (point, options.out.absolute(), until) for point in missing}
    engine = {"on": options.on, "jobs": options.jobs, "needs": options.needs}
    runs = [build(Run, value) for value in values_of(todo, _kept_point, options.out, **engine).values()]
    for run in runs:
        print(run, flush=True)
    law = read_law(LAW)
    _write(replace(law, runs=(*law.runs, *runs)))


def _shape_of_run(point: Point) -> Shape:
    """The shape that is stored with the point's run."""
    return replace(Shape(), **{name: getattr(point.shape, name) for name in ("vocab", "dim", "blocks", "hidden")})


def _kept_point(point: Point, out: Path, until: float) -> dict[str, Any] | None:
    """A point's run as JSON; None if the time is up."""
    return None if time.time() > until else asdict(run_point(point, _data(out, point)))


def run_point(point: Point, data: DataFolder) -> Run:
    """Train one point, score it on a sample, and pack it under its caps."""
    shape = regularized(point.shape, steps=point.steps, unique=len(data.train))
    recipe = fit_to_data(edit(member(shape), {"train.steps": point.steps, "train.seconds": None}), data)
    clock, model = Clock(time.process_time), recipe.model.build(1337)
    training = Training(
        recipe.train, model, data.train, seed=1337, clock=clock, seconds=math.inf, kernels=compiled_kernels
    )
    training.warm_up()
    began = clock.seconds
    for event in training.run():
        assert not isinstance(event, Step) or math.isfinite(event.loss)
    seconds = clock.seconds - began
    before = _bpb(model, data, recipe)
    packed = _packings(recipe, training, data, point.caps) if point.caps else ()
    size = data.meta["splits"]["train"]["bytes"]
    batch, count = shape.batch_tokens, len(data.train)
    sizes = shape.vocab, shape.dim, shape.blocks, shape.hidden, batch, point.steps
    return Run(*sizes, point.text, count, size, round(seconds, 2), round(before, 5), packed)


def run_of(folder: Path) -> Run:
    """A finished run of the family, as the law knows it: with its packed and its final score."""
    result, model = read_result(folder / "result.json"), read_artifact(folder / "model.pargolf").model.spec
    data, shape = open_data(Path(result.data)), shape_of_model(model)
    before, after = (result.scores[name].bpb for name in ("pre_quant", "post_quant"))
    sizes = shape.vocab, shape.dim, shape.blocks, shape.hidden, result.train_tokens // result.steps, result.steps
    text = len(data.train), data.meta["splits"]["train"]["bytes"]
    packed = (packing(shape, result.bytes.model, after, 0.0),)
    source = f"a whole run, seed {result.seed}, {result.train_seconds:.0f} s, {result.val_tokens:,} tokens scored"
    final = None if result.val_bpb == after else round(result.val_bpb, 5)
    return Run(*sizes, "embedded", *text, 0.0, round(before, 5), packed, final, source)


def _packings(recipe: Recipe, training: Training, data: DataFolder, caps: tuple[int, ...]) -> tuple[Packing, ...]:
    """The trained weights packed under each cap."""
    hessians = calibrate(training.model, [training.stream.batch(training.step + i) for i in range(4)])
    weights, rows = on_cpu(training.model), []
    for cap in caps:
        clock = Clock(time.process_time)
        try:
            with compiled_kernels():
                _, artifact = fit(recipe, weights, tokenizer="grid", cap=cap, hessians=hessians)
        except UserError as error:
            print(error)
            continue
        seconds = clock.seconds
        bpb = _bpb(unpack(artifact).model.eval(), data, recipe)
        rows.append(packing(shape_of(recipe), len(artifact), bpb, seconds))
    return tuple(rows)


def packing(shape: Shape, size: int, bpb: float, seconds: float) -> Packing:
    """A packing with its net bits per weight."""
    bits = 8 * (size - stored_whole(shape)) / shape.weights
    return Packing(size, round(bits, 4), round(bpb, 5), round(seconds, 2))


def shape_of(recipe: Recipe) -> Shape:
    """The shape from which a recipe of the family was made."""
    return shape_of_model(recipe.model)


def shape_of_model(model: Model) -> Shape:
    """The shape of a model."""
    return Shape(model.vocab, model.dim, len(model.blocks), model.blocks[0].mlp.hidden)


def _bpb(model: Transformer, data: DataFolder, recipe: Recipe) -> float:
    return score_sample(model.eval(), open_text(data), recipe.plain, count=WINDOWS).bpb


def _data(out: Path, point: Point) -> DataFolder:
    """The embedded text in this vocabulary, or a tenth of it in the same vocabulary."""
    whole, tenth = out / f"data_{point.shape.vocab}", out / f"tenth_{point.shape.vocab}"
    with claimed(out / f"claim_{point.shape.vocab}", patience=600.0):  # one job prepares it, the others wait
        if not whole.exists():
            api.prepare_data(["embedded"], out=whole, vocab=point.shape.vocab).result()
        if point.text == "embedded":
            return open_data(whole)
        if not tenth.exists():
            pieces = whole / "tokenizer.model"
            api.prepare_data(["embedded"], out=tenth, train_fraction=0.1, tokenizer=pieces).result()
        return open_data(tenth)


def _print_cells() -> None:
    """Plans of the embedded text for one thread, in seconds of the processor."""
    torch.set_num_threads(1)
    law = read_law(LAW)
    pace = Work(measured(now=time.process_time)).result()
    text = Work(read_text(["embedded"], law)).result()
    out, table = Console(width=140), Table(title=f"a step of house takes {pace.step(Shape()):.3f} s here")
    for head in ("cap", "seconds", "pieces", "width", "blocks", "hidden", "weights", "bits", "steps", "forecast"):
        table.add_column(head, justify="right")
    for cap, seconds in product((64_000, 250_000, 1_000_000, 4_000_000), (60.0, 300.0, 1800.0)):
        best = Search(Budget(bytes=cap, train_seconds=seconds), text, pace, law, CODE).best()[0]
        shape = best.shape
        sizes = [f"{x:,}" for x in (shape.vocab, shape.dim, shape.blocks, shape.hidden, shape.weights)]
        forecast = f"{best.bpb:.3f} ({best.low:.3f} to {best.high:.3f})"
        table.add_row(size_text(cap), f"{seconds:g}", *sizes, f"{best.bits:.2f}", f"{best.steps:,}", forecast)
    out.print(table)


def _print_scoring(options: argparse.Namespace) -> None:
    """Print the forecast and the measured processor seconds of scoring an artifact."""
    torch.set_num_threads(1)
    pace = Work(measured(now=time.process_time, again=True)).result()
    unpacked, text = read_artifact(options.scoring / "model.pargolf"), open_text(open_data(options.data))
    count = options.positions
    text = replace(text, tokens=text.tokens[: count + 1], byte_counts=text.byte_counts[:count])
    recipe = member(shape_of_model(unpacked.model.spec))
    began = time.process_time()
    Work(score_unpacked(recipe, text, unpacked, seconds=math.inf, world=World())).result()
    forecast, seconds = pace.score(shape_of_model(unpacked.model.spec), count), time.process_time() - began
    print(
        f"{recipe.name}, {count:,} positions: forecast {forecast:.1f} s, came {seconds:.1f} s, {forecast / seconds:.2f}"
    )


def _full() -> Plan:
    """The plan for 16 MB and 600 s of eight H100s on FineWeb, extrapolated far beyond the runs of the law.

    The hardness of the text comes from the published baseline: the law is scaled so that it gives the baseline's own
    score (1.2172 before packing, in 13,780 steps of 524,288 tokens). The speed of the machine comes from two published
    logs: the baseline's 17,039,360 weights in 43.54 ms a step, and pull request 1855's 35,945,671 on 786,432 tokens in
    121.7 ms.
    """
    law, unique, per_token = read_law(LAW), 8e9, 151_080_363 / 62_021_632
    published = Shape(1024, 512, 9, 1024, batch_tokens=524_288)
    value = law.constants.loss(published, tokens=13_780 * 524_288.0, unique=unique, bytes_per_token=per_token)
    text = TextFacts("FineWeb, 8e9 tokens", round(unique * per_token), 151_080_363, 1.2172 / value, False)
    small, large = (3 * tokens * weights / 1e9 for tokens, weights in ((524_288, 17_039_360), (786_432, 35_945_671)))
    each = (0.1217 - 0.04354) / (large - small)
    eight = Throughput(0.04354 - each * small, each, 0.0, True, "cuda, eight H100s")
    return make_plan(Search(Budget(bytes=16_000_000, train_seconds=600.0), text, eight, law, CODE))


def fit_law(law: Law, pieces: Curve) -> Law:
    """The law with every constant fitted on its runs."""
    values, covariance, _ = _fitted(law.runs)
    errors = [_left_out(law.runs, i) for i in range(len(law.runs))]
    spread = math.sqrt(float(np.mean(np.square(errors))))
    packed = [
        (p.bits, math.log2(run.tokens / run.shape.weights), math.log2(p.bpb - run.bpb))
        for run in law.runs
        for p in run.packed
        if p.bpb - run.bpb > 5e-4 and p.bits > 2
    ]
    bits, trained, costs = np.array(packed).T
    (slope, power, start), *_ = np.linalg.lstsq(np.stack([bits, trained, np.ones(len(bits))], 1), costs, rcond=None)
    ends = [(run.packed[0].bpb, run.packed[0].bpb - run.final) for run in law.runs if run.final and run.packed]
    return replace(
        law,
        constants=Constants(tuple(values), tuple(map(tuple, covariance)), round(spread, 5), CRITICAL_BATCH),
        bits=Curve((2.0, 6.0), tuple(round(float(start + slope * x), 4) for x in (2.0, 6.0))),
        trained=round(float(power), 4),
        gain=_exponential(ends) if len(ends) > 1 else law.gain,
        pieces=pieces,
        hardness=_hardness(),
        fitted=len(law.runs),
    )


def _fitted(runs: tuple[Run, ...]) -> tuple[list[float], list[list[float]], float]:
    """Values, their covariance, and the residuals' root mean square of log L."""
    means, deviations = np.array(list(PRIORS.values())).T
    noise = 0.01

    def residuals(x: Any) -> Any:
        values = [_value(x, run) for run in runs]
        own = [(math.log(max(value, 1e-3)) - math.log(run.bpb)) / noise for value, run in zip(values, runs)]
        return np.concatenate([own, (x - means) / deviations])

    bounds = np.array([(0.2, 1.2), (-6, 3), (0.05, 1), (-6, 4), (0.05, 1.5), (0, 4), (0, 1.5), (0, 2)]).T
    solution = least_squares(residuals, np.clip(means, *bounds), bounds=bounds)
    rms = math.sqrt(float(np.mean(np.square(solution.fun[: len(runs)])))) * noise
    covariance = np.linalg.inv(solution.jac.T @ solution.jac) * max(rms / noise, 1.0) ** 2
    return [round(float(v), 6) for v in solution.x], [[float(f"{v:.6g}") for v in row] for row in covariance], rms


def _value(x: Any, run: Run) -> float:
    """The law's value for a run."""
    arguments = {"tokens": float(run.tokens), "unique": float(run.unique_tokens), "per_token": run.bytes_per_token}
    return laws.law(list(x), run.shape, critical=CRITICAL_BATCH, **arguments)


def _left_out(runs: tuple[Run, ...], i: int) -> float:
    """Error of log L of one run by the fit to the others."""
    values, _, _ = _fitted((*runs[:i], *runs[i + 1 :]))
    return math.log(_value(values, runs[i])) - math.log(runs[i].bpb)


def _exponential(points: list[tuple[float, float]]) -> Curve:
    """The exponential of least squares of log y through points, by its values at four places."""
    xs, logs = [x for x, _ in points], [math.log(y) for _, y in points]
    slope, start = np.polyfit(xs, logs, 1) if len(points) > 2 else (0.0, float(np.mean(logs)))
    places = [float(x) for x in np.linspace(min(xs), max(xs) + 1e-3, 4)]
    values = [math.exp(start + slope * x) for x in places]
    return Curve(tuple(round(x, 4) for x in places), tuple(round(y, 5) for y in values))


def pieces_of(out: Path) -> Curve:
    """Bytes per token of the embedded text by log2 of the vocabulary, for the folders prepared so far."""
    folders = sorted(((int(f.name.removeprefix("data_")), f) for f in out.glob("data_*")), key=lambda pair: pair[0])
    rows = [
        (math.log2(vocab), json.loads((folder / "meta.json").read_text())["splits"]["train"])
        for vocab, folder in folders
    ]
    if len(rows) < 2:
        return read_law(LAW).pieces
    return Curve(tuple(x for x, _ in rows), tuple(round(row["bytes"] / row["tokens"], 4) for _, row in rows))


def _hardness() -> Curve:
    """Bits per byte of the embedded text under xz, by log2 of a sample's bytes."""
    documents: list[Document] = embedded()
    pieces = [document.text.encode()[: 1 << 14] for document in documents]
    rows = [xz_bits(pieces[:: 1 << k]) for k in range(5, -1, -1)]
    return Curve(tuple(round(math.log2(n), 3) for _, n in rows), tuple(round(bits, 4) for bits, _ in rows))


def _write(law: Law) -> None:
    write_json(LAW, asdict(law))
    read_law.cache_clear()


def _print(law: Law) -> None:
    """The constants, and each run beside the law's value."""
    out = Console(width=140)
    for name, value, row in zip(NAMES, law.constants.values, law.constants.covariance):
        deviation = math.sqrt(max(row[NAMES.index(name)], 0.0))
        out.print(f"{name:26} {value:8.4f} +- {deviation:.4f}")
    out.print(f"spread of a run left out   {law.constants.spread:8.4f} of log L, {law.fitted} runs")
    table = Table(title="log L: the law's less the run's")
    for head in ("pieces", "width", "blocks", "hidden", "steps", "text", "passes", "BPB", "law", "error", "left out"):
        table.add_column(head, justify="right")
    for i, run in enumerate(law.runs):
        forecast, passes = _value(law.constants.values, run), run.tokens / run.unique_tokens
        sizes = [f"{x:,}" for x in (run.vocab, run.dim, run.blocks, run.hidden, run.steps)]
        errors = f"{math.log(forecast / run.bpb):+.4f}", f"{_left_out(law.runs, i):+.4f}"
        table.add_row(*sizes, run.text, f"{passes:.2f}", f"{run.bpb:.4f}", f"{forecast:.4f}", *errors)
    out.print(table)
    _print_packings(law, out)


def _print_packings(law: Law, out: Console) -> None:
    """The cost of each packing, and the law's value."""
    table = Table(title="packing")
    for head in ("weights", "model bytes", "net bits", "cost", "law"):
        table.add_column(head, justify="right")
    for run in law.runs:
        for p in run.packed:
            cost = f"{p.bpb - run.bpb:.4f}", f"{law.cost(p.bits, run.tokens, run.shape):.4f}"
            table.add_row(f"{run.shape.weights:,}", f"{p.bytes:,}", f"{p.bits:.2f}", *cost)
    out.print(table)


if __name__ == "__main__":
    main()
