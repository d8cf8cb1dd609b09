"""What every export starts from: a trained model, its tokenizer, and its origin.

An artifact identifies its tokenizer by SHA-256, but does not contain it. A run stores the file beside the artifact, and
`tokenizer_of` finds it there, or takes the file that the caller names.
"""

from dataclasses import dataclass
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.data.tokenizer_files import open_tokenizer
from pargolf.data.tokens import ByteTokenizer, Tokenizer
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.model.transformer import Transformer


@dataclass(frozen=True, eq=False)
class Source:
    """A model to export, its tokenizer, and facts about its artifact.

    length: tokens in a scoring window
    bytes: the size of the artifact
    recipe: the recipe's name
    digest: the run's digest, sixteen hex digits over everything that decides the run
    adapt: the recipe's adapter, which learns from scored text; None if there is none
    """

    model: Transformer
    tokenizer: Tokenizer
    length: int
    recipe: str
    digest: str
    bytes: int
    adapt: Adapter | None = None


def tokenizer_of(artifact: str | Path, sha256: str, path: str | Path | None = None) -> Tokenizer:
    """The tokenizer of an artifact with `sha256` in its header: the file at `path`, or the one beside the artifact.

    Raises `UserError` if there is none, or if the model was trained with another one.
    """
    if sha256 in ("bytes", ByteTokenizer.digest):
        return ByteTokenizer()
    path = Path(path) if path else Path(artifact).with_name("tokenizer.model")
    if not path.is_file():
        raise UserError(
            f"There is no tokenizer {path}. It is the tokenizer.model in the folder of the run that made {artifact}, "
            "or the one in the data folder that the run read. Copy it beside the artifact, or name it with --tokenizer."
        )
    tokenizer = open_tokenizer(path)
    if tokenizer.digest != sha256:
        raise UserError(
            f"{path} is not the tokenizer that {artifact} was trained with (its SHA-256 begins with "
            f"{tokenizer.digest[:12]}, the artifact asks for {sha256[:12]}). Name the right one with --tokenizer."
        )
    return tokenizer
