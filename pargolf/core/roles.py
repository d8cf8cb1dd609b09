"""Parameter roles (dotted names without block numbers), and strict tables of globs over them.

A parameter's role is its name without block numbers and without a trailing `weight`:

    blocks.3.attn.q.weight  ->  attn.q            embed.tokens.weight  ->  embed.tokens

A table is a list of rows `(glob, value)`; the first row that matches wins. A row that matches nothing, or a parameter
that no row matches, is an error: one published system (pull request 543) never trained its value embedding because no
optimizer group listed it. A glob that begins with `blocks.` or contains a number is compared with the whole name, so
a row can select single layers: `blocks.9.attn.k`, `graph.mix.[5-9]`.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from pargolf.core.errors import UserError, near

V = TypeVar("V")
Table = Sequence[tuple[str, V]]
_NUMBER = re.compile(r"[\d\[\]!*?-]*\d[\d\[\]!*?-]*")


def role(name: str) -> str:
    """The role of the parameter `name`."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    if parts[-1] == "weight" and len(parts) > 1:
        parts.pop()
    return ".".join(parts[1:] if parts[0] == "blocks" and len(parts) > 1 else parts)


def layer_part(glob: str) -> str | None:
    """The part of `glob` that names single layers, as `[5-9]` in `graph.mix.[5-9]`; None when no part has a number."""
    return next((part for part in glob.split(".") if _NUMBER.fullmatch(part)), None)


def matches(name: str, glob: str) -> bool:
    """Whether `glob` matches the parameter `name`: its role, or its whole name when the glob names layers."""
    if glob.startswith("blocks.") or layer_part(glob) is not None:
        return fnmatchcase(name.removesuffix(".weight"), glob)
    return fnmatchcase(role(name), glob)


def resolve(table: Table[V], names: Iterable[str], *, what: str = "table") -> dict[str, V]:
    """Give each parameter name the value of the first row that matches it.

    Raises `UserError` when a name is matched by no row, or a row matches no name at all.
    """
    values: dict[str, V] = {}
    used: set[int] = set()
    names = list(names)
    for name in names:
        hits = [i for i, (glob, _) in enumerate(table) if matches(name, glob)]
        if not hits:
            globs = [glob for glob, _ in table]
            raise UserError(f"No row of the {what} speaks of '{role(name)}' ({name}).{near(role(name), globs)}")
        used.update(hits)
        values[name] = table[hits[0]][1]
    for i, (glob, _) in enumerate(table):
        if i not in used:
            known = sorted({role(name) for name in names})
            raise UserError(f"The row '{glob}' of the {what} matches no parameter.{near(glob, known)}")
    return values
