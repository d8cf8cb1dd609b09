"""A run's folder: its files, and a guard against overwriting files without `--force`.

recipe.json  events.jsonl  train.log  weights.safetensors  model.pargolf  tokenizer.model  documents.json
result.json  report.html  checkpoints/ (during the run)  own/ (copies of the user's files with techniques)
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
    """The folder of a run; `folder["model.pargolf"]` is the path of one of its files."""

    path: Path

    def __getitem__(self, name: str) -> Path:
        assert name in FILES, name
        return self.path / name

    @classmethod
    def create(cls, path: str | Path, *, force: bool = False) -> "RunFolder":
        """Make the folder, and delete an earlier run in it with `force`.

        Raises `UserError` when the path is a file, or when it holds a run and `force` is not given.
        """
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
        """Open a run that has not ended. Raises `UserError` when it has ended, or was started with another recipe.

        An interrupted run that was packed and scored has not ended as long as it has a checkpoint.
        """
        folder = cls.open(path)
        has_checkpoint = any(folder.checkpoints.glob("step-*"))
        if folder.has_ended and not (has_checkpoint and folder.read_result().interrupted):
            raise UserError(f"{path} holds a finished run: there is nothing to resume. Choose another --out.")
        stored = folder.read_recipe()
        if stored.digest != recipe.digest:
            rows = spec.diff(stored, recipe)
            shown = "; ".join(f"{row}: {old or 'absent'} -> {new or 'absent'}" for row, (old, new) in rows.items())
            raise UserError(
                f"{path} was begun under another recipe ({shown}). Resume it under its own, or choose another --out."
            )
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def own(self) -> Path:
        """Copies of the user's files that define the recipe's techniques; never run unless the user names them."""
        return self.path / "own"

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints, when a run is replaced or has ended."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run. Raises `UserError` when there is none."""
        path = Path(path)
        if not (path / "recipe.json").is_file():
            raise UserError(f"{path} is no run folder (no recipe.json in it). Make one with `pargolf train`.")
        return cls(path)

    def write_recipe(self, recipe: Recipe) -> None:
        """Store the recipe as it runs, with every row written out, and the user's files that it needs."""
        dumped = spec.dump(recipe)
        write_json(self["recipe.json"], dumped)
        own.keep(dumped, self.own)

    def read_recipe(self) -> Recipe:
        """Read the recipe. Raises `UserError` when it is damaged, of another version, or needs a file not given."""
        path = self["recipe.json"]
        try:
            return spec.build(Recipe, read_json(path), where=str(path), within=("pargolf.",))
        except NotRead as error:
            raise own.kept(error, self.path) from None

    @property
    def has_ended(self) -> bool:
        """Whether the run has a result."""
        return self["result.json"].is_file()

    def write_result(self, result: Result) -> None:
        """Store the result; this is the last file that a run writes."""
        write_json(self["result.json"], result.to_json())

    def read_result(self) -> Result:
        """The result. Raises `UserError` when the run has not ended; on damage it names file and field."""
        if not self.has_ended:
            raise UserError(f"{self.path} has not ended: it has no result.json. Let it finish, or run it again.")
        return read_result(self["result.json"])

    def tokenizer_digest(self) -> str:
        """The SHA-256 of the run's tokenizer; `bytes` for a run on plain bytes, which has none."""
        path = self["tokenizer.model"]
        return file_sha256(path) if path.is_file() else "bytes"

    def write_documents(self, rows: Sequence[DocumentScore]) -> None:
        """Store the score of each document."""
        write_json(self["documents.json"], [asdict(row) for row in rows])

    def read_documents(self) -> list[DocumentScore]:
        """The score of each document; empty when the run stored none. Raises `UserError` on damage."""
        path = self["documents.json"]
        return read_document_scores(path) if path.is_file() else []

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Store the trained weights in float32, so that `pargolf pack` can pack them again."""
        _write_tensors(self["weights.safetensors"], weights)

    def read_weights(self) -> dict[str, Tensor]:
        """The trained weights. Raises `UserError` when they are missing or damaged."""
        path = self["weights.safetensors"]
        if not path.is_file():
            raise UserError(f"{path} is missing: this run has no weights to pack. Train again.")
        return load_tensors(path)

    def write_hessians(self, hessians: dict[str, Tensor]) -> None:
        """Store the Hessians of the solver, so that `pargolf pack` can use them again."""
        _write_tensors(self["hessians.safetensors"], hessians)

    def read_hessians(self) -> dict[str, Tensor] | None:
        """The Hessians; None when the run stored none. Raises `UserError` when they are damaged."""
        path = self["hessians.safetensors"]
        return load_tensors(path) if path.is_file() else None

    def read_packable(self) -> tuple[Recipe, dict[str, Tensor], dict[str, Tensor] | None]:
        """Recipe, weights and Hessians of a run. Raises `UserError` that names the first tensor with a wrong shape."""
        recipe, weights, hessians = self.read_recipe(), self.read_weights(), self.read_hessians()
        expected = {name: tuple(shape) for name, shape in shapes(recipe.model).items()}
        actual = {name: tuple(w.shape) for name, w in weights.items()}
        _check_shapes(self["weights.safetensors"], actual, expected)
        squares = {name: (rows_of(w).shape[1],) * 2 for name, w in weights.items() if name in (hessians or {})}
        _check_shapes(self["hessians.safetensors"], {n: tuple(h.shape) for n, h in (hessians or {}).items()}, squares)
        return recipe, weights, hessians

    def keep_tokenizer(self, source: Path | None) -> None:
        """Copy the tokenizer beside the artifact, where scoring and generation expect it."""
        if source is not None:
            write_bytes(self["tokenizer.model"], source.read_bytes())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file in float32, in order of layers. Raises `UserError` when it is missing or damaged.

    The order is fixed here because the library's changes each time, and codecs give other bytes for another order.
    """
    with reading(path):
        try:
            loaded = read_tensors(path.read_bytes())
            tensors = {name: loaded[name].to(torch.float32) for name in sorted(loaded, key=_by_layer)}
        except FileNotFoundError:
            raise UserError(f"There is no {path}.") from None
        except Exception as error:  # safetensors raises a different type for each kind of damage
            raise UserError(f"{path} cannot be read ({error}). Train again, or fetch it again.") from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"'{name}' in {path} holds NaN or infinite numbers. Train again, or fetch it again.")
    return tensors


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` on the first name that is missing on one side, or has another shape."""
    for name in [*shapes, *expected]:
        if shapes.get(name) != expected.get(name):
            shape = shapes.get(name, "nothing")
            raise UserError(
                f"'{name}' in {path} is {shape}, where the run has {expected.get(name, 'nothing')}. Train again."
            )


def _by_layer(name: str) -> list[tuple[bool, int, str]]:
    """A sort key for names that compares the numbers in them as numbers."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    write_bytes(path, dump_tensors({n: t.detach().float().cpu().contiguous().clone() for n, t in tensors.items()}))
