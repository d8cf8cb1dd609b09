"""Data sets of the Hugging Face hub as a text source (`hf://datasets/OWNER/NAME`): Parquet files, cached locally.

    hf://datasets/OWNER/NAME                        every Parquet file
    hf://datasets/OWNER/NAME/sample/10BT            the files of a folder
    hf://datasets/OWNER/NAME/data/train-*.parquet   the files that match a glob
    hf://datasets/OWNER/NAME@~parquet               the Parquet copy that the hub makes of any data set

Files are cached under the hashes of their content, so nothing is downloaded twice, and an interrupted download
continues. Needs the `huggingface_hub` package, `pip install 'pargolf[hub]'`, and `pyarrow`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.files import cache_folder
from pargolf.core.work import Events
from pargolf.data.hub import Hub, RemoteFile, check_room, take_all
from pargolf.data.read.files import SourceFile, Sources, source_file

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w.~/-]+?))?(?:/(.*))?")
_CONVERTED = "refs/convert/parquet"


def with_fetched(sources: Sequence[str | Path], find: Callable[[Sequence[str | Path]], Sources]) -> Events[Sources]:
    """The files of all sources in order: local ones listed by `find`, those of the hub downloaded."""
    out = Sources()
    if not sources:
        return find(sources)
    for source in sources:
        if str(source).startswith(SCHEME):
            out.files += yield from _fetched(str(source))
        else:
            local = find([source])
            out.files += local.files
            out.left_out += local.left_out
    return out


def _fetched(address: str) -> Events[list[SourceFile]]:
    """Download the files of a data set. Raises `UserError` for a malformed address, and when no file matches."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address} is no data set. Write hf://datasets/OWNER/NAME, perhaps with a folder or a glob.")
    repo, branch, inside = match[1], match[2], (match[3] or "").strip("/")
    hub = Hub(repo)
    revision = hub.revision(_CONVERTED if branch == "~parquet" else branch)
    paths = [path for path in hub.names(revision) if _is_wanted(path, inside)]
    if not paths:
        where = f" under {inside}" if inside else ""
        raise UserError(
            f"{repo} has no Parquet file{where}. The hub's own copy in Parquet is hf://datasets/{repo}@~parquet."
        )
    cache = cache_folder() / "datasets"
    files = [replace(file, place=f"{file.proof}.parquet") for file in hub.files([(p, p) for p in paths], revision)]
    missing = list({file.proof: file for file in files if not _is_there(cache, file)}.values())
    whole = sum(file.size for file in files)
    check_room(cache, sum(file.size for file in missing), f"Name fewer of its {len(files):,} files: {address}/...")
    yield Progress("fetch", whole - sum(file.size for file in missing), whole, f"{len(missing)} files to fetch")
    yield from take_all(hub, missing, revision, cache, cache, whole)
    return [source_file(cache / file.place, file.path) for file in files]


def _is_wanted(path: str, inside: str) -> bool:
    if not path.endswith(".parquet"):
        return False
    return not inside or path == inside or path.startswith(f"{inside}/") or fnmatchcase(path, inside)


def _is_there(cache: Path, file: RemoteFile) -> bool:
    """Whether a file is in the cache; files get their names only after they are verified."""
    path = cache / file.place
    return path.is_file() and path.stat().st_size == file.size
