"""Calls on an artifact: score, probe, inspect, generate, compare codecs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pargolf.api.parameters import Duration, Own, PathLike, RecipeLike
from pargolf.api.recipes import recipe as find_recipe
from pargolf.core.own import use
from pargolf.core.ranges import Rate, Seed, Share, Some, check_seed
from pargolf.core.units import parse_seconds
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.evaluate.probes import Grader


@working
def score(
    artifact: PathLike,
    *,
    data: PathLike = "data",
    windows: str | None = None,
    adapt: bool = False,
    seconds: Duration | None = None,
    device: str | None = None,
    own: Own = (),
) -> Events[dict[str, Any]]:
    """Unpack an artifact and score every validation token once.

    Args:
        artifact: A model.pargolf file.
        data: A data folder: shards and a tokenizer.
        windows: plain:256, sliding:256,64 or document:256,64.
        adapt: Also adapt to text already scored, as the artifact's recipe says.
        seconds: Time limit, for example 90s, 10m or 1h; a score that it cut short says so.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        The score's row; `complete` is false if the seconds ran out. Under torchrun only the first process yields
        anything.
    """
    from pargolf.data.folder import open_data
    from pargolf.evaluate.windows import parse
    from pargolf.run.pack import read_artifact
    from pargolf.run.pipeline import score_row

    use(own)
    spec = None if windows is None else parse(windows)
    unpacked, folder = read_artifact(artifact), open_data(data)
    clock = None if seconds is None else parse_seconds(seconds, none=True)
    return (yield from score_row(unpacked, folder, windows=spec, adapt=adapt, seconds=clock, device=device))


def probe(target: RecipeLike, *, scale: str | None = None, own: Own = (), unsafe: bool = False) -> list[dict[str, Any]]:
    """Prove that a model scores fairly: causal, normalized, each token once, documents isolated where promised.

    A script without a RECIPE is imported in a sandbox, and its own model is probed there.

    Args:
        target: A recipe, a model.pargolf file, or a train_gpt.py script.
        scale: mini: the same system at a size a CPU trains in minutes.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.
        unsafe: Run a script even if this system has no sandbox. Only for a script that you trust.

    Returns:
        A row for each law: its name, whether it holds, and the evidence; for a script also its sandbox. A recipe is
        probed with its initial weights.

    Raises:
        UserError: it cannot be probed.
    """
    from pargolf.audit.sandbox.run import is_foreign, probe_script
    from pargolf.evaluate.probes import probe as prove_laws
    from pargolf.evaluate.probes import stream

    use(own)
    if is_foreign(target):
        return probe_script(str(target), unsafe=unsafe)
    grader, vocab, bos, isolated = _grader(target, scale)
    verdicts = prove_laws(grader, stream(vocab=vocab, bos=bos), vocab=vocab, bos=bos, isolated=isolated)
    return [verdict.row() for verdict in verdicts]


def _grader(target: RecipeLike, scale: str | None) -> "tuple[Grader, int, int, bool]":
    """The target's grader for a short stream, its vocabulary size, its BOS, and whether it grades by document."""
    from pargolf.evaluate.probes import LedgerGrader, shortened, stir
    from pargolf.evaluate.windows import PerDocument, Sliding, per_document
    from pargolf.run.pack import read_artifact

    if str(target).endswith(".pargolf"):
        unpacked = read_artifact(str(target))
        model, windows, adapter = unpacked.model, unpacked.windows, unpacked.adapt
    else:
        system = find_recipe(target, scale=scale)
        model, windows, adapter = system.model.build(seed=0).eval(), system.windows, system.adapt
        stir(model)
    spec = model.spec
    bos = 1 if spec.bos is None else spec.bos
    length = min(windows.length, 64)
    kind = PerDocument if per_document(windows) else Sliding
    as_it_is = windows.length <= length and windows.in_turn
    plan = windows if as_it_is else kind(length, max(1, length // 2))
    learning = None if adapter is None else shortened(adapter, chunk=max(1, length // 4), batch=4)
    grader = LedgerGrader(model, plan, spec.vocab, bos, learning)
    return grader, spec.vocab, bos, spec.bos is not None and adapter is None


def inspect(artifact: PathLike, *, own: Own = ()) -> dict[str, Any]:
    """Show where every byte of an artifact goes.

    Args:
        artifact: A model.pargolf file.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        Its origin (`recipe`, `digest`), its `codecs`, `bytes` and `parameters`, and a row for each role (`by_role`).
    """
    from pargolf.run.pack import read_artifact

    use(own)
    unpacked = read_artifact(artifact)
    return {
        "recipe": unpacked.recipe,
        "digest": unpacked.digest,
        "codecs": sorted({section.codec for section in unpacked.artifact.sections}),
        "bytes": Path(artifact).stat().st_size,
        "parameters": sum(p.numel() for p in unpacked.model.parameters()),
        "by_role": unpacked.artifact.by_role(),
    }


def generate(
    artifact: PathLike,
    *,
    prompt: str = "",
    tokens: Some = 200,
    temperature: Rate = 0.8,
    top_p: Share = 0.95,
    documents: Some = 1,
    seed: Seed = 1337,
    tokenizer: PathLike | None = None,
    own: Own = (),
) -> Iterator[str]:
    """Continue a prompt, or show what each token of a text costs.

    Args:
        artifact: A model.pargolf file.
        prompt: The text to continue.
        tokens: How many tokens to write at most.
        temperature: 0 takes the likeliest token; 1 samples from the model's distribution.
        top_p: Sample only from the likeliest tokens that together have this probability.
        documents: How many documents to write, each from the prompt.
        seed: Seed of the sampling.
        tokenizer: The tokenizer file; the one beside the artifact when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        The text, a few characters at a time. A document ends where the model ends it, or after `tokens`; the next one
        begins with the prompt after an empty line.
    """
    from pargolf.evaluate.generate import continue_text
    from pargolf.run.loading import read_source

    check_seed(seed)
    use(own)
    source = read_source(artifact, tokenizer)
    for number in range(documents):
        if number:
            yield f"\n\n{prompt}"
        yield from continue_text(
            source.model,
            source.tokenizer,
            prompt,
            tokens=tokens,
            length=source.length,
            temperature=temperature,
            top_p=top_p,
            seed=seed + number,
        )


@working
def bench_codec(
    target: PathLike, *, data: PathLike | None = None, own: Own = ()
) -> Events[dict[str, list[dict[str, Any]]]]:
    """Compare codecs on a run's codes, and every published quantizer with ours on its weights.

    Args:
        target: A run folder, a model.pargolf, or any .safetensors file.
        data: Data to score bits per byte on; the run's own when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        The rows `codecs` and, for a run, `quantizers`: every published quantizer with its codec, and ours at the same
        bytes as the last one. A `.safetensors` file's matrices are coded as int6.
    """
    from pargolf.study.bench import bench

    use(own)
    return (yield from bench(target, data=data))
