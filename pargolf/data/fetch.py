"""Download the published data from the Hugging Face hub: shards of FineWeb and their tokenizer, unchanged.

    hub: willdepueoai/parameter-golf   datasets/manifest.json            lists the data sets and their shard counts
                                       datasets/datasets/fineweb10B_sp1024/fineweb_{val,train}_%06d.bin
                                       datasets/tokenizers/fineweb_1024_bpe.model
    here: OUT/manifest.json, OUT/datasets/fineweb10B_sp1024/..., OUT/tokenizers/...      the published script's layout

Validation is always complete; training is the first N shards in a fixed order. All files are of one revision. A file
is moved into place only when its SHA-256 matches the hub's. An interrupted download continues where it stopped, also in
a later run, and unchanged files are not downloaded again. Names and layout are those of openai/parameter-golf,
`data/cached_challenge_fineweb.py`.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pargolf.core.errors import UserError, near
from pargolf.core.events import Progress
from pargolf.core.files import write_json
from pargolf.core.work import Events
from pargolf.data.byte_table import count_bytes
from pargolf.data.check import bpb_constant
from pargolf.data.folder import open_data
from pargolf.data.hub import Hub, RemoteFile, check_room, take_all
from pargolf.data.official import SP1024

REPO, ROOT = "willdepueoai/parameter-golf", "datasets"
SHARDS = 80
RECORD = "fetched.json"


@dataclass(frozen=True)
class Fetched:
    """The result: the data folder, the shards of both splits, validation tokens and bytes, and their constant."""

    folder: Path
    revision: str
    train_shards: int
    val_shards: int
    tokens: int
    bytes: int
    constant: float


def fetch(
    name: str = "sp1024",
    out: str | Path = "data",
    *,
    shards: int = SHARDS,
    repo: str = REPO,
    root: str = ROOT,
    force: bool = False,
) -> Events[Fetched]:
    """Download a published variant (`sp1024`, `sp8192`, `byte260`), with progress in bytes.

    `repo` and `root` name another export of the same layout; HF_ENDPOINT names another hub. `force` replaces files that
    are not the published ones. Raises `UserError` for an unknown variant, more shards than exist, a hub that does not
    answer, a file with wrong bytes, too little disk space, or bytes that do not give the official constant.
    """
    out = Path(out)
    hub = Hub(repo)
    staged = out / ".fetch"
    manifest_path = f"{root}/manifest.json" if root else "manifest.json"
    revision = hub.revision()
    (listed,) = hub.files([(manifest_path, "manifest.json")], revision)
    fetched_bytes = hub.take(listed, revision, staged)
    manifest = _read_manifest(fetched_bytes, repo)
    wanted, counts = _wanted(manifest, name, shards, root)
    files = hub.files(wanted, revision)
    record = _read_record(out)
    missing = [file for file in files if not _there(out, file, record, force=force)]
    check_room(out, sum(file.size for file in missing), "Lower --shards.")
    whole = sum(file.size for file in files)
    yield Progress("fetch", whole - sum(file.size for file in missing), whole, f"{len(missing)} files to fetch")
    yield from take_all(hub, missing, revision, staged, out, whole)
    fetched_bytes.replace(out / "manifest.json")
    facts = {file.place: _facts(out / file.place, file.proof) for file in files}
    others = {k: v for k, v in record.items() if k not in facts}
    write_json(out / RECORD, {"repo": repo, "revision": revision, "files": others | facts})
    shutil.rmtree(staged, ignore_errors=True)
    return _prove(out / Path(files[0].place).parent, revision, counts, manifest, name)


def _prove(folder: Path, revision: str, counts: tuple[int, int], manifest: Any, name: str) -> Fetched:
    """Count validation as scoring will. Raises `UserError` when that differs from the published counts."""
    data = open_data(folder)
    tokens = data.val.take(0, len(data.val))
    stated = next(row for row in manifest["datasets"] if row["name"] == _folder_of(name)).get("stats", {})
    if stated.get("tokens_val") not in (None, len(tokens)):
        raise UserError(f"{folder} holds {len(tokens):,} validation tokens, and its manifest {stated['tokens_val']:,}.")
    byte_counts = count_bytes(data.byte_table, tokens[:-1], tokens[1:])
    graded, scored = int(byte_counts.sum()), int(byte_counts[: SP1024.scored].sum())
    if data.vocab == SP1024.vocab and len(tokens) == SP1024.tokens and scored != SP1024.bytes:
        raise UserError(
            f"The official split has {SP1024.bytes:,} bytes in {SP1024.scored:,} tokens; {folder} counts {scored:,}."
        )
    constant = bpb_constant(len(tokens) - 1, graded)
    return Fetched(folder, revision, counts[1], counts[0], len(tokens) - 1, graded, constant)


def _there(out: Path, file: RemoteFile, record: dict[str, Any], *, force: bool) -> bool:
    """Whether a file is in place. Raises `UserError` when a different one is, unless `force`."""
    path = out / file.place
    if not path.exists():
        return False
    # A file that has not changed since its last check is not read again.
    if record.get(file.place) == _facts(path, file.proof) or file.holds(path):
        return True
    if force:
        return False
    raise UserError(f"{path} is not the published file. Move it away, or replace it with --force.")


def _facts(path: Path, proof: str) -> dict[str, Any]:
    stat = path.stat()
    return {"proof": proof, "size": stat.st_size, "changed": stat.st_mtime_ns}


def _read_record(out: Path) -> dict[str, Any]:
    """The files that were checked before; empty when the record cannot be read."""
    try:
        files = json.loads((out / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _folder_of(name: str) -> str:
    return name if name.startswith("fineweb") else f"fineweb10B_{name}"


def _read_manifest(path: Path, repo: str) -> Any:
    """The hub's list of data sets. Raises `UserError` when it is damaged."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        assert all(isinstance(row["name"], str) for key in ("datasets", "tokenizers") for row in manifest[key])
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"The manifest of {repo} is damaged; it names no data.") from error
    return manifest


def _wanted(manifest: Any, name: str, shards: int, root: str) -> tuple[list[tuple[str, str]], tuple[int, int]]:
    """Pairs of (path on the hub, path under OUT), validation first; and the shard counts of (val, train)."""
    folder = _folder_of(name)
    rows = {row["name"]: row for row in manifest["datasets"]}
    if folder not in rows:
        known = [variant.removeprefix("fineweb10B_") for variant in rows]
        raise UserError(f"There is no published data '{name}'.{near(name, known)} There are: {', '.join(known)}.")
    row = rows[folder]
    tokenizer: dict[str, Any] = next((t for t in manifest["tokenizers"] if t["name"] == row.get("tokenizer_name")), {})
    files = [str(tokenizer[key]) for key in ("model_path", "path") if tokenizer.get(key)]
    try:
        val, most = int(row["stats"]["files_val"]), int(row["stats"]["files_train"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The manifest does not say how many shards {folder} has.") from error
    if not 0 <= shards <= most:
        raise UserError(f"{name} has {most} training shards, and {shards} were asked for. Lower --shards.")
    names = [f"fineweb_val_{i:06d}.bin" for i in range(val)] + [f"fineweb_train_{i:06d}.bin" for i in range(shards)]
    places = [*(f"datasets/{folder}/{file}" for file in names), *files]
    if not val or any(PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts for p in places):
        raise UserError(f"The manifest names no files that {folder} could be made of.")
    return [(f"{root}/{path}" if root else path, path) for path in places], (val, shards)
