"""Calls that choose a model for a cap, a time and a text: plan it, or do everything from text to report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pargolf.api.parameters import ByteSize, Duration, PathLike, Target, command_line
from pargolf.core.errors import UserError
from pargolf.core.ranges import Seed
from pargolf.core.result import Result
from pargolf.core.units import parse_bytes, parse_seconds
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.study.planning.sample import TextFacts
    from pargolf.study.planning.throughput import Throughput
    from pargolf.study.planning.words import Plan

_ONE = "A plan is for one process. Say pargolf plan ... --write mine.py, and train mine.py with torchrun."


@dataclass(frozen=True)
class GolfResult:
    """A plan, and the result of training it."""

    plan: "Plan"
    result: Result

    def to_json(self) -> dict[str, Any]:
        """Both as plain JSON, in the form of `plan.json` and `result.json`."""
        return {"plan": self.plan.row(), "result": self.result.to_json()}


@working
def plan(
    *,
    data: Sequence[Target],
    cap: ByteSize = "1MB",
    seconds: Duration | None = None,
    minutes: float | None = None,
    device: str | None = None,
    again: bool = False,
    write: PathLike | None = None,
    throughput: "Throughput | None" = None,
) -> "Events[Plan]":
    """Choose a model for a byte cap, a time limit and a text; forecast its score, and give the reasons.

    Args:
        data: Text files, folders, `embedded`, or one prepared folder; may be repeated.
        cap: Bytes of model and code: 250kB, 1MB, 16MB, 1MiB.
        seconds: Time for planning, training and packing: 90, 90s, 10m, 1h; 3 minutes when left out.
        minutes: The same, in minutes.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
        again: Measure this machine's speed again, instead of using the earlier measurement.
        write: Write the recipe as a .py file.
        throughput: Earlier measurements of a machine, instead of measuring this one.

    Returns:
        The plan; its `recipe` can be trained.

    Raises:
        UserError: no model can be trained (the error names the smallest possible budget), or a size, time or device is
            not valid.
    """
    from pargolf.core.devices import find_world
    from pargolf.core.files import write_text
    from pargolf.study.planning.law import read_law
    from pargolf.study.planning.sample import read_text
    from pargolf.study.planning.throughput import measured
    from pargolf.study.planning.words import recipe_file

    sources = _listed(data)
    size, clock = parse_bytes(cap), _seconds(seconds, minutes, 180.0)
    if find_world(device).size > 1:
        raise UserError(_ONE)
    text = yield from read_text(sources, read_law())
    pace = throughput
    if pace is None:
        pace = yield from measured(device=device, again=again)
    best = _planned(text, pace, cap=size, seconds=clock)
    if write is not None:
        write_text(write, recipe_file(best, command_line(plan, {**locals(), "throughput": None}, seed=False)))
    return best


@working
def golf(
    texts: Sequence[Target],
    *,
    cap: ByteSize = "1MB",
    seconds: Duration | None = None,
    minutes: float | None = None,
    out: PathLike = "runs/golf",
    seed: Seed = 1337,
    force: bool = False,
    device: str | None = None,
    throughput: "Throughput | None" = None,
) -> Events[GolfResult]:
    """Make the best model of a text within a byte cap and a time limit: plan, prepare, train, pack, score, report.

    Args:
        texts: Text files, folders, `embedded`, or one prepared folder.
        cap: Bytes of model and code: 250kB, 1MB, 16MB, 1MiB.
        seconds: Time for planning, training and packing: 90, 90s, 10m, 1h; 10 minutes when left out. Preparing the
          text and scoring take more.
        minutes: The same, in minutes.
        out: The run's folder; it also gets `plan.json` and the prepared text in `data`.
        seed: Seed of the initial weights and the data's order.
        force: Replace the content of the output folder.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
        throughput: Earlier measurements of a machine, instead of measuring this one.

    Returns:
        The plan with its forecast, and the run's result.

    Raises:
        UserError: as `plan`, `prepare_data` and `train`.
    """
    from dataclasses import replace

    from pargolf.core.files import write_json
    from pargolf.data.folder import open_data
    from pargolf.data.learn import TooManyPieces
    from pargolf.data.prepare import prepare
    from pargolf.data.tokens import ByteTokenizer
    from pargolf.report.pages.write import with_page
    from pargolf.run.folder import RunFolder
    from pargolf.run.pipeline import run_recipe
    from pargolf.study.planning.sample import is_prepared

    command = command_line(golf, {**locals(), "throughput": None})
    sources, clock = _listed(texts), _seconds(seconds, minutes, 600.0)
    RunFolder.create(out, force=force)
    best = yield from plan(data=sources, cap=cap, seconds=clock, device=device, throughput=throughput)
    data = Path(out) / "data"
    if len(sources) == 1 and is_prepared(Path(sources[0])):
        data = Path(sources[0])
    else:
        try:
            yield from prepare(sources, data, vocab=best.choice.shape.vocab, force=True)
        except TooManyPieces as error:
            text = replace(best.text, most=error.most or ByteTokenizer.vocab)
            best = _planned(text, best.machine, cap=parse_bytes(cap), seconds=clock)
            yield from prepare(sources, data, vocab=best.choice.shape.vocab, force=True)
    write_json(Path(out) / "plan.json", best.row())
    events = run_recipe(best.recipe, open_data(data), out, seed=seed, force=True, device=device, command=command)
    return GolfResult(best, (yield from with_page(events, out, device=device)))


def _planned(text: "TextFacts", pace: "Throughput", *, cap: int, seconds: float) -> "Plan":
    """The plan for the seconds that remain after measuring."""
    from dataclasses import replace

    from pargolf.core.budget import Budget
    from pargolf.recipes.family import Shape, member
    from pargolf.ship.size import count_code
    from pargolf.study.planning.law import read_law
    from pargolf.study.planning.search import CODE, Search
    from pargolf.study.planning.words import make_plan

    seconds_left = round(seconds - pace.seconds, 1)
    if seconds_left <= 0:
        raise UserError(
            f"Measuring this machine took {pace.seconds:.1f} of {seconds:g} s. It is known now: repeat the "
            "command, or give more seconds."
        )
    search = Search(Budget(bytes=cap, train_seconds=seconds_left), text, pace, read_law(), CODE)
    likely = min(search.prospects(), key=lambda prospect: prospect.bpb, default=None)
    code = count_code(member(Shape() if likely is None else likely.shape), fitted=True)
    return make_plan(replace(search, code=code))


def _seconds(seconds: Duration | None, minutes: float | None, default: float) -> float:
    """The time limit in seconds, from either option."""
    if seconds is not None and minutes is not None:
        raise UserError("Say --seconds or --minutes, not both.")
    if minutes is not None:
        return parse_seconds(f"{minutes}m")
    return default if seconds is None else parse_seconds(seconds)


def _listed(texts: Target | Sequence[Target]) -> list[str]:
    """Convert one source or several to a list."""
    return [str(texts)] if isinstance(texts, str | Path) else [str(text) for text in texts]
