"""What an artifact is worth: scored, proved, looked into, written with, and its codes under other codecs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pargolf.api.recipes import Found, Own, recipe
from pargolf.audit.sandbox.run import is_foreign, probe_script
from pargolf.core.events import Progress, Proved
from pargolf.core.own import use
from pargolf.core.result import Rests
from pargolf.core.work import Events, Work, working
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.tokens import Tokenizer
from pargolf.evaluate import windows as window_specs
from pargolf.evaluate.adapted import Adapted
from pargolf.evaluate.generate import generate as sample
from pargolf.evaluate.probes import LedgerGrader, shortened, stir, stream
from pargolf.evaluate.probes import probe as prove_laws
from pargolf.evaluate.score import Score
from pargolf.exporting.source import tokenizer_of
from pargolf.model.transformer import Transformer
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder, load_tensors
from pargolf.run.pack import Unpacked, read_artifact
from pargolf.run.pipeline import score_artifact
from pargolf.run.score import open_text, score_sample
from pargolf.study.bench import (
    codec_rows,
    hessians_of,
    int6_codes,
    published,
    run_quantizer_rows,
    stored_codes,
    sum_row,
)


@working
def score(
    artifact: str | Path,
    *,
    data: str | Path,
    windows: str | None = None,
    adapt: bool = False,
    seconds: float | None = None,
    device: str | None = None,
    own: Own = (),
) -> Events[dict[str, Any]]:
    """Unpack and score an artifact, adapting as its recipe says when asked; the score's row.

    Stopped before `seconds` are over, the row says that it is incomplete. Under torchrun only the first process
    yields anything. `own`: files of techniques that the artifact uses, which are run.
    """
    use(own)
    spec = None if windows is None else window_specs.parse(windows)
    unpacked, folder = read_artifact(artifact), open_data(data)
    proof: Proved | None = None
    scoring = Work(score_artifact(unpacked, folder, windows=spec, adapt=adapt, seconds=seconds, device=device))
    for event in scoring:
        if isinstance(event, Proved):
            proof = event
        yield event
    graded = scoring.result()
    return {**graded.row(), **_proof_row(graded, proof)}


def _proof_row(graded: Score | Adapted, proof: Proved | None) -> dict[str, Any]:
    """What the bytes of a score rest on, and whether the score is legal: whole, in turn, and over proved bytes."""
    assert proof is not None
    row = graded.row()
    names = ("rests", "note", "shards_sha256", "tokenizer_sha256")
    legal = row["complete"] and row["in_turn"] and row["probed"] is not False and Rests(proof.rests).proved
    return {"legal": legal, "proof": {name: getattr(proof, name) for name in names}}


def probe(target: Found, *, scale: str | None = None, own: Own = ()) -> list[dict[str, Any]]:
    """Prove the laws of a fair score on a recipe (with first weights), an artifact or a foreign script, a row per law.

    A script without a `RECIPE` is foreign: it runs in the sandbox only. `own`: files of techniques that an artifact
    uses, which are run. Raises `UserError` when it cannot be probed.
    """
    use(own)
    if is_foreign(target):
        return probe_script(str(target))
    if str(target).endswith(".pargolf"):
        unpacked = read_artifact(str(target))
        model, windows, adapter = unpacked.model, unpacked.windows, unpacked.adapt
    else:
        system = recipe(target, scale=scale)
        model, windows, adapter = system.model.build(seed=0).eval(), system.windows, system.adapt
        stir(model)
    spec = model.spec
    bos = 1 if spec.bos is None else spec.bos
    length = min(windows.length, 64)
    kind = window_specs.PerDocument if isinstance(windows, window_specs.PerDocument) else window_specs.Sliding
    learning = None if adapter is None else shortened(adapter, chunk=max(1, length // 4), batch=4)
    grader = LedgerGrader(model, kind(length, max(1, length // 2)), spec.vocab, bos, learning)
    apart = spec.bos is not None and adapter is None
    verdicts = prove_laws(grader, stream(vocab=spec.vocab, bos=bos), vocab=spec.vocab, bos=bos, isolated=apart)
    return [verdict.row() for verdict in verdicts]


def inspect(artifact: str | Path, *, own: Own = ()) -> dict[str, Any]:
    """Who made an artifact, and where each of its bytes goes. `own`: files of techniques that it uses; they are run."""
    use(own)
    found = read_artifact(artifact)
    return {
        "recipe": found.recipe,
        "digest": found.digest,
        "codecs": sorted({section.codec for section in found.artifact.sections}),
        "bytes": Path(artifact).stat().st_size,
        "parameters": sum(p.numel() for p in found.model.parameters()),
        "by_role": found.artifact.by_role(),
    }


def generate(
    artifact: str | Path,
    *,
    prompt: str,
    tokens: int = 200,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 1337,
    documents: int = 1,
    tokenizer: str | Path | None = None,
    own: Own = (),
) -> Iterator[str]:
    """Go on from a prompt, a few characters at a time; each of several documents begins anew, after an empty line.

    A document ends where the model ends it, or after `tokens`. `own`: files of techniques that the artifact uses, which
    are run.
    """
    use(own)
    found = read_artifact(artifact)
    words = tokenizer_of(artifact, found.tokenizer, tokenizer)
    start = [words.bos, *map(int, words.encode(prompt))]
    options = {"tokens": tokens, "temperature": temperature, "top_p": top_p}
    for number in range(documents):
        if number:
            yield f"\n\n{prompt}"
        yield from _written(found, words, start, seed=seed + number, **options)


@working
def bench_codec(
    target: str | Path, *, data: str | Path | None = None, own: Own = ()
) -> Events[dict[str, list[dict[str, Any]]]]:
    """Compare codecs, and for a run quantizers; rows `codecs` and, for a run, `quantizers`.

    The codes are those that a run's artifact, or the artifact `target`, holds; of a `.safetensors` file its matrices
    as int6. Quantizers are every published pair with its codec on the run's weights, and ours at the bytes of the last
    one; with the bits per byte of a sample where data are found, in `data` or in the run's own folder. `own`: files of
    techniques that the run uses, which are run.
    """
    use(own)
    path = Path(target)
    run = None if path.suffix in (".safetensors", ".pargolf") else RunFolder.open(path)
    if path.suffix == ".safetensors":
        codes = int6_codes(load_tensors(path))
    else:
        codes = stored_codes(read_artifact(path if run is None else run["model.pargolf"]).artifact)
    rows: list[dict[str, Any]] = []
    for row in codec_rows(codes):
        rows.append(row)
        yield Progress("codecs", len(rows), len(codes), row["role"])
    rows.append(sum_row(rows))
    if run is None:
        return {"codecs": rows}
    system, weights, hessians = run.read_packable()
    where = Path(data) if data else path / "data"
    found = open_data(where) if data or where.is_dir() else None
    if hessians is None and found is not None:
        hessians = hessians_of(system, weights, found, batches=4)
    grade = None if found is None else _sample_bpb(system, found)
    pairs: list[dict[str, Any]] = []
    for row in run_quantizer_rows(system, weights, hessians, grade=grade):
        pairs.append(row)
        yield Progress("quantizers", len(pairs), len(published()) + 2, row["name"])
    return {"codecs": rows, "quantizers": pairs}


def _written(found: Unpacked, words: Tokenizer, start: list[int], **options: Any) -> Iterator[str]:
    """One document, in pieces of whole characters."""
    ids: list[int] = []
    shown = ""
    for token in sample(found.model, start, length=found.plain.length, stop=(words.bos,), **options):
        ids.append(token)
        text = words.decode(ids)
        # A character that is not complete yet decodes to U+FFFD; wait for its other bytes.
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text


def _sample_bpb(system: Recipe, data: DataFolder) -> Callable[[Transformer], float]:
    """What grades a model on a sample of the validation text."""
    text = open_text(data)
    return lambda model: score_sample(model.eval(), text, system.plain, count=64).bpb
