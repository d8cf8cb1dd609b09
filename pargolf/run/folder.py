"""A run's folder: its files, and a guard that nobody's files are overwritten without `--force`.

recipe.json  events.jsonl  train.log  weights.safetensors  model.pargolf  tokenizer.model  documents.json  result.json
report.html  checkpoints/ while it trains  own/ with the files that its own techniques are defined in
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from pargolf.core import own, spec
from pargolf.core.errors import NotRead, UserError
from pargolf.core.files import read_json, reading, write_bytes, write_json
from pargolf.core.result import DocumentScore, Result, read_document_scores, read_result
from pargolf.data.meta import file_sha256
from pargolf.model.transformer import shapes
from pargolf.quant.trellis import rows_of
from pargolf.recipes.recipe import Recipe

FILES = (
    "recipe.json",
    "events.jsonl",
    "train.log",
    "weights.safetensors",
    "hessians.safetensors",
    "model.pargolf",
    "tokenizer.model",
    "documents.json",
    "result.json",
    "report.html",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    def __getitem__(self, name: str) -> Path:
        assert name in FILES, name
        return self.path / name

    @classmethod
    def create(cls, path: str | Path, *, force: bool = False) -> "RunFolder":
        """Make the folder. Raises `UserError` when it holds a run, or anything else, and `force` is not given."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file. Choose another --out.")
        names = sorted(p.name for p in path.iterdir()) if path.exists() else []
        if "meta.json" in names:
            raise UserError(f"{path} holds prepared data. Choose another --out.")
        if any(name in names for name in FILES) and not force:
            raise UserError(f"{path} already holds a run. Choose another --out, or add --force to replace it.")
        path.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        folder = cls(path)
        folder.drop_checkpoints()
        shutil.rmtree(folder.own, ignore_errors=True)
        return folder

    @classmethod
    def resume(cls, path: str | Path, recipe: Recipe) -> "RunFolder":
        """Open a run that has not ended. Raises `UserError` when it has, or was begun under another recipe.

        A run that was interrupted has not ended, although it was packed and scored, while it has a checkpoint.
        """
        folder = cls.open(path)
        goes_on = any(folder.checkpoints.glob("step-*"))
        if folder.has_ended and not (goes_on and folder.read_result().interrupted):
            raise UserError(f"{path} holds a finished run: there is nothing to resume. Choose another --out.")
        begun = folder.read_recipe()
        if begun.digest != recipe.digest:
            rows = spec.diff(begun, recipe)
            shown = "; ".join(f"{row}: {old or 'absent'} -> {new or 'absent'}" for row, (old, new) in rows.items())
            raise UserError(
                f"{path} was begun under another recipe ({shown}). Resume it under its own, or choose another --out."
            )
        return folder

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoints"

    @property
    def own(self) -> Path:
        """Copies of the files outside this package that the recipe's techniques are defined in; never run unasked."""
        return self.path / "own"

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints: those of a run that is replaced, or has ended."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run. Raises `UserError` when there is none."""
        path = Path(path)
        if not (path / "recipe.json").is_file():
            raise UserError(f"{path} is no run folder (no recipe.json in it). Make one with `pargolf train`.")
        return cls(path)

    def write_recipe(self, recipe: Recipe) -> None:
        """Store the recipe as it runs, every row spelled out, and the files of its own techniques."""
        dumped = spec.dump(recipe)
        write_json(self["recipe.json"], dumped)
        own.keep(dumped, self.own)

    def read_recipe(self) -> Recipe:
        """Read the recipe back. Raises `UserError` when it is damaged, of another version, or of a file not named."""
        path = self["recipe.json"]
        try:
            return spec.build(Recipe, read_json(path), where=str(path), within=("pargolf.",))
        except NotRead as error:
            raise own.kept(error, self.path) from None

    @property
    def has_ended(self) -> bool:
        """Whether the run came to its end."""
        return self["result.json"].is_file()

    def write_result(self, result: Result) -> None:
        """Store what the run came to; the last file that is written."""
        write_json(self["result.json"], result.to_json())

    def read_result(self) -> Result:
        """What the run came to. Raises `UserError` when it has not ended, and names file and field on damage."""
        if not self.has_ended:
            raise UserError(f"{self.path} has not ended: it has no result.json. Let it finish, or run it again.")
        return read_result(self["result.json"])

    def tokenizer_digest(self) -> str:
        """SHA-256 of the run's tokenizer; `bytes` for a run on plain bytes, which has none."""
        path = self["tokenizer.model"]
        return file_sha256(path) if path.is_file() else "bytes"

    def write_documents(self, rows: Sequence[DocumentScore]) -> None:
        """Store the score of each document."""
        write_json(self["documents.json"], [asdict(row) for row in rows])

    def read_documents(self) -> list[DocumentScore]:
        """The score of each document; none where the run kept none. Raises `UserError` on damage."""
        path = self["documents.json"]
        return read_document_scores(path) if path.is_file() else []

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Keep the trained weights in float32, so that `pargolf pack` can pack them again."""
        _write_tensors(self["weights.safetensors"], weights)

    def read_weights(self) -> dict[str, Tensor]:
        """The trained weights. Raises `UserError` when they are missing or damaged."""
        path = self["weights.safetensors"]
        if not path.is_file():
            raise UserError(f"{path} is missing: this run has no weights to pack. Train again.")
        return load_tensors(path)

    def write_hessians(self, hessians: dict[str, Tensor]) -> None:
        """Keep what the solver saw of the training data, so that `pargolf pack` sees it again."""
        _write_tensors(self["hessians.safetensors"], hessians)

    def read_hessians(self) -> dict[str, Tensor] | None:
        """The Hessians, None where the run kept none. Raises `UserError` when they are damaged."""
        path = self["hessians.safetensors"]
        return load_tensors(path) if path.is_file() else None

    def read_packable(self) -> tuple[Recipe, dict[str, Tensor], dict[str, Tensor] | None]:
        """Recipe, weights and Hessians of a run. Raises `UserError` that names the tensor where one fits no other."""
        recipe, weights, hessians = self.read_recipe(), self.read_weights(), self.read_hessians()
        wanted = {name: tuple(shape) for name, shape in shapes(recipe.model).items()}
        given = {name: tuple(w.shape) for name, w in weights.items()}
        _check_shapes(self["weights.safetensors"], given, wanted)
        squares = {name: (rows_of(w).shape[1],) * 2 for name, w in weights.items() if name in (hessians or {})}
        _check_shapes(self["hessians.safetensors"], {n: tuple(h.shape) for n, h in (hessians or {}).items()}, squares)
        return recipe, weights, hessians

    def keep_tokenizer(self, source: Path | None) -> None:
        """Copy the tokenizer beside the artifact, where scoring and generation look for it."""
        if source is not None:
            write_bytes(self["tokenizer.model"], source.read_bytes())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A `.safetensors` file in float32, layer after layer. Raises `UserError` when it is missing or damaged.

    The library gives another order each time, and codecs other bytes for other orders.
    """
    with reading(path):
        try:
            loaded = read_tensors(path.read_bytes())
            tensors = {name: loaded[name].to(torch.float32) for name in sorted(loaded, key=_by_layer)}
        except FileNotFoundError:
            raise UserError(f"There is no {path}.") from None
        except Exception as error:  # safetensors raises a type of its own for every kind of damage
            raise UserError(f"{path} cannot be read ({error}). Train again, or fetch it again.") from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"'{name}' in {path} holds NaN or infinite numbers. Train again, or fetch it again.")
    return tensors


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` on the first name that is only on one side, or has another shape there."""
    for name in [*shapes, *wanted]:
        if shapes.get(name) != wanted.get(name):
            shape = shapes.get(name, "nothing")
            raise UserError(
                f"'{name}' in {path} is {shape}, where the run has {wanted.get(name, 'nothing')}. Train again."
            )


def _by_layer(name: str) -> list[tuple[bool, int, str]]:
    """Sorts names with their numbers as numbers."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    write_bytes(path, dump_tensors({n: t.detach().float().cpu().contiguous().clone() for n, t in tensors.items()}))
