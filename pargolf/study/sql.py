"""Query the ledger in SQL with DuckDB: one table `runs`, and no access to anything else."""

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.files import write_text
from pargolf.study.ledger import ALL, Ledger

_COUNTS = ("seed", "total", "model", "code", "cap", "steps", "parameters", "threads", "processes")
_TYPES = {
    "legal": "BOOLEAN",
    **dict.fromkeys(("bpb", "loss", "seconds", "eval_seconds"), "DOUBLE"),
    **dict.fromkeys((*_COUNTS, "train_tokens", "val_tokens", "val_bytes"), "BIGINT"),
}


def ask(ledger: Ledger, sql: str) -> list[dict[str, Any]]:
    """Run a query; returns a dictionary for each row. Raises `UserError` if DuckDB refuses it or is not installed.

    The query can access only the table: it cannot open files, load extensions or change settings.
    """
    try:
        library: Any = importlib.import_module("duckdb")
    except ImportError as error:
        raise UserError(
            "--sql needs DuckDB: pip install 'pargolf[sql]'. Without it, use --where and --sort."
        ) from error
    columns = ", ".join(f"'{name}': '{_TYPES.get(name, 'VARCHAR')}'" for name in ALL)
    with tempfile.TemporaryDirectory() as folder, library.connect(":memory:") as base:
        path = Path(folder) / "runs.json"
        write_text(path, "".join(json.dumps(row) + "\n" for row in ledger.rows))
        reader = f"read_json(?, format='newline_delimited', columns={{{columns}}})"
        base.execute(f"create table runs as select * from {reader}", [str(path)])
        base.execute("set enable_external_access=false")
        base.execute("set lock_configuration=true")
        try:
            answer = base.execute(sql)
            names = [column[0] for column in answer.description or ()]
            return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
        except library.Error as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"DuckDB refuses the query: {reason}. The table is runs: {', '.join(ALL)}.") from None
