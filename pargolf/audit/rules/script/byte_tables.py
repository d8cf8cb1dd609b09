"""Compute the script's table of bytes per token for a small vocabulary whose bytes are known, and compare it.

The function that builds the table is interpreted (`little_python`) on pieces with and without the mark of a space, of
one to three bytes, byte pieces and control tokens. What scoring does with the table is computed for every pair of them.
Any way to write the same table passes. If a piece gets a byte too many or too few, the finding names it.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import names_in
from pargolf.audit.code.tree import Function, dotted, walk
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.read.validation_sets import BYTES
from pargolf.audit.report import SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.script.little_python import LittlePython, Opaque, Row, Unclear

_PIECES = (
    *(
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
        "<0xE4>",
        "\u2581",
        "\u2581the",
        "a",
        "\u00e9",
        "\u2581n\u00e9",
        "\u4e2d",
        "ing",
    ),
    "<unused>",
)
_SPECIAL = {0: "unknown", 1: "control", 2: "control", 12: "unused"}
_BYTES = (3, 4)
_BEYOND_BYTES = 300  # smaller numbers may tell control tokens and single bytes from pieces
_ASKS = ("id_to_piece", "IdToPiece", "id_to_token")
_PROBE = f"Probe: decode all validation tokens; they must give {BYTES:,} bytes."
_SUMS = ("sum", "item", "double", "float", "to", "long", "cpu", "type", "int")
_ROLES = (("boundary", r"bound"), ("space", r"space|lead"), ("base", r"byte|base"))


def base_bytes() -> list[int]:
    """Bytes of each piece without its space, as in the official table."""
    return [
        0 if i in _SPECIAL else 1 if i in _BYTES else len(piece.removeprefix("\u2581").encode())
        for i, piece in enumerate(_PIECES)
    ]


def leading_spaces() -> list[bool]:
    """Whether a piece begins with the mark of a space."""
    return [piece.startswith("\u2581") for piece in _PIECES]


def boundaries() -> list[bool]:
    """Whether a piece is no text, so that no space is written before the next one."""
    return [i in _SPECIAL for i in range(len(_PIECES))]


class _Tokenizer:
    """The methods of a SentencePiece model that a script may call, for the pieces above."""

    def answer(self, name: str, arguments: list[Any]) -> Any:
        """The result of a method. Raises `Unclear`."""
        plain = name.replace("_", "").lower()
        if plain in ("vocabsize", "getpiecesize", "piecesize", "getvocabsize"):
            return len(_PIECES)
        index = arguments[0] if arguments else -1
        if plain in ("idtopiece", "idtotoken") and isinstance(index, int):
            return _PIECES[index]
        for kind in ("control", "unknown", "unused"):
            if plain == f"is{kind}":
                return _SPECIAL.get(index) == kind
        if plain == "isbyte":
            return index in _BYTES
        special = {"unkid": 0, "bosid": 1, "eosid": 2, "padid": -1}
        if plain in special:
            return special[plain]
        raise Unclear(name)

    def __len__(self) -> int:
        return len(_PIECES)


def byte_tables(program: Program) -> Iterator[Hit]:
    """Whether each table gives every piece the bytes of its text, and scoring adds those of the leading space once."""
    live = [f for f in program.functions if f.live and isinstance(f.node, ast.FunctionDef)]
    givers = {f.name for f in live if _builds(program, f, _ASKS) and _gives_pieces(program, f)}
    for function in live:
        if function.name not in givers and _builds(program, function, _ASKS):
            hit = _of_builder(program, function)
            if hit is not None:
                yield hit
        elif _builds(program, function, tuple(givers)):
            hit = _of_builder(program, function)
            if hit is not None and hit.status == SUSPECT:
                yield hit
    wrong = [*_of_scorers(program)]
    yield from wrong or _more_spaces(program)


def _builds(program: Program, function: Function, endings: tuple[str, ...]) -> bool:
    """Whether a function asks for pieces, by a call whose name ends in one of `asked`, and returns something."""
    asks = any(dotted(call.func).endswith(endings) for call in program.own_of(function, ast.Call))
    gives = any(node.value is not None for node in program.own_of(function, ast.Return))
    return asks and gives and len(program.own_nodes(function)) < 600


def _gives_pieces(program: Program, function: Function) -> bool:
    """Whether a function returns the pieces themselves; then its callers build the table."""
    try:
        result = _little(program).call(function.node, _arguments(program, function))
    except Unclear:
        return False
    items = [*result] if isinstance(result, (list, tuple, Row)) else []
    return len(items) >= len(_PIECES) and all(x is None or isinstance(x, str) for x in items)


def _of_builder(program: Program, function: Function) -> Hit | None:
    try:
        tables = _little(program).call(function.node, _arguments(program, function))
    except Unclear as why:
        text = f"Not checked: the table of bytes that `{function.name}` builds could not be followed ({why})."
        return Hit("byte_denominator", UNVERIFIABLE, function.node, text, _PROBE)
    rows = [row for row in _rows(tables) if len(row) >= len(_PIECES)]
    numbers = [row for row in rows if any(isinstance(x, int) and not isinstance(x, bool) for x in row)]
    if not numbers:
        text = f"Not checked: `{function.name}` asks for pieces and gives back no table of their bytes."
        return Hit("byte_denominator", UNVERIFIABLE, function.node, text, _PROBE)
    base = base_bytes()
    for row in numbers:
        wrong = [i for i in range(len(_PIECES)) if int(row[i]) != base[i]]
        if wrong:
            i = next((i for i in wrong if i not in _SPECIAL), wrong[0])
            return Hit(
                "byte_denominator",
                SUSPECT,
                function.node,
                f"`{function.name}` counts {int(row[i])} bytes for the piece `{_PIECES[i]}`, whose text without "
                f"its space has {base[i]}: the score comes out too low.",
                _PROBE,
            )
    return _by_number(program, function)


def _by_number(program: Program, function: Function) -> Hit | None:
    """A table that treats some tokens by their number: pieces are known by their text."""
    for test in program.own_of(function, ast.Compare):
        sides = (test.left, *test.comparators)
        counts = {n for side in sides for n in names_in(side)} & _counters(program, function)
        numbers = [side.value for side in sides if isinstance(side, ast.Constant)]
        if counts and any(type(n) is int and n >= _BEYOND_BYTES for n in numbers):
            text = f"`{function.name}` counts the bytes of tokens by their number, `{ast.unparse(test)[:50]}`."
            return Hit("byte_denominator", SUSPECT, test, text, _PROBE)
    return None


def _counters(program: Program, function: Function) -> set[str]:
    """Names of the tokens' numbers in a loop."""
    return {n for loop in program.own_of(function, ast.For) for n in names_in(loop.target)}


def _little(program: Program) -> LittlePython:
    functions = {
        f.name: f.node for f in program.functions if f.owner is None and isinstance(f.node, ast.FunctionDef) and f.live
    }
    names = {}
    for name in program.module.assigned:
        value = program.value(ast.Name(name, ast.Load()), program.module)
        if value is not UNKNOWN:
            names[name] = value
    return LittlePython(functions, names)


def _arguments(program: Program, function: Function) -> dict[str, Any]:
    """Arguments: the tokenizer for the parameter that is asked for pieces, a size if its name says so, or nothing."""
    tokenizers = {
        n.func.value.id
        for n in program.own_nodes(function)
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and isinstance(n.func.value, ast.Name)
        and n.func.attr in _ASKS
    }
    arguments: dict[str, Any] = {}
    for name in function.params:
        if name in tokenizers:
            arguments[name] = _Tokenizer()
        elif "size" in name or "vocab" in name or name == "n":
            arguments[name] = len(_PIECES)
        else:
            arguments[name] = Opaque()
    return arguments


def _rows(tables: Any) -> list[Row]:
    """Every row in a function's result."""
    if isinstance(tables, Row):
        return [tables]
    parts = tables.values() if isinstance(tables, dict) else tables if isinstance(tables, (list, tuple)) else ()
    if isinstance(tables, list) and tables and all(isinstance(x, (int, bool)) for x in tables):
        return [Row(tables)]
    return [row for part in parts for row in _rows(part)]


# ---- what scoring does with the tables


def _of_scorers(program: Program) -> Iterator[Hit]:
    """Statements that look bytes up by the token; their values for every pair of pieces."""
    if not program.index.holds(program.index.tree, _looks_up_bytes):
        return
    for node in program.live_of(ast.Assign, ast.AnnAssign, ast.Return, ast.AugAssign):
        function = program.function_of(node)
        value = _inlined(program, node.value, function) if node.value is not None else None
        if value is None or not any(map(_looks_up_bytes, program.below(value))):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        summed = isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name)
        added = _added_later(program, node, target.id, function) if summed and isinstance(target, ast.Name) else []
        parts = [_unsummed(value), *(_inlined(program, part, function) for part in added)]
        try:
            wrong = _wrong_pairs(program, parts, function)
        except Unclear:
            continue
        if wrong:
            previous, token, counted, true = wrong
            yield Hit(
                "byte_denominator",
                SUSPECT,
                node,
                f"`{function.name}` counts {counted:g} bytes for `{_PIECES[token]}` after `{_PIECES[previous]}`, where "
                f"the text has {true}.",
                _PROBE,
            )


def _inlined(program: Program, value: ast.expr, function: Function) -> ast.expr:
    """An expression in which a name with one lookup in the tables is replaced by that lookup."""
    lookups: dict[str, ast.expr] = {}
    for name in {n.id for n in program.below(value) if isinstance(n, ast.Name)}:
        sources = function.assigned.get(name, ())
        only = sources[0] if len(sources) == 1 else None
        if only is not None and program.index.holds(only, _looks_up_spaces):
            lookups[name] = only
    if not lookups:
        return value
    inlined: ast.expr = _Inlined(lookups).visit(_fresh(value))
    return inlined


class _Inlined(ast.NodeTransformer):
    """Replaces some names by expressions."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """The name, or a fresh copy of what stands for it."""
        return _fresh(self.values[node.id]) if node.id in self.values else node


def _fresh(node: ast.expr) -> ast.expr:
    """A copy of an expression, as its text is parsed."""
    return ast.parse(ast.unparse(node), mode="eval").body


def _unsummed(value: ast.expr) -> ast.expr:
    """The expression that is summed at the end: `(a + b).double().sum()` without the methods."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _SUMS:
        if isinstance(value.func.value, ast.Name):
            break
        value = value.func.value
    return value


def _more_spaces(program: Program) -> Iterator[Hit]:
    """A function that adds leading spaces more often than it looks bytes up."""
    for function in program.functions:
        if not function.live:
            continue
        looked = [n for n in program.own_nodes(function) if isinstance(n, ast.Subscript) and n in program.live]
        spaces = [n for n in looked if _role(n.value) == "space" and isinstance(n.ctx, ast.Load)]
        tables = [n for n in looked if _role(n.value) == "base" and isinstance(n.ctx, ast.Load)]
        if tables and len(spaces) > len(tables):
            text = f"`{function.name}` looks up leading spaces {len(spaces)} times and bytes {len(tables)}."
            yield Hit("byte_denominator", SUSPECT, spaces[-1], text, _PROBE)


def _looks_up_bytes(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and _role(node.value) == "base"


def _looks_up_spaces(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and _role(node.value) in ("space", "boundary")


def _role(node: ast.AST) -> str:
    """The table that a name stands for, by its words; empty if it is none."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return _role_of(name) if name else ""


@lru_cache(maxsize=4096)
def _role_of(name: str) -> str:
    if not re.search(r"lut|table|byte|space|bound", name, re.I):
        return ""
    return next((role for role, words in _ROLES if re.search(words, name, re.I)), "")


def _added_later(program: Program, node: ast.AST, name: str, function: Function) -> list[ast.expr]:
    """What later statements of the same block add to the name of one, until it is assigned again."""
    block = next(
        (
            b
            for part in ("body", "orelse")
            if isinstance(b := getattr(program.parents[node], part, None), list) and node in b
        ),
        [],
    )
    added: list[ast.expr] = []
    for statement in block[block.index(node) + 1 :] if block else ():
        if (
            isinstance(statement, ast.AugAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == name
        ):
            if not isinstance(statement.op, ast.Add):
                return [ast.Constant(None)]
            added.append(statement.value)
        elif isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            if any(isinstance(n, ast.Name) and n.id == name for n in walk(statement.value)):
                return [ast.Constant(None)]  # the sum continues in another form
            break
    return added


def _wrong_pairs(program: Program, parts: list[ast.expr], function: Function) -> tuple[int, int, float, int] | None:
    """The first pair of pieces with wrong bytes: before, token, counted, true. Raises `Unclear`."""
    keys: dict[str, set[str]] = {"base": set(), "space": set(), "boundary": set()}
    for part in parts:
        for node in walk(part):
            if isinstance(node, ast.Subscript) and _role(node.value):
                keys[_role(node.value)].add(ast.unparse(node.slice))
    if len(keys["base"]) != 1 or not keys["space"] <= keys["base"] or len(keys["boundary"]) > 1 or not keys["space"]:
        raise Unclear("keys")
    pairs = [(p, t) for p in range(len(_PIECES)) for t in range(len(_PIECES)) if t not in _SPECIAL]
    tables: dict[str, list[Any]] = {"base": base_bytes(), "space": leading_spaces(), "boundary": boundaries()}
    little = _Scorer(_little(program), tables, pairs, keys)
    sums = [0.0] * len(pairs)
    for part in parts:
        row = little.value(part)
        if not isinstance(row, Row):
            raise Unclear("no row")
        sums = [a + float(b) for a, b in zip(sums, row, strict=True)]
    base, space, boundary = tables["base"], tables["space"], tables["boundary"]
    for (p, t), counted in zip(pairs, sums):
        true = base[t] + (space[t] and not boundary[p])
        if counted != true and not (boundary[p] and counted == base[t] + space[t]):
            return p, t, counted, int(true)
    return None


class _Scorer:
    """Expressions over the tables, computed for every pair of pieces."""

    def __init__(
        self,
        little: LittlePython,
        tables: dict[str, list[Any]],
        pairs: list[tuple[int, int]],
        keys: dict[str, set[str]],
    ) -> None:
        self.little, self.tables, self.pairs, self.keys = little, tables, pairs, keys

    def value(self, node: ast.expr) -> Any:
        """The values of an expression for all pairs. Raises `Unclear`."""
        names: dict[str, Any] = {}

        class Lookups(ast.NodeTransformer):
            def visit_Subscript(self, inner: ast.Subscript) -> ast.AST:
                role = _role(inner.value)
                if not role:
                    return self.generic_visit(inner)
                name = f"_row_{len(names)}"
                names[name] = rows(role)
                return ast.Name(name, ast.Load())

        def rows(role: str) -> Row:
            index = 0 if role == "boundary" else 1
            return Row(self.tables[role][pair[index]] for pair in self.pairs)

        changed = Lookups().visit(ast.parse(ast.unparse(node), mode="eval").body)
        return self.little.value(changed, names)
