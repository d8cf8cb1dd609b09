"""Calls on all the runs of a folder: list them, query them in SQL, repeat one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pargolf.api.parameters import Own, PathLike, command_line
from pargolf.core.own import use
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.study.ledger import Ledger
    from pargolf.study.rerun import Repeated


@working
def list_runs(
    folders: PathLike | Sequence[PathLike] = "runs", *, where: str = "", sort: str = "", columns: Sequence[str] = ()
) -> "Events[Ledger]":
    """List every run under some folders, one row each, with filters, sorting and SQL.

    Args:
        folders: Folders of runs.
        where: Show only these, for example "bpb < 1.3 and recipe = house".
        sort: Sort by this column; -bpb for descending.
        columns: The columns of a row; all when left out.

    Returns:
        The runs as flat rows; `.results()` gives each run's `Result`, and `.frame()` a pandas DataFrame.

    Raises:
        UserError: a folder does not exist, or a filter or column is not valid.
    """
    from pargolf.study.ledger import read_ledger

    ledger = yield from read_ledger([folders] if isinstance(folders, str | Path) else folders)
    ledger = ledger.where(where) if where else ledger
    ledger = ledger.sorted(sort) if sort else ledger
    return ledger.choose(columns) if columns else ledger


@working
def query_runs(
    sql: str, folders: PathLike | Sequence[PathLike] = "runs", *, where: str = ""
) -> Events[list[dict[str, Any]]]:
    """Ask the table `runs` of all runs in SQL, by DuckDB (an extra).

    Args:
        sql: The question: "select recipe, min(bpb) from runs group by recipe".
        folders: Folders of runs.
        where: Show only these, for example "bpb < 1.3 and recipe = house".

    Returns:
        A dictionary for each row of the answer.
    """
    from pargolf.study.sql import ask

    return ask((yield from list_runs(folders, where=where)), sql)


@working
def rerun(
    run: PathLike,
    *,
    out: PathLike,
    data: PathLike | None = None,
    device: str | None = None,
    force: bool = False,
    own: Own = (),
) -> "Events[Repeated]":
    """Repeat a finished run from its folder, and say whether the bytes are the same.

    Args:
        run: A finished run's folder.
        out: The folder of the new run.
        data: Its data, if they have moved.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
        force: Replace the content of the output folder.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        Both results, and what differs.
    """
    from pargolf.core.devices import find_world
    from pargolf.report.pages.write import write_run_page
    from pargolf.study.rerun import rerun as run_again

    command = command_line(rerun, locals(), seed=False)
    use(own)
    repeated = yield from run_again(run, out, data=data, device=device, force=force, command=command)
    if find_world(device).main:
        write_run_page(out)
    return repeated
