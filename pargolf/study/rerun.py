"""Repeat a finished run from its folder: the same recipe, seed and data.

A run with a limit in steps gives the same artifact on the same kind of machine. A run with a limit in seconds makes as
many steps as the machine allows, so it may differ; `Repeated.apart` lists the differences.
"""

from dataclasses import dataclass
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.events import Proved
from pargolf.core.result import Result, StartedFrom, files_apart
from pargolf.core.work import Events
from pargolf.data.folder import open_data
from pargolf.run.folder import RunFolder
from pargolf.run.loading import Start, read_start
from pargolf.run.pipeline import run_recipe


@dataclass(frozen=True)
class Repeated:
    """Two runs of one recipe and seed; `apart` says in words what differs, and is empty if the bytes are the same."""

    first: Result
    second: Result
    apart: list[str]

    @property
    def same_bytes(self) -> bool:
        """Whether both artifacts are the same, byte for byte."""
        return self.first.artifact_sha256 == self.second.artifact_sha256


def rerun(
    run: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    force: bool = False,
    command: str = "",
) -> Events[Repeated]:
    """Train, pack and score a run's recipe again into `out`, on `data` or on the folder that the run used.

    If the run started from other weights, so does the repetition. Raises `UserError` if the run has not ended, if its
    data or those weights are missing, or if the validation text is not the one it was scored on.
    """
    folder = RunFolder.open(run)
    first, recipe = folder.read_result(), folder.read_recipe()
    if Path(out).resolve() == folder.path.resolve():
        raise UserError(f"{out} is the run itself. Choose another --out.")
    source = data if data is not None else first.data
    if not source or not Path(source).is_dir():
        raise UserError(f"The data of {run} is missing ({source or 'not recorded'}). Name it with --data.")
    events = run_recipe(
        recipe,
        open_data(source),
        out,
        seed=first.seed,
        force=force,
        device=device,
        allow_overlap=(first.overlap.copied_documents or 0) > 0,
        command=command,
        start=None if first.origin is None else _same_start(run, first.origin),
    )
    for event in events:
        if isinstance(event, Proved) and first.proof is not None and (words := files_apart([first.proof, event])):
            raise UserError(f"{source} is not what {run} was scored on: {words}. Name the right data with --data.")
        yield event
    second = RunFolder.open(out).read_result()
    return Repeated(first, second, _differences(first, second))


def _same_start(run: str | Path, origin: StartedFrom) -> Start:
    """The weights that a run started from. Raises `UserError` if they are missing or were replaced."""
    try:
        start = read_start(origin.path)
    except (UserError, OSError) as error:
        raise UserError(f"{run} started from {origin.path}, which cannot be read ({error}). Put it back.") from error
    if start.origin.sha256 != origin.sha256:
        raise UserError(f"{run} started from other weights than {origin.path} holds now. Put those back.")
    return start


def _differences(first: Result, second: Result) -> list[str]:
    """The differences between two runs of one recipe, the most informative first."""
    if first.artifact_sha256 == second.artifact_sha256 and first.val_bpb == second.val_bpb:
        return []
    rows = {
        "bits per byte": (f"{first.val_bpb:.6f}", f"{second.val_bpb:.6f}"),
        "artifact": (first.artifact_sha256[:12], second.artifact_sha256[:12]),
        "steps": (f"{first.steps:,}", f"{second.steps:,}"),
        "version": (first.version or "not recorded", second.version or "not recorded"),
        **{
            name: (str(getattr(first.machine, name)), str(getattr(second.machine, name)))
            for name in ("processor", "threads", "world_size", "torch", "python", "system")
        },
    }
    return [f"{name}: {old} -> {new}" for name, (old, new) in rows.items() if old != new]
