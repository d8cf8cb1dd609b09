"""Find where a submission comes from: which earlier head shares its functions, and which of them it changed.

Functions are compared by their syntax alone: names, operations and constants, without comments, docstrings, annotations
and line numbers. The source is the earlier head that shares most functions; among equals, the one with fewest others.
Most submissions are copies with a few changes, so a reviewer mainly has to read what changed.
"""

import ast
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pargolf.audit.read.facts import read_scripts
from pargolf.audit.read.repository import Repository
from pargolf.core.events import Progress
from pargolf.core.files import write_text
from pargolf.core.work import Events

_COMMON = 400
_LEAST_SHARED = 3


@dataclass(frozen=True)
class Derived:
    """One head: its source, and which of its functions are shared, changed, new or gone.

    `source` is the number of the earlier pull request, 0 for the repository's own train_gpt.py, None if no earlier
    script shares three functions. `shared` of `functions` are equal.
    """

    number: int
    source: int | None
    shared: int
    functions: int
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The same in a few words: `#1019: 58 of 61 functions; changed eval_val; new tilt`."""
        if self.source is None:
            return f"no earlier script ({self.functions} functions)" if self.functions else "no script"
        name = f"#{self.source}" if self.source else "the repository's train_gpt.py"
        parts = [f"{name}: {self.shared} of {self.functions} functions"]
        for word, names in (("changed", self.changed), ("new", self.added)):
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                parts.append(f"{word} {', '.join(names[:4])}{more}")
        return "; ".join(parts)


Prints = dict[str, str]


def fingerprints(tree: ast.Module) -> Prints:
    """Fingerprints of functions and methods by name (`Class.method`), and of all other statements as `settings`."""
    prints: Prints = {}
    rest: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            prints[node.name] = _print(node)
        elif isinstance(node, ast.ClassDef):
            inner = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
            prints |= {f"{node.name}.{n.name}": _print(n) for n in inner}
            rest += [ast.dump(n) for n in node.body if n not in inner]
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            rest.append(ast.dump(node))
    if rest:
        prints["settings"] = blake2b("\n".join(rest).encode(), digest_size=8).hexdigest()
    return prints


def _print(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The fingerprint of one function. The tree is not changed."""
    bare = _Bare().visit(ast.parse(ast.unparse(node)))
    return blake2b(ast.dump(bare).encode(), digest_size=8).hexdigest()


class _Bare(ast.NodeTransformer):
    """Removes what has no effect from a function: docstrings and annotations."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the docstring and the return type."""
        self.generic_visit(node)
        node.returns = None
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
            node.body = node.body[1:]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the type."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Make it a plain assignment."""
        self.generic_visit(node)
        return node if node.value is None else ast.Assign([node.target], node.value)


def derive(prints: Mapping[int, Prints]) -> list[Derived]:
    """The source of every head, in the order of their numbers. Only earlier heads are candidates."""
    holders: dict[str, list[int]] = defaultdict(list)
    derivations = []
    for number in sorted(prints):
        functions = prints[number]
        derivations.append(_from(number, functions, prints, holders))
        for mark in set(functions.values()):
            holders[mark].append(number)
    return derivations


def _from(
    number: int, own_prints: Prints, prints: Mapping[int, Prints], holders: Mapping[str, Sequence[int]]
) -> Derived:
    shares: Counter[int] = Counter()
    for mark in set(own_prints.values()):
        # A function that hundreds of heads have does not identify a source; it is counted below.
        earlier = holders.get(mark, ())
        shares.update(earlier if len(earlier) <= _COMMON else earlier[:1])
    best, most = None, (0, 0)
    for source, _ in shares.most_common(40):
        shared = len(set(own_prints.values()) & set(prints[source].values()))
        rank = (shared, -len(prints[source]))
        if rank > most:
            best, most = source, rank
    functions = len(own_prints)
    if best is None or most[0] < min(_LEAST_SHARED, functions):
        return Derived(number, None, 0, functions)
    theirs = prints[best]
    marks, their_marks = set(own_prints.values()), set(theirs.values())
    changed = tuple(name for name, mark in own_prints.items() if name in theirs and mark not in their_marks)
    added = tuple(name for name, mark in own_prints.items() if name not in theirs and mark not in their_marks)
    removed = tuple(name for name, mark in theirs.items() if name not in own_prints and mark not in marks)
    return Derived(number, best, most[0], functions, changed, added, removed)


def derive_all(repo: str | Path, *, out: str | Path) -> Events[dict[int, Derived]]:
    """The source of every pull request head of a repository, also written to `out` as JSON by number.

    Fingerprints of heads that `out` already contains under the same hash are reused.
    """
    out = Path(out)
    earlier = _known(out)
    prints: dict[int, Prints] = {}
    with Repository(str(repo).removeprefix("git:")) as opened:
        heads = opened.pulls()
        prints[0] = _of_base(opened)
        for done, (number, head) in enumerate(sorted(heads.items()), 1):
            old = earlier.get(str(number))
            prints[number] = old["prints"] if old and old.get("head") == head else _of_head(opened, number)
            yield Progress("derived", done, len(heads), f"#{number}")
    derivations = {derivation.number: derivation for derivation in derive(prints) if derivation.number}
    rows = {
        str(number): {**asdict(derivation), "head": heads[number], "prints": prints[number]}
        for number, derivation in derivations.items()
    }
    write_text(out, json.dumps(rows, ensure_ascii=False))
    return derivations


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """The result of an earlier run; empty if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    rows = content if isinstance(content, dict) else {}
    return {k: v for k, v in rows.items() if isinstance(v, dict) and isinstance(v.get("prints"), dict)}


def _of_head(repository: Repository, number: int) -> Prints:
    """Fingerprints of the script of one head that trains, with the modules it imports."""
    try:
        submission = repository.submission(f"refs/pull/{number}/head", target=f"#{number}")
    except Exception:  # a head that cannot be opened has no source; its audit says why
        return {}
    prints: Prints = {}
    for folder in submission.folders[:2]:
        program = read_scripts(folder).program
        if program is not None and program.tree is not None:
            prints = prints or _safely(program.tree)
    return prints


def _of_base(repository: Repository) -> Prints:
    """Fingerprints of the repository's own script."""
    data = repository.read("HEAD:train_gpt.py")
    try:
        return fingerprints(ast.parse(data)) if data else {}
    except (SyntaxError, ValueError):
        return {}


def _safely(tree: ast.Module) -> Prints:
    try:
        return fingerprints(tree)
    except (RecursionError, SyntaxError, ValueError):
        return {}
