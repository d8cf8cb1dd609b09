"""What the command line does, one typed call away: `pargolf.train("baseline", data="data", out="runs/a").result()`.

A call that takes long returns `Work` (`core/work.py`): iterate it for what happens, or ask `.result()` for the value.
All raise `UserError` with one line that says what to do.

The calls stand in files by what they work on, as the commands do in `cli/`.
"""

from pargolf.api.artifacts import (
    bench_codec,
    generate,
    inspect,
    probe,
    score,
)
from pargolf.api.data import check_data, fetch_data, prepare_data
from pargolf.api.exporting import Loaded, TokenLosses, evaluate_tasks, export, load, token_losses
from pargolf.api.ledger import list_runs, query_runs, rerun
from pargolf.api.recipes import Found, forecast, recipe
from pargolf.api.results import compare, judge, judge_all, write_report, write_submission
from pargolf.api.runs import (
    ablate,
    demo,
    import_checkpoint,
    pack,
    seeds,
    sweep,
    train,
)

__all__ = [
    "Found",
    "Loaded",
    "TokenLosses",
    "ablate",
    "bench_codec",
    "check_data",
    "compare",
    "demo",
    "evaluate_tasks",
    "export",
    "fetch_data",
    "forecast",
    "generate",
    "import_checkpoint",
    "inspect",
    "judge",
    "judge_all",
    "list_runs",
    "load",
    "pack",
    "prepare_data",
    "probe",
    "query_runs",
    "recipe",
    "rerun",
    "score",
    "seeds",
    "sweep",
    "token_losses",
    "train",
    "write_report",
    "write_submission",
]
