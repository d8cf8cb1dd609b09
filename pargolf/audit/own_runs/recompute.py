"""Recompute what a run's files allow: compare them with each other, count the code, score the artifact again.

This is the only part of the auditor that needs torch, so nothing else here imports it.
"""

from pathlib import Path

from pargolf.audit.own_runs.checks import Recomputed
from pargolf.core.errors import UserError
from pargolf.core.result import Grids
from pargolf.core.work import Events
from pargolf.data.folder import open_data
from pargolf.run.folder import RunFolder
from pargolf.run.verify import contradictions, rescore
from pargolf.ship.size import count_code


def recompute(path: str | Path, *, data: str | Path | None = None, device: str | None = None) -> Events[Recomputed]:
    """Recompute one run folder. With `data`, its artifact is scored on them, too.

    The result names what cannot be recomputed because a file is missing or damaged. Raises `UserError` if `data` is no
    data folder, or has another tokenizer.
    """
    try:
        folder = RunFolder.open(path)
        result = folder.read_result()
        wrong = contradictions(folder)
        code = count_code(folder.read_recipe(), fitted=result.grids is Grids.SOLVED)
    except UserError as error:
        return Recomputed(problem=str(error))
    if data is None:
        return Recomputed(tuple(wrong), code_bytes=code)
    again = yield from rescore(folder, open_data(data), device=device)
    return Recomputed(tuple(wrong), again.differences, again.bpb, code)
