"""Try the auditor on edits of one clean submission: which illegal edits it passes, and which innocent edits it accuses.

`python benchmarks/audit.py --mutations` prints the table. An illegal edit counts as caught if the audit accuses it
(HOLD, SUSPECT or FAIL) or names what it could not check (UNVERIFIABLE). An innocent edit counts as accused only if the
audit accuses it. The edits are in `tests/mutations`, written for this project.
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from pargolf.audit.judge import audit
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import mutations


def print_table() -> bool:
    """Print a row for each kind, and the edits missed or accused.

    Returns whether 95 % are caught and none is accused.
    """
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    wrong: list[str] = []
    for mutation in mutations.load():
        outcome = outcome_of(mutation)
        counts[mutation.kind][outcome] += 1
        if outcome in ("missed", "accused"):
            wrong.append(f"{outcome}: {mutation.kind}: {mutation.name}")
    columns = ("accusing", "unverifiable", "missed", "passed", "not passed", "accused")
    print(f"{'kind of edit':28}" + "".join(f"{column:>14}" for column in columns))
    for kind, row in counts.items():
        print(f"{kind:28}" + "".join(f"{row[column] or '-':>14}" for column in columns))
    sums = {column: sum(row[column] for row in counts.values()) for column in columns}
    broken = sums["accusing"] + sums["unverifiable"] + sums["missed"]
    innocents = sums["passed"] + sums["not passed"] + sums["accused"]
    caught = broken - sums["missed"]
    print("\n".join(wrong))
    print(
        f"{caught} of {broken} that break a rule are caught ({caught / broken:.1%}), {sums['accusing']} of them by an "
        f"accusation; of {innocents} innocent ones {sums['passed']} pass and {sums['accused']} are accused."
    )
    return caught >= 0.95 * broken and sums["accused"] == 0


def outcome_of(mutation: mutations.Mutation) -> str:
    """The outcome of auditing an edit, as a column of the table."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = audit(mutations.write(mutation.files(), Path(folder), mutation.folder)).verdict
    accuses = verdict in (HOLD, SUSPECT, FAIL)
    if mutation.breaks:
        return "accusing" if accuses else "missed" if verdict == PASS else "unverifiable"
    return "accused" if accuses else "passed" if verdict == PASS else "not passed"
