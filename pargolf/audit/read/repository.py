"""Read submissions from a git repository: what each pull request's head adds to the main branch.

A head contains a whole tree. The submission is its difference from the merge base with the repository's main branch.
For a merged head the merge base is the head itself, so the difference is taken from the first parent of the merge that
brought it in. Each folder `records/<track>/<name>` in the difference is one submission. Every other file is outside.
Blobs come through one `git cat-file --batch` process.
"""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from pargolf.audit.read.submission import (
    MOST_FILES,
    MOST_FOLDERS,
    File,
    Folder,
    Submission,
    is_text,
    logs_among,
    track_of,
)
from pargolf.core.errors import UserError


class Repository:
    """A git repository read through its plumbing; a context manager that owns one `cat-file --batch` process."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        if not Path(path).exists():
            raise UserError(f"{path} is not there. Give the path of a clone of openai/parameter-golf.")
        try:
            self._git("rev-parse", "--verify", "HEAD")
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"{path} is no git repository with a HEAD (or git is not installed).") from error
        self._batch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        if self._batch is not None:
            assert self._batch.stdin is not None and self._batch.stdout is not None
            self._batch.stdin.close()
            self._batch.stdout.close()
            self._batch.wait()
            self._batch = None

    def pulls(self) -> dict[int, str]:
        """Pull request numbers with the hashes of their heads. Raises `UserError` if there are none."""
        heads: dict[int, str] = {}
        for line in self._git("for-each-ref", "--format=%(objectname) %(refname)").splitlines():
            sha, name = line.split(" ", 1)
            parts = name.split("/")
            if len(parts) >= 4 and parts[-4:-2] == ["refs", "pull"] and parts[-1] == "head" and parts[-2].isdecimal():
                heads[int(parts[-2])] = sha
            elif len(parts) >= 3 and parts[-2] == "pr" and parts[-1].isdecimal():
                heads.setdefault(int(parts[-1]), sha)
        if not heads:
            raise UserError(
                f"{self.path} has no pull request heads. Fetch them with: "
                "git fetch origin '+refs/pull/*/head:refs/pull/*/head'."
            )
        return heads

    def submission(self, ref: str, *, target: str, eager: bool = False) -> Submission:
        """What the head `ref` adds to the main branch. `eager` reads every text file now, so the process may end."""
        head = self._resolve(ref)
        touched = self._touched(head)
        added, outside = _parted(touched)
        files = {name: self._files(head, name, eager=eager) for name in added[:MOST_FOLDERS]}
        folders = [Folder(name, track_of(name), members) for name, members in files.items() if members]
        if len(folders) <= 2:
            folders = [self._with_strays(head, folder, outside, eager=eager) for folder in folders]
        if not folders:
            folders = self._scripts_alone(head, outside, eager=eager)
        return Submission(target, head, tuple(folders), tuple(dict.fromkeys(outside)), tuple(added[MOST_FOLDERS:]))

    def _scripts_alone(self, head: str, outside: list[str], *, eager: bool) -> list[Folder]:
        """The script alone as the submission, if there is no folder."""
        scripts = [path for path in outside if path.endswith(".py") and "train" in path]
        files = tuple(f for path in scripts[:3] for f in self._files(head, path, eager=eager, whole=True))
        return [Folder("(outside records)", None, files, script_only=True)] if files else []

    def _with_strays(self, head: str, folder: Folder, outside: Iterable[str], *, eager: bool) -> Folder:
        """The folder, with the script or the logs that it lacks and that the head has elsewhere."""
        lacks = (not any(f.suffix == ".py" for f in folder.files), not logs_among(folder.files))
        names = [p for p in outside if lacks[0] and p.endswith(".py") and "train" in PurePosixPath(p).name]
        logs = [p for p in outside if lacks[1] and p.endswith(".log")]
        names += sorted(logs, key=lambda p: ("train" not in p, p))
        strays = tuple(f for p in names[:8] for f in self._files(head, p, eager=eager, whole=True))
        return replace(folder, elsewhere=strays) if strays else folder

    def read(self, sha: str) -> bytes | None:
        """The bytes of a blob, or None if the snapshot does not contain it."""
        if self._batch is None:
            self._batch = subprocess.Popen(
                ["git", "-C", self.path, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self._batch.stdin is not None and self._batch.stdout is not None
        self._batch.stdin.write(sha.encode() + b"\n")
        self._batch.stdin.flush()
        header = self._batch.stdout.readline().split()
        if len(header) != 3:
            return None
        data = self._batch.stdout.read(int(header[2]))
        self._batch.stdout.read(1)
        return data

    @cached_property
    def _merged_into(self) -> dict[str, str]:
        """For every branch tip that was merged into the main branch: the commit of that branch before the merge."""
        bases: dict[str, str] = {}
        for line in self._git("rev-list", "--first-parent", "--merges", "--parents", "HEAD").splitlines():
            _, before, *tips = line.split()
            bases.update(dict.fromkeys(tips, before))
        return bases

    def _resolve(self, ref: str) -> str:
        tries = [ref, f"refs/{ref}", f"refs/pull/{ref}/head", f"refs/{ref}/head"]
        for name in tries:
            commit = self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            if commit:
                return commit
        raise UserError(f"{self.path} has no ref '{ref}'. Write a branch, a hash or pull/1009/head.")

    def _touched(self, head: str) -> list[tuple[str, str]]:
        base = self._try("merge-base", "HEAD", head)
        if base == head:
            before = self._merged_into.get(head)
            base = (self._try("merge-base", before, head) if before else "") or self._try("rev-parse", f"{head}^")
        fields = self._git("diff-tree", "-r", "--no-renames", "-z", base or "HEAD", head).split("\0")
        changes = [(entry.split()[-1], path) for entry, path in zip(fields[::2], fields[1::2])]
        # Without a common ancestor, files that the head lacks mean nothing.
        return [(status, path) for status, path in changes if status != "D"]

    def _files(self, head: str, folder: str, *, eager: bool, whole: bool = False) -> tuple[File, ...]:
        """Files below a folder; with `whole`, the file with that very path."""
        files = []
        for entry in self._git("ls-tree", "-r", "-l", "-z", head, "--", folder if whole else folder + "/").split("\0")[
            :MOST_FILES
        ]:
            if not entry:
                continue
            meta, path = entry.split("\t", 1)
            _, kind, sha, size = meta.split()
            if kind != "blob":
                continue
            file = File(
                path if whole else path.removeprefix(folder + "/"),
                int(size) if size.isdecimal() else 0,
                self._fetcher(sha),
            )
            files.append(_in_memory(file) if eager else file)
        return tuple(files)

    def _fetcher(self, sha: str) -> Callable[[], bytes | None]:
        return lambda: self.read(sha)

    def _git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", self.path, *words], capture_output=True, check=True)
        return done.stdout.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()

    def _try(self, *words: str) -> str:
        try:
            return self._git(*words).strip()
        except subprocess.CalledProcessError:
            return ""


def _in_memory(file: File) -> File:
    """The file with its bytes in memory, if it is text that a rule may read."""
    if not is_text(file):
        return file
    data = file.read()
    return File(file.path, file.size, lambda: data)


def _parted(touched: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Split the paths that a head touches, with their status, into folders of submissions and paths outside them.

    A folder counts if the head adds a file to it. If the head adds no file to any folder, every folder that it touches
    counts.
    """
    folders: dict[str, bool] = {}
    outside = []
    # Without a track in between, a folder directly below records/ with files in it is one submission.
    flat = {p[1] for _, path in touched if len(p := path.split("/")) == 3 and not p[1].startswith("track_")}
    for status, path in touched:
        parts = path.split("/")
        is_flat = len(parts) > 2 and parts[1] in flat
        if parts[0] == "records" and (len(parts) > 3 or (len(parts) == 3 and is_flat)):
            name = "/".join(parts[: 2 if is_flat else 3])
            folders[name] = folders.get(name, False) or status == "A"
        else:
            outside.append(path)
    added = [name for name, new in folders.items() if new] or list(folders)
    inside = tuple(f"{name}/" for name in added)
    outside += [path for status, path in touched if status != "A" and not path.startswith(inside)]
    return added, outside
