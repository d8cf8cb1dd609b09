"""Calls for other tools: load a model in Python, export it, evaluate tasks on it, measure it, serve it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pargolf.api.parameters import Own, PathLike
from pargolf.core.errors import UserError, near
from pargolf.core.extras import extra
from pargolf.core.own import use
from pargolf.core.ranges import Count, Within
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.exporting.harness import TaskScore
    from pargolf.run.loading import LoadedModel, TokenLosses
    from pargolf.study.device import DeviceRow

TARGETS = ("hf", "onnx", "safetensors")
"""The export formats."""


def load(artifact: PathLike, *, tokenizer: PathLike | None = None, own: Own = ()) -> "LoadedModel":
    """Read an artifact: `model, tokenizer = pargolf.load("model.pargolf")`.

    Args:
        artifact: A model.pargolf file.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Raises:
        UserError: the artifact is damaged or of a newer format; its tokenizer is missing, or is another one.
    """
    from pargolf.run.loading import LoadedModel, read_source

    use(own)
    source = read_source(artifact, tokenizer)
    return LoadedModel(source.model, source.tokenizer)


def token_losses(artifact: PathLike, text: str, *, tokenizer: PathLike | None = None, own: Own = ()) -> "TokenLosses":
    """Say what each token of a text costs the model, read as one document.

    Each token sees at least three quarters of a window of the artifact's length, or all of the text before it.

    Args:
        artifact: A model.pargolf file.
        text: The text.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Raises:
        UserError: as `load`, and for an empty text.
    """
    from pargolf.run.loading import losses_of, read_source

    use(own)
    return losses_of(read_source(artifact, tokenizer), text)


def export(
    artifact: PathLike,
    *,
    out: PathLike,
    to: str = "hf",
    licence: str = "unknown",
    tokenizer: PathLike | None = None,
    force: bool = False,
    own: Own = (),
) -> Path:
    """Export an artifact to transformers, ONNX or safetensors.

    Args:
        artifact: A model.pargolf file.
        out: The folder or file to write.
        to: hf (a folder for transformers), onnx or safetensors (a file).
        licence: The weights' licence, for the model card.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        force: Replace the content of the output folder.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        The path that was written. `hf` is a folder for `AutoModelForCausalLM` and `AutoTokenizer` of Hugging Face
        transformers, with a model card; the score in it is from the run's folder that contains the artifact, if there
        is one. `onnx` is a graph that was checked in ONNX Runtime; `safetensors` is the weights only, in float32.

    Raises:
        UserError: as `load`; also if `out` exists and `force` is not set, and for a model that cannot be traced.
    """
    from pargolf.exporting.tensors import write_tensors
    from pargolf.run.loading import read_source
    from pargolf.submit.folder import write_model_folder

    if to not in TARGETS:
        raise UserError(f"'{to}' is not a format to export to.{near(to, TARGETS)}")
    use(own)
    source, out = read_source(artifact, tokenizer), Path(out)
    if to == "hf":
        return write_model_folder(source, artifact, out, licence=licence, force=force)
    if out.is_dir() or (out.exists() and not force):
        raise UserError(f"{out} exists. Choose another --out" + ("." if out.is_dir() else ", or add --force."))
    out.parent.mkdir(parents=True, exist_ok=True)
    if to == "onnx":
        extra("pargolf.exporting.onnx", "onnx").write_onnx(source, out)
    else:
        write_tensors(source, out)
    return out


def evaluate_tasks(
    artifact: PathLike,
    tasks: Sequence[str],
    *,
    include: PathLike | None = None,
    limit: Count | None = None,
    tokenizer: PathLike | None = None,
    own: Own = (),
) -> "list[TaskScore]":
    """Run tasks of lm-evaluation-harness on an artifact.

    Args:
        artifact: A model.pargolf file.
        tasks: Names of tasks, for example lambada_openai, blimp.
        include: A folder with YAML files of your own tasks.
        limit: At most this many samples of each task.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        A row per metric.

    Raises:
        UserError: the harness does not know a task, or its data is not available.
    """
    from pargolf.run.loading import read_source

    if not tasks:
        raise UserError("Name at least one task, for example lambada_openai.")
    use(own)
    source = read_source(artifact, tokenizer)
    harness = extra("pargolf.exporting.harness", "eval")
    rows: list[TaskScore] = harness.run_tasks(harness.HarnessModel(source), tasks, include=include, limit=limit)
    return rows


@working
def bench_device(
    artifact: PathLike,
    *,
    tokens: Count = 256,
    onnx: bool = True,
    tokenizer: PathLike | None = None,
    own: Own = (),
) -> "Events[list[DeviceRow]]":
    """Measure what an artifact costs in use: cold start, tokens per second on one thread, memory.

    Args:
        artifact: A model.pargolf file.
        tokens: How many tokens to write.
        onnx: Also measure its export in ONNX Runtime.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        A row for each engine; each is measured in its own process.

    Raises:
        UserError: the artifact is damaged or of a newer format; with `onnx`, as `export`.
    """
    from pargolf.run.pack import read_artifact
    from pargolf.study.device import bench_device as measure

    use(own)
    read_artifact(artifact)  # errors of the artifact are raised here, not in the child process

    def graph(folder: Path) -> Path:
        return export(artifact, to="onnx", out=folder / "model.onnx", tokenizer=tokenizer, own=own)

    files = [str(path) for path in ([own] if isinstance(own, str | Path) else own)]
    return (yield from measure(Path(artifact), graph if onnx else None, tokens=tokens, own=files))


def serve(
    artifact: PathLike,
    *,
    port: Annotated[int, Within(0, 65535)] = 8000,
    host: str = "127.0.0.1",
    tokenizer: PathLike | None = None,
    own: Own = (),
    ready: Callable[[str], None] = print,
) -> None:
    """Serve an artifact: an OpenAI-compatible API, and a page that shows what it reads and writes.

    Args:
        artifact: A model.pargolf file.
        port: The port to listen on; 0 takes a free one.
        host: The address to listen on; 0.0.0.0 lets other machines in.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.
        ready: Called with the address when the port is open.

    Raises:
        UserError: as `load`; also if the port cannot be opened.
    """
    from pargolf.run.loading import read_source

    use(own)
    server = extra("pargolf.serving.app", "serve")
    server.serve(read_source(artifact, tokenizer), host=host, port=port, ready=ready)
