"""What every export starts from: a trained model, its tokenizer, and its origin.

An artifact names its tokenizer by SHA-256 and does not hold it. A run keeps the file beside the artifact as
`tokenizer.model`, and `tokenizer_of` finds it there, or takes the file that the caller names.
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
    """A model to export. `length` is how many tokens it sees at once when it is scored, `bytes` is the artifact's size.

    `adapt` is how the artifact's recipe learns from what was scored, None where it does not; `recipe` is its name, and
    `digest` the sixteen hex digits over all that decided the run.
    """

    model: Transformer
    tokenizer: Tokenizer
    length: int
    recipe: str
    digest: str
    bytes: int
    adapt: Adapter | None = None


def tokenizer_of(artifact: str | Path, sha256: str, named: str | Path | None = None) -> Tokenizer:
    """The tokenizer of an artifact whose header says `sha256`: the file `named`, or the one beside the artifact.

    Raises `UserError` where there is none, and where it is another one than the model was trained with.
    """
    if sha256 in ("bytes", ByteTokenizer.digest):
        return ByteTokenizer()
    path = Path(named) if named else Path(artifact).with_name("tokenizer.model")
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
