"""Check the shard files of a split: one set, numbered without gaps, with no stray file beside it."""

import re
from collections.abc import Sequence
from pathlib import Path

from pargolf.core.errors import UserError


def refuse_strays(paths: Sequence[Path], split: str) -> None:
    """Raise `UserError` unless the files are one numbered set such as `fineweb_val_000000.bin`, `..._000001.bin`.

    The error names a file with another kind of name, a second set, a number used twice, or a gap. Numbers may start
    anywhere. A single file may have any name.
    """
    if len(paths) < 2:
        return
    numbers: dict[int, Path] = {}
    sets: dict[str, Path] = {}
    for path in paths:
        name = re.fullmatch(rf"(.+)_{split}_(\d+)\.bin", path.name)
        if name is None:
            other = next(each.name for each in paths if each != path)
            raise UserError(
                f"{path} is beside {other} and is not numbered like a shard. Is it a copy? Remove it, or "
                f"rename it like {other.split(f'_{split}_')[0]}_{split}_000000.bin."
            )
        sets.setdefault(name[1], path)
        if len(sets) > 1:
            first, second = (each.name for each in sets.values())
            raise UserError(f"{path.parent} holds two sets of {split} shards, {first} and {second}: move one away.")
        same = numbers.setdefault(int(name[2]), path)
        if same != path:
            raise UserError(f"{path} has the same number as {same.name}. Remove the wrong one.")
    missing = sorted(set(range(min(numbers), max(numbers))) - set(numbers))
    if missing:
        shown = ", ".join(str(number) for number in missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise UserError(
            f"{paths[0].parent} holds {len(paths)} {split} shards and lacks number {shown}: fetch what is missing, or "
            "number them without gaps."
        )
