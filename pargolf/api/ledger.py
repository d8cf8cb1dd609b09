"""Every run that a folder holds: listed, asked, and run again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargolf.api.recipes import Own
from pargolf.core.own import use
from pargolf.core.work import Events, working
from pargolf.study import rerun as repeats
from pargolf.study.ledger import Ledger, read_ledger
from pargolf.study.rerun import Repeated
from pargolf.study.sql import ask

Folders = str | Path | Sequence[str | Path]


@working
def list_runs(folders: Folders = "runs", *, where: str = "", sort: str = "") -> Events[Ledger]:
    """All runs at or below some folders, a flat row each: `pandas.DataFrame(pargolf.list_runs().result().rows)`.

    `where` keeps rows (`bpb < 1.3 and recipe = house`); `sort` names a column, with a `-` before it for downwards.
    Raises `UserError` on a folder that is not there, and on a filter or column that is none.
    """
    ledger = yield from read_ledger([folders] if isinstance(folders, str | Path) else folders)
    ledger = ledger.where(where) if where else ledger
    return ledger.sorted(sort) if sort else ledger


@working
def query_runs(sql: str, folders: Folders = "runs", *, where: str = "") -> Events[list[dict[str, Any]]]:
    """Ask the table `runs` of all runs in SQL, by DuckDB (an extra); a dictionary for each row of the answer."""
    return ask((yield from list_runs(folders, where=where)), sql)


@working
def rerun(
    run: str | Path,
    *,
    out: str | Path,
    data: str | Path | None = None,
    device: str | None = None,
    force: bool = False,
    own: Own = (),
) -> Events[Repeated]:
    """Train, pack and score a finished run again, from its folder alone, into `out`; both results, and what differs.

    `data`: where its data lies now, if not where it was. `own`: files of techniques that it uses, which are run.
    """
    use(own)
    return (yield from repeats.rerun(run, out, data=data, device=device, force=force))
