"""Read Parquet files (`.parquet`), the usual format of data sets: only the text and id columns, a few rows at a time.

Needs the `pyarrow` package, `pip install 'pargolf[parquet]'`.
"""

import importlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from pargolf.core.errors import UserError
from pargolf.data.read.columns import ID, Choose, TextRow

_ROWS = 128


def read_parquet(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """Yield each row's text, empty for a null. Raises `UserError` when the file is damaged or not a table."""
    arrow, parquet = _libraries()
    try:
        with tempfile.TemporaryFile() as unpacked:
            table = parquet.ParquetFile(_seekable(file, unpacked))
            names = list(table.schema_arrow.names)
            strings = [name for name in names if _is_text(arrow, table.schema_arrow.field(name).type)]
            column = choose(strings, names)
            wanted = [column, ID] if ID in names and column != ID else [column]
            number = 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=wanted):
                texts = batch.column(column).to_pylist()
                ids = batch.column(ID).to_pylist() if len(wanted) > 1 else [None] * len(texts)
                for text, given in zip(texts, ids):
                    number += 1
                    yield TextRow(str(number), None if given is None else str(given), text or "")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} holds text that is not UTF-8.") from error
    except (arrow.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:150]
        raise UserError(f"{where} is no whole Parquet file ({why}). Fetch it again.") from error


def _libraries() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("A .parquet file needs the pyarrow package: pip install 'pargolf[parquet]'.") from error


def _seekable(file: IO[bytes], unpacked: IO[bytes]) -> IO[bytes]:
    """A seekable file: a compressed file is unpacked to disk first."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        return file
    shutil.copyfileobj(file, unpacked, 1 << 20)
    unpacked.seek(0)
    return unpacked


def _is_text(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
