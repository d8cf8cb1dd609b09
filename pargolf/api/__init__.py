"""What the command line does, one typed call away: `pargolf.train("baseline", data="data", out="runs/a").result()`.

A call that takes long returns `Work` (`core/work.py`): iterate it for what happens, or ask `.result()` for the value.
All raise `UserError` with one line that says what to do.

The calls are grouped in files by what they work on, like the commands in `cli/`, which takes names, types, defaults and
help of its options from here. To keep that fast, each call imports what it needs only when it runs.
"""

from pargolf.api.artifacts import bench_codec, generate, inspect, probe, score
from pargolf.api.data import check_data, fetch_data, prepare_data
from pargolf.api.exporting import bench_device, evaluate_tasks, export, load, serve, token_losses
from pargolf.api.ledger import list_runs, query_runs, rerun
from pargolf.api.planning import golf, plan
from pargolf.api.recipes import describe, diff, forecast, list_recipes, recipe
from pargolf.api.results import compare, judge, judge_all, write_report, write_submission
from pargolf.api.runs import ablate, import_checkpoint, pack, seeds, sweep, train

__all__ = [
    "ablate",
    "bench_codec",
    "bench_device",
    "check_data",
    "compare",
    "describe",
    "diff",
    "evaluate_tasks",
    "export",
    "fetch_data",
    "forecast",
    "generate",
    "golf",
    "import_checkpoint",
    "inspect",
    "judge",
    "judge_all",
    "list_recipes",
    "list_runs",
    "load",
    "pack",
    "plan",
    "prepare_data",
    "probe",
    "query_runs",
    "recipe",
    "rerun",
    "score",
    "seeds",
    "serve",
    "sweep",
    "token_losses",
    "train",
    "write_report",
    "write_submission",
]
