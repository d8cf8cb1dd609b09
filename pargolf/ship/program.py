"""A recipe as one program: `train_gpt.py`, which needs torch, numpy, sentencepiece and codecs, but not this package.

    roots: the script's `main`, and each class and function that the recipe names
    OWN_RECIPE = the recipe as an expression      OWN_PARTS = {address: class or function}, all an artifact may name

So the program can read the package's artifacts, and the package the program's. Methods for checkpoints, causality tests
and adaptation are left out if this recipe's program never calls them. There are two forms of the same definitions:
`program` is for readers; `shipped`, made by `specialized` and `squeeze`, counts against the cap.
"""

import ast
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import groupby
from typing import Any

from pargolf.core import own, spec
from pargolf.core.errors import UserError
from pargolf.core.garbage import rare_collections
from pargolf.kernels.compiled import c_source
from pargolf.recipes.recipe import Recipe
from pargolf.ship.cache import ROOT, remembered
from pargolf.ship.shrink.flatten import Flat, flatten
from pargolf.ship.shrink.modules import Unfit
from pargolf.ship.shrink.specialize import specialized
from pargolf.ship.shrink.squeeze import as_it_stands, minified, self_extracting

_NAMED = ("pargolf.model.", "pargolf.quant.", "pargolf.evaluate.")
"""The packages of the parts that an artifact may name."""
_SCRIPT = "pargolf.submit.script:"
_INSTEAD = {
    "pargolf.core.spec:load": f"{_SCRIPT}load_part",
    "pargolf.core.spec:_address": f"{_SCRIPT}part_address",
    "pargolf.ship.size:count_code": f"{_SCRIPT}own_bytes",
}
_CONSTANTS = {"pargolf.kernels.compiled:c_source": c_source}
_WITHOUT = ("Training.state", "Training.restore")
_HEAD = '''"""{name}: train, pack and score in one file.

    python train_gpt.py --data DIR --seed 42                    train, write model.pargolf, score it
    python train_gpt.py --evaluate model.pargolf --data DIR     score an artifact
"""

from __future__ import annotations

'''


_OF_THE_PACKAGE = {"stored_as": "codec_name", "codec_of": "named_codec"}
"""Stand-ins in `submit/script.py`, used when the recipe's codec is not from a user's file."""
_SHIPPED_WITHOUT = ("Recipe.digest",)
_OWN = ("OWN_RECIPE", "OWN_SIZE", "OWN_PARTS")
_THEIRS = "OWN_CODE"
"""Placeholder in the shipped text for the code of users' files."""


@dataclass(frozen=True)
class Form:
    """Everything that decides a program's definitions; two recipes with the same form have the same definitions.

    parts: addresses of the classes and functions that it names
    fitted: grids are solved for the cap
    own_codec: the codec is from a user's file
    constants: fields that have the same value in all parts of the recipe, if it is None, True, False or (). Numbers
        belong to the recipe's expression and change no definition
    """

    parts: tuple[str, ...]
    solves: bool
    fitted: bool
    in_turn: bool
    codec: bool
    own_codec: bool
    constants: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(recipe: Recipe, *, fitted: bool = False, also: Collection[str] = ()) -> "Form":
        """The form of a recipe's program."""
        return Form(
            tuple(sorted({*addresses(spec.dump(recipe)), *also})),
            solves=recipe.quant.solver is not None,
            fitted=fitted or recipe.quant.fill,
            in_turn=recipe.windows.in_turn and recipe.plain.in_turn,
            codec=recipe.codec is not None,
            own_codec=bool(own.named_in(spec.dump(recipe.codec))),
            constants=tuple(sorted(_constants(recipe).items())),
        )


@cache
def _flat(form: Form, shipped: bool) -> Flat:
    """The definitions of a program."""
    of_the_package = {} if form.own_codec else _OF_THE_PACKAGE
    settings: dict[str, bool | int] = {"submit.script:SOLVES": form.solves, "submit.script:FITS": form.fitted}
    settings |= {"packing.layout:ANY_CODEC": not form.codec}
    settings |= {"submit.script:OWN_SIZE": 0} if shipped else {}
    roots, user_files = [f"{_SCRIPT}main", *map(spec.home, form.parts)], own.texts(form.parts)
    try:
        return flatten(
            ROOT,
            roots,
            instead=_INSTEAD | {f"pargolf.packing.codecs:{a}": f"{_SCRIPT}{b}" for a, b in of_the_package.items()},
            without=[*_WITHOUT, *(_SHIPPED_WITHOUT if shipped else ())],
            constants=_CONSTANTS,
            settings={f"pargolf.{name}": value for name, value in settings.items()},
            user_files=user_files,
        )
    except Unfit as error:
        raise UserError(str(error)) from None


def program(recipe: Recipe, *, fitted: bool = False, also: Collection[str] = ()) -> str:
    """The readable source.

    fitted: the run's grids were solved to meet the cap, so the program must contain the solver
    also: addresses of parts that artifacts name in addition to the recipe's own
    """
    form = Form.of(recipe, fitted=fitted, also=also)
    flat = _flat(form, False)
    text = [_HEAD.format(name=recipe.name), readable(flat, _OWN)]
    size = len(shipped(recipe, fitted=fitted, also=also))
    own = {
        "OWN_PARTS": "{" + ", ".join(f"{part!r}: {flat.name(spec.home(part))}" for part in form.parts) + "}",
        "OWN_RECIPE": expression(recipe, lambda part: flat.name(spec.home(part))),
        "OWN_SIZE": repr(size),
    }
    text += [f"\n{name} = {own[name]}\n" for name in own]
    return "".join([*text, "\n\nif __name__ == '__main__':\n    main()\n"])


def readable(flat: Flat, but: tuple[str, ...]) -> str:
    """Imports and definitions as source, grouped by file, without the assignments to names in `but`."""
    text = ["\n".join(flat.imports), "\n\n"]
    module = ""
    for home, node in flat.definitions:
        if _assigns(node, but):
            continue
        if home != module:
            module = home
            text.append(f"\n# {module.replace('.', '/')}.py\n")
        gap = "\n" if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
        text.append(f"{gap}{ast.unparse(ast.fix_missing_locations(node))}\n{gap}")
    return "".join(text)


def shipped(recipe: Recipe, *, fitted: bool = False, also: Collection[str] = ()) -> bytes:
    """The shipped file, whose bytes count against the cap."""
    form = Form.of(recipe, fitted=fitted, also=also)
    text, names = _shipped_text(form)
    own = {"OWN_DIGEST": repr(recipe.digest), "OWN_RECIPE": expression(recipe, names.__getitem__)}
    for name, value in own.items():
        text = text.replace(f"'{name}'", value)
    return self_extracting(text)


@cache
def _shipped_text(form: Form) -> tuple[str, dict[str, str]]:
    """The shipped text with placeholders for the recipe, and the names of the parts in it."""
    with rare_collections():
        return remembered(repr(form), lambda: _write_shipped(form))


def _write_shipped(form: Form) -> tuple[str, dict[str, str]]:
    flat, user_files = _flat(form, True), own.texts(form.parts)
    named = [part for part in form.parts if part.startswith(_NAMED) or "@" in part]
    nodes = [node for home, node in flat.definitions if home not in user_files and not _assigns(node, _OWN)]
    user_text, words = as_it_stands(node for home, node in flat.definitions if home in user_files)
    outside = {*words, _THEIRS} if user_text else set()
    tables = [f"{_THEIRS} = '{_THEIRS}'"] if user_text else []
    tables += [f"OWN_PARTS = {{{', '.join(f'{part!r}: {flat.name(spec.home(part))}' for part in named)}}}"]
    tables += ["OWN_RECIPE = 'OWN_RECIPE'", "if __name__ == '__main__':\n    main()"]
    tree = ast.parse("\n".join([*(["from __future__ import annotations"] if user_text else ()), *flat.imports]))
    tree.body += [*nodes, *ast.parse("\n".join(tables)).body]
    sure = {"digest": "'OWN_DIGEST'", "in_turn": repr(form.in_turn)}
    if not any(part.endswith(":Trellis") for part in form.parts):
        sure["states"] = "0"
    parts = {part: flat.name(spec.home(part)) for part in form.parts}
    tree = specialized(tree, dict(form.constants), sure=sure, keep=list(parts.values()), outside=outside)
    fields_kept = {name for part in form.parts for name in _fields_of(part)}
    text, names = minified(tree, kept=fields_kept, outside=outside)
    text = text.replace(f"{_THEIRS}='{_THEIRS}'", user_text)
    return text, {part: names.get(name, name) for part, name in parts.items()}


def _fields_of(part: str) -> list[str]:
    """Fields of a part, if it is a dataclass."""
    thing = spec._find(part, ("pargolf.",))
    return [f.name for f in fields(thing)] if is_dataclass(thing) else []


def _constants(recipe: Recipe) -> dict[str, Any]:
    """Fields that have one value in all parts of the recipe, if it is None, True, False or ()."""
    values: dict[str, list[Any]] = {}

    def look(value: Any) -> None:
        if isinstance(value, tuple | list):
            for item in value:
                look(item)
        elif is_dataclass(value):
            for f in fields(value):
                values.setdefault(f.name, []).append(getattr(value, f.name))
                look(getattr(value, f.name))

    look(recipe)
    plain = (None, True, False, ())
    return {
        name: seen[0] for name, seen in values.items() if all(any(v is p for p in plain) and v is seen[0] for v in seen)
    }


def expression(value: Any, name: Callable[[str], str]) -> str:
    """A recipe, or a part of it, as a Python expression: default fields left out, repeated items as `(x,)*n`."""
    if isinstance(value, tuple | list):
        runs = [(text, len(list(same))) for text, same in groupby(expression(item, name) for item in value)]
        if all(count == 1 for _, count in runs):
            return f"({''.join(f'{text},' for text, _ in runs)})"
        return "(" + "+".join(f"({text},)" + (f"*{count}" if count > 1 else "") for text, count in runs) + ")"
    if not is_dataclass(value):
        dumped = spec.dump(value)
        return name(dumped["fn"]) if isinstance(dumped, dict) else repr(value)
    arguments: list[str] = []
    leading = True
    for f in fields(value):
        setting = getattr(value, f.name)
        if (setting == f.default and type(setting) is type(f.default)) or f.name == "reported":
            leading = False
        else:
            text = expression(setting, name)
            arguments.append(text if leading else f"{f.name}={text}")
    return f"{name(spec.dump(value)['is'])}({','.join(arguments)})"


def addresses(dumped: Any) -> set[str]:
    """The addresses of the classes and functions that a dumped spec names."""
    if isinstance(dumped, list):
        return {address for item in dumped for address in addresses(item)}
    if not isinstance(dumped, dict):
        return set()
    own = {str(dumped[key]) for key in ("is", "fn") if key in dumped}
    return own.union(*(addresses(value) for value in dumped.values()))


def _assigns(node: ast.stmt, names: tuple[str, ...]) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return isinstance(node, ast.Assign | ast.AnnAssign) and any(
        isinstance(target, ast.Name) and target.id in names for target in targets
    )
