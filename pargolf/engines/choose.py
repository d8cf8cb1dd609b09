"""Which engine runs the jobs of a command, by its `--on`, `--jobs` and `--needs`.

local                 in turn in this process; with --jobs N in N processes of this machine
ray                   the Ray cluster that runs here or that RAY_ADDRESS names; else a new one on this machine
ray://HOST:10001      a cluster elsewhere, through its Ray Client
"""

from pargolf.core.errors import UserError
from pargolf.core.extras import extra
from pargolf.engines.processes import Processes
from pargolf.engines.task import Engine, Needs

LOCAL = "local"


def choose(on: str = LOCAL, *, jobs: int | None = None, needs: str = "", device: str | None = None) -> Engine | None:
    """The engine; None for jobs in turn in this process. Raises `UserError` when `on` names no engine.

    `jobs` of None means one at a time here, and on a cluster as many as there is room for.
    """
    if jobs is not None and jobs < 1:
        raise UserError("--jobs is at least 1.")
    each = Needs.parse(needs)
    if on == LOCAL:
        return None if jobs in (None, 1) and not needs else Processes(jobs or 1, each, device)
    if on != "ray" and not on.startswith("ray://"):
        raise UserError(f"--on is local, ray or ray://HOST:10001; not {on}.")
    engine: Engine = extra("pargolf.engines.cluster", "ray").Cluster(on, jobs, each, device)
    return engine
