"""What the command line does, one typed call away: `pargolf.train("baseline", data="data", out="runs/a")`.

The `..._events` forms yield what happens, for progress of one's own, and end with the result; the plain forms run to
the end and return it. All raise `UserError` with one line that says what to do.

The calls stand in files by what they work on, as the commands do in `cli/`.
"""

from pargolf.api.artifacts import (
    bench_codec,
    bench_codec_events,
    generate,
    inspect,
    price_text,
    probe,
    score,
    score_events,
)
from pargolf.api.data import fetch_data
from pargolf.api.recipes import Found, forecast, recipe
from pargolf.api.results import compare, judge, report_events, submission_events, write_report, write_submission
from pargolf.api.runs import (
    ablate,
    ablate_events,
    demo,
    demo_events,
    import_checkpoint,
    pack,
    seeds,
    seeds_events,
    sweep,
    sweep_events,
    train,
    train_events,
)

__all__ = [
    "Found",
    "ablate",
    "ablate_events",
    "bench_codec",
    "bench_codec_events",
    "compare",
    "demo",
    "demo_events",
    "fetch_data",
    "forecast",
    "generate",
    "import_checkpoint",
    "inspect",
    "judge",
    "pack",
    "price_text",
    "probe",
    "recipe",
    "report_events",
    "score",
    "score_events",
    "seeds",
    "seeds_events",
    "submission_events",
    "sweep",
    "sweep_events",
    "train",
    "train_events",
    "write_report",
    "write_submission",
]
