"""Find the target of an audit: a submission's folder, a run, a script, or a ref of a git repository."""

from collections.abc import Iterator
from pathlib import Path

from pargolf.audit.read.repository import Repository
from pargolf.audit.read.submission import MOST_FILES, MOST_FOLDERS, File, Folder, Submission, track_of
from pargolf.core.errors import UserError


def open_target(target: str | Path) -> Submission:
    """Open the target of an audit: a folder, a run, a script, or `git:REPO@REF`.

    Raises `UserError` if there is no such thing.
    """
    text = str(target)
    if text.startswith("git:"):
        repo, _, ref = text[4:].rpartition("@")
        if not repo or not ref:
            raise UserError(
                f"'{text}' names no ref. Write git:PATH@REF, for example git:parameter-golf@pull/1009/head."
            )
        with Repository(repo) as opened:
            return opened.submission(ref, target=text, eager=True)
    path = Path(text)
    if path.is_dir():
        return Submission(text, None, tuple(_local_folders(path)))
    if path.suffix == ".pargolf" and path.is_file():
        raise UserError(
            f"{text} is an artifact. Audit the run's folder; `pargolf probe {text}` asks the artifact itself."
        )
    if path.is_file():
        beside = tuple(_local_file(p, p.name) for p in sorted(path.parent.glob("*.model"))[:4] if p.is_file())
        folder = Folder(path.name, None, (_local_file(path, path.name),), script_only=True, elsewhere=beside)
        return Submission(text, None, (folder,))
    raise UserError(f"{text} is not there. Give a submission's folder, a script, or git:REPO@REF.")


def _local_folders(path: Path) -> Iterator[Folder]:
    if not any(p.is_file() for p in path.iterdir()):
        markers = [*path.glob("**/submission.json"), *path.glob("*/recipe.json")]
        below = sorted({p.parent for p in markers})[:MOST_FOLDERS]
        if below:
            for folder in below:
                yield from _local_folders(folder)
            return
    files = []
    for p in sorted(path.rglob("*")):
        if p.is_file() and not p.is_symlink() and ".git" not in p.parts:
            files.append(_local_file(p, p.relative_to(path).as_posix()))
        if len(files) >= MOST_FILES:
            break
    if not files:
        raise UserError(f"{path} holds no files. Give the folder of one submission.")
    yield Folder(path.name or str(path), track_of(path.resolve().as_posix()), tuple(files), place=path)


def _local_file(path: Path, name: str) -> File:
    def fetch() -> bytes | None:
        try:
            return path.read_bytes()
        except OSError:
            return None

    return File(name, path.stat().st_size, fetch)
