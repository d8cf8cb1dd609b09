"""Run the parts of a long benchmark as jobs on an engine.

Each job leaves a JSON file, and is not repeated if it has one.

    values = values_of({name: arguments}, work, out, on="ray", jobs=None, needs="cores=1")

`work(*arguments)` returns a value that JSON can store, or None if nothing should be stored. Files go to OUT/values, on
storage that all nodes share.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pargolf.core.events import Event, JobEnded
from pargolf.core.files import read_json, write_json
from pargolf.engines.choose import choose
from pargolf.engines.task import Place, Task, TaskEnded
from pargolf.watch.live import draw


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--on`, `--jobs` and `--needs`, as in the commands."""
    parser.add_argument("--on", default="local", help="local, ray, or ray://HOST:10001")
    parser.add_argument("--jobs", type=int, help="how many at a time")
    parser.add_argument("--needs", default="", help="what each needs, as cores=1,memory=4GB")


def values_of(
    todo: Mapping[str, tuple[Any, ...]],
    work: Callable[..., Any],
    out: Path,
    *,
    on: str = "local",
    jobs: int | None = None,
    needs: str = "",
) -> dict[str, Any]:
    """The value of each name, in order, without those that are None. Raises the first error of a job."""
    folder = (out / "values").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.json" for name in todo}
    missing = [name for name in todo if not files[name].is_file()]
    engine = choose(on, jobs=jobs, needs=needs, device="cpu")
    tasks = [Task(name, keep_value, (files[name], work, todo[name]), files[name]) for name in missing]
    if engine is None:
        for task in tasks:
            for _ in task.work(Place(), *task.arguments):
                pass
    else:
        for _ in draw(_told(tasks, engine.run(tasks)), Console(stderr=True)):
            pass
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def keep_value(place: Place, file: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[Event]:
    """The body of a job: computes one value, with the threads of its place, and writes its file."""
    torch.set_num_threads(place.threads)
    value = work(*arguments)
    if value is not None:
        write_json(file, value)
    yield from ()


def _told(tasks: list[Task], running: Any) -> Iterator[Event]:
    for event in running:
        if isinstance(event, TaskEnded):
            if event.error is not None:
                raise event.error
            yield JobEnded(tasks[event.number].label)
        else:
            yield event
