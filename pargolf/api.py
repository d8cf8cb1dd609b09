"""What the command line does, one typed call away: `pargolf.train("baseline", data="data", out="runs/a")`.

The `..._events` forms yield what happens, for progress of one's own, and end with the result; the plain forms run to
the end and return it. All raise `UserError` with one line that says what to do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pargolf.audit.judge import audit, record_of
from pargolf.audit.sandbox import is_foreign, probe_script
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress
from pargolf.core.files import write_text
from pargolf.core.spec import edit
from pargolf.data.fetch import Fetched, fetch
from pargolf.data.folder import DataFolder, open_data, open_tokenizer
from pargolf.data.prepare import prepare
from pargolf.data.tokens import Tokenizer
from pargolf.evaluate import windows as window_specs
from pargolf.evaluate.adapt import Adapted
from pargolf.evaluate.generate import generate as sample
from pargolf.evaluate.generate import score_text
from pargolf.evaluate.probes import LedgerGrader, stir, stream
from pargolf.evaluate.probes import probe as prove_laws
from pargolf.evaluate.score import Score
from pargolf.model.transformer import Transformer
from pargolf.recipes import catalog
from pargolf.report.board import board_page
from pargolf.report.html import PROOF
from pargolf.report.stats import Comparison, Spread, spread
from pargolf.report.track import check_trackers, track
from pargolf.run.ablate import Edits, base_parts, chosen, edited_parts, in_plain_windows, run_ablations, worth_row
from pargolf.run.bench import codec_rows, hessians_of, int6_codes, published, run_quantizer_rows, stored_codes, sum_row
from pargolf.run.board import entry_of, gather, read_ablation
from pargolf.run.code import count_code
from pargolf.run.compare import compare_runs
from pargolf.run.folder import RunFolder, load_tensors, read_json
from pargolf.run.forecast import forecast as forecast_bytes
from pargolf.run.forecast import lands, parameters, unused_pieces
from pargolf.run.growth import expected_steps
from pargolf.run.pack import Unpacked, read_artifact
from pargolf.run.page import page_of
from pargolf.run.pipeline import repack, run_recipe, score_artifact
from pargolf.run.recipe import Recipe, fit_to_data
from pargolf.run.scale import scaled
from pargolf.run.score import Validation
from pargolf.run.seeds import SeedDone, run_seeds, seed_rows
from pargolf.run.sweep import Span, Swept, TrialDone, read_span, run_sweep
from pargolf.submit.bundle import Author, Bundle, bundle
from pargolf.upstream import importing

Found = str | Path | Recipe
"""A recipe: a shipped name, the path of a `.py` file that defines RECIPE, or the thing itself."""


def recipe(found: Found, *, scale: str | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Find a recipe, scale it, change its rows."""
    base = found if isinstance(found, Recipe) else catalog.find(str(found))
    return edit(scaled(base, scale), changes or {})


def train_events(
    found: Found,
    *,
    data: str | Path,
    out: str | Path,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 1337,
    force: bool = False,
    resume: bool = False,
    device: str | None = None,
    allow_overlap: bool = False,
    checkpoint_every: float = 60.0,
    trackers: Sequence[str] = (),
) -> Iterator[Event | dict[str, Any]]:
    """Train, pack, unpack and score a recipe into the folder `out`; ends with what `result.json` holds.

    `resume` goes on from the checkpoint in `out`. Under torchrun only the first process yields anything. `trackers`:
    `tensorboard`, `trackio` or `wandb`, each an extra.
    """
    check_trackers(trackers)
    system = recipe(found, scale=scale, changes=changes)
    rows = " ".join(f"{path}={value}" for path, value in (changes or {}).items())
    named = found.name if isinstance(found, Recipe) else found
    size = f"--scale {scale}" if scale else ""
    command = f"pargolf train {named} {rows} {size} --data {data} --out {out} --seed {seed}"
    speaks = False
    events = run_recipe(
        system,
        open_data(data),
        out,
        seed=seed,
        force=force,
        resume=resume,
        device=device,
        allow_overlap=allow_overlap,
        command=" ".join(command.split()),
        checkpoint_every=checkpoint_every,
    )
    for event in track(events, trackers, folder=out):
        speaks = True
        yield event
    if speaks:
        yield read_json(RunFolder(Path(out))["result.json"])


def train(found: Found, *, data: str | Path, out: str | Path, **options: Any) -> dict[str, Any]:
    """`train_events` to the end; returns the result, on the first process of several."""
    return _last(train_events(found, data=data, out=out, **options))


def demo_events(
    *, seconds: float = 180.0, out: str | Path = "runs/demo", seed: int = 1337, force: bool = False
) -> Iterator[Event | dict[str, Any]]:
    """The main job on the embedded corpus: the `house` recipe, in its own vocabulary; its data goes to `out/data`."""
    folder = RunFolder.create(out, force=force)
    data = folder.path / "data"
    yield from prepare(["embedded"], data, vocab=recipe("house").model.vocab, force=True)
    events = train_events("house", data=data, out=out, changes={"train.seconds": seconds}, seed=seed, force=True)
    for event in events:
        if isinstance(event, dict):
            event["command"] = f"pargolf demo --seconds {seconds:g} --out {out} --seed {seed}"
        yield event


def demo(**options: Any) -> dict[str, Any]:
    """`demo_events` to the end; returns the result."""
    return _last(demo_events(**options))


def pack(run: str | Path, *, cap: int | None = None) -> dict[str, int]:
    """Pack a run's weights again under `cap` bytes; returns model, code and total bytes, and the cap."""
    packed = repack(RunFolder.open(run), cap=cap)
    total = packed.model_bytes + packed.code_bytes
    return {"model": packed.model_bytes, "code": packed.code_bytes, "total": total, "cap": packed.cap}


def fetch_data(name: str = "sp1024", **options: Any) -> Fetched:
    """`data.fetch.fetch` to the end: the published shards and tokenizer, whole and proved."""
    *_, last = fetch(name, **options)
    assert isinstance(last, Fetched)
    return last


def seeds_events(
    found: Found,
    *,
    seeds: Sequence[int],
    data: str | Path,
    out: str | Path,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    jobs: int = 1,
    device: str | None = None,
) -> Iterator[Event | tuple[list[dict[str, Any]], Spread]]:
    """Run a recipe's missing seeds into `out/seed-N`; ends with a row per seed and the spread of their BPB."""
    system = recipe(found, scale=scale, changes=changes)
    named = found.name if isinstance(found, Recipe) else found
    rows = " ".join(f"{path}={value}" for path, value in (changes or {}).items())
    listed = ",".join(map(str, seeds))
    words = f"pargolf seeds {named} {rows} {f'--scale {scale}' if scale else ''} --seeds {listed}"
    command = " ".join(f"{words} --data {data} --out {out}".split())
    ended = []
    events = run_seeds(system, open_data(data), out, seeds=seeds, jobs=jobs, device=device, command=command)
    for event in events:
        if isinstance(event, SeedDone):
            ended.append(event.run)
        else:
            yield event
    yield seed_rows(ended), spread([run.bpb for run in ended])


def seeds(found: Found, **options: Any) -> tuple[list[dict[str, Any]], Spread]:
    """`seeds_events` to the end; returns its rows and their spread."""
    *_, last = seeds_events(found, **options)
    assert isinstance(last, tuple)
    return last


def sweep_events(
    found: Found,
    spans: Sequence[str | Span],
    *,
    data: str | Path,
    out: str | Path,
    trials: int = 20,
    storage: str | None = None,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 1337,
    prune: bool = True,
    device: str | None = None,
) -> Iterator[Event | TrialDone | Swept]:
    """Try values of some rows (`"train.optimizer[mlp.*].lr=log:0.01,0.1"`); a `TrialDone` each, and last `Swept`.

    The study is a journal in `out`, or the database at `storage`, which many machines may share.
    """
    read = [span if isinstance(span, Span) else read_span(span) for span in spans]
    named = [span for span in read if span is not None]
    if len(named) < len(spans):
        plain = next(span for span, one in zip(spans, read) if one is None)
        raise UserError(f"'{plain}' is no range. Write path=log:LOW,HIGH, or float:, int:, choice:.")
    system = recipe(found, scale=scale, changes=changes)
    return run_sweep(
        system,
        named,
        open_data(data),
        out,
        trials=trials,
        storage=storage,
        seed=seed,
        prune=prune,
        device=device,
        command=f"pargolf sweep {found.name if isinstance(found, Recipe) else found} --data {data} --out {out}",
    )


def sweep(found: Found, spans: Sequence[str | Span], **options: Any) -> Swept:
    """`sweep_events` to the end; returns all trials and the best."""
    *_, last = sweep_events(found, spans, **options)
    assert isinstance(last, Swept)
    return last


def ablate_events(
    found: Found,
    *,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    base: Found | None = None,
    edits: Edits | None = None,
    only: Sequence[str] = (),
    plain: bool = False,
    paced: bool = False,
    seeds: Sequence[int] = (42, 314, 999),
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    jobs: int = 1,
    device: str | None = None,
) -> Iterator[Event | list[dict[str, Any]]]:
    """Run a recipe, and with each of `edits` alone; yields what each is worth so far, again and again, and at the end.

    Without `edits`: those that the recipe's module names as ABLATIONS; without those, or where a `base` is named, the
    parts that `base` does not have (None: the recipe that a repaired one repairs, else the baseline). `only`: globs of
    labels. `plain` scores over the plain windows alone, without adaptation. `changes` (as `train.steps`) go to all.
    `paced` gives each part, of the recipe's steps, as many as the same seconds buy, timed in turns.
    `data`: a folder, or several of the same text, of which a part with another vocabulary takes the one in its own.
    """
    whole = recipe(found, scale=scale, changes=changes)
    if edits is None and base is None and not isinstance(found, Recipe):
        edits = catalog.ablations(str(found))
    if edits:
        variants = edited_parts(whole, edits)
    else:
        if base is None:
            base = str(found).removesuffix("_repaired") if str(found).endswith("_repaired") else "baseline"
        variants = base_parts(whole, recipe(base, scale=scale, changes=changes))
    if plain:
        whole = in_plain_windows(whole)
        variants = {label: in_plain_windows(variant) for label, variant in variants.items()}
    variants = chosen(variants, only)
    named = found.name if isinstance(found, Recipe) else found
    first, *others = map(open_data, [data] if isinstance(data, str | Path) else data)
    for event in run_ablations(
        whole,
        variants,
        first,
        out,
        seeds=seeds,
        others=others,
        paced=paced,
        jobs=jobs,
        device=device,
        command=f"pargolf ablate {named}",
    ):
        yield [worth_row(worth) for worth in event] if isinstance(event, list) else event


def ablate(found: Found, **options: Any) -> list[dict[str, Any]]:
    """`ablate_events` to the end; returns its rows, the whole recipe first."""
    rows: list[dict[str, Any]] = []
    for event in ablate_events(found, **options):
        rows = event if isinstance(event, list) else rows
    return rows


def compare(new: Sequence[str | Path], *, against: Sequence[str | Path]) -> tuple[Comparison, dict[str, Any]]:
    """Test runs against others, or one published number, by the record rule; the test, and all of it as JSON."""
    return compare_runs(new, against)


def report_events(
    paths: Sequence[str | Path], *, out: str | Path | None = None, force: bool = False
) -> Iterator[Event | Path]:
    """Write the page of one run, or a board of all that the folders hold; ends with where it is.

    `out` None: `report.html` in the run's folder, `board.html` in the one folder named, or in the working folder.
    Runs and submissions are audited, which executes nothing. Raises `UserError` where `out` holds something else.
    """
    found = gather(paths)
    alone = len(found.runs) == 1 and not found.ablations and not found.submissions
    if alone:
        folder = RunFolder(found.runs[0])
        target = Path(out) if out else folder["report.html"]
        text = page_of(folder, read_json(folder["result.json"]))
    else:
        target = Path(out) if out else (Path(paths[0]) if len(paths) == 1 else Path()) / "board.html"
        entries, total = [], len(found.runs) + len(found.submissions)
        for place, path in enumerate(found.runs):
            entries.append(replace(entry_of(path, beside=target.parent), audit=audit(path).to_json()))
            yield Progress("reading", place + 1, total, str(path))
        audits = []
        for path in found.submissions:
            audits.append(audit(path).to_json())
            yield Progress("reading", len(entries) + len(audits), total, str(path))
        ablations = [read_ablation(path) for path in found.ablations]
        text = board_page(entries, title=_board_title(paths), ablations=ablations, audits=audits)
    if target.is_file() and PROOF not in target.read_text(encoding="utf-8", errors="replace") and not force:
        raise UserError(f"{target} is no page of this package. Choose another --out, or say --force to replace it.")
    write_text(target, text)
    yield target


def write_report(paths: Sequence[str | Path], *, out: str | Path | None = None, force: bool = False) -> Path:
    """`report_events` to the end; returns the page's path."""
    *_, last = report_events(paths, out=out, force=force)
    assert isinstance(last, Path)
    return last


def _board_title(paths: Sequence[str | Path]) -> str:
    return Path(paths[0]).resolve().name if len(paths) == 1 else "Board"


def write_submission(
    runs: Sequence[str | Path],
    *,
    out: str | Path,
    squeeze: bool = False,
    artifacts: bool = False,
    author: str = "",
    github_id: str = "",
    blurb: str = "",
) -> Bundle:
    """Write a submission's folder of some seeds of one recipe: script, README, submission.json and logs."""
    who = Author(author, github_id, blurb)
    return bundle(runs, out, squeeze=squeeze, artifacts=artifacts, author=who)


def import_checkpoint(
    path: str | Path,
    *,
    system: str,
    out: str | Path,
    data: str | Path | None = None,
    force: bool = False,
    **knobs: Any,
) -> dict[str, int]:
    """Make a run folder of a published script's checkpoint; returns its parameters, layers, bytes and the cap.

    `knobs` as in `upstream.load` (`xsa=`, `rope_dims=`, `ve_layers=`), where the system's own recipe does not have it.
    """
    opened = None if data is None else open_data(data)
    made = importing.import_checkpoint(
        path, catalog.find(system), out, system=system, data=opened, force=force, **knobs
    )
    return {
        "parameters": made.parameters,
        "layers": len(made.recipe.model.blocks),
        "model": made.model_bytes,
        "code": made.code_bytes,
        "total": made.model_bytes + made.code_bytes,
        "cap": made.recipe.budget.bytes,
    }


def forecast(
    found: Found,
    *,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """What a recipe's artifact will weigh on its own grids, before any training: bytes of the model by role, and code.

    `lands` is what will be submitted: where the recipe fills its cap (`fills`) or is over it, the grids are solved for,
    and the total ends in the last .2 % under the cap. `data` say which pieces of the vocabulary no text has; `steps` of
    training are guessed where neither caller nor recipe says.
    """
    system, unused = recipe(found, scale=scale, changes=changes), 0
    if data is not None:
        folder = open_data(data)
        system, unused = fit_to_data(system, folder), unused_pieces(folder)
    steps = steps or expected_steps(system)
    guess, code = forecast_bytes(system, unused=unused, steps=steps), count_code(system)
    return {
        "recipe": system.name,
        "steps": steps,
        "parameters": parameters(system.model),
        "model": guess.model,
        "code": code,
        "total": guess.model + code,
        "cap": system.budget.bytes,
        "fills": system.quant.fill,
        "lands": lands(system, guess.model, code=code),
        "by_role": guess.by_role,
    }


def bench_codec_events(
    target: str | Path, *, data: str | Path | None = None
) -> Iterator[Event | dict[str, list[dict[str, Any]]]]:
    """Compare codecs, and for a run quantizers; ends with rows `codecs` and, for a run, `quantizers`.

    The codes are those that a run's artifact, or the artifact `target`, holds; of a `.safetensors` file its matrices
    as int6. Quantizers are every published pair with its codec on the run's weights, and ours at the bytes of the last
    one; with the bits per byte of a sample where data are found, in `data` or in the run's own folder.
    """
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
        yield {"codecs": rows}
        return
    system, weights, hessians = run.read_recipe(), run.read_weights(), run.read_hessians()
    where = Path(data) if data else path / "data"
    found = open_data(where) if data or where.is_dir() else None
    if hessians is None and found is not None:
        hessians = hessians_of(system, weights, found, batches=4)
    grade = None if found is None else _sample_bpb(system, found)
    pairs: list[dict[str, Any]] = []
    for row in run_quantizer_rows(system, weights, hessians, grade=grade):
        pairs.append(row)
        yield Progress("quantizers", len(pairs), len(published()) + 2, row["name"])
    yield {"codecs": rows, "quantizers": pairs}


def bench_codec(target: str | Path, *, data: str | Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """`bench_codec_events` to the end; returns its rows."""
    *_, last = bench_codec_events(target, data=data)
    assert isinstance(last, dict)
    return last


def _sample_bpb(system: Recipe, data: DataFolder) -> Callable[[Transformer], float]:
    """What grades a model on a sample of the validation text."""
    validation = Validation(data)
    return lambda model: validation.sample(model.eval(), system.plain, vocab=system.model.vocab, count=64).bpb


def score_events(
    artifact: str | Path,
    *,
    data: str | Path,
    windows: str | None = None,
    adapt: bool = False,
    seconds: float | None = None,
    device: str | None = None,
) -> Iterator[Event | dict[str, Any]]:
    """Unpack and score an artifact, adapting as its recipe says when asked; ends with the score's row.

    Stopped before `seconds` are over, the row says that it is incomplete. Under torchrun only the first process
    yields anything.
    """
    spec = None if windows is None else window_specs.parse(windows)
    unpacked, folder = read_artifact(artifact), open_data(data)
    for event in score_artifact(unpacked, folder, windows=spec, adapt=adapt, seconds=seconds, device=device):
        yield event.row() if isinstance(event, Score | Adapted) else event


def score(artifact: str | Path, *, data: str | Path, **options: Any) -> dict[str, Any]:
    """`score_events` to the end; returns loss, bpb, tokens, bytes and the counts that prove them."""
    return _last(score_events(artifact, data=data, **options))


def probe(target: Found, *, scale: str | None = None) -> list[dict[str, Any]]:
    """Prove the laws of a fair score on a recipe (with first weights), an artifact or a foreign script, a row per law.

    A script without a `RECIPE` is foreign: it runs in the sandbox only. Raises `UserError` when it cannot be probed.
    """
    if is_foreign(target):
        return probe_script(str(target))
    if str(target).endswith(".pargolf"):
        unpacked = read_artifact(str(target))
        model, windows, adapter = unpacked.model, unpacked.plain, unpacked.adapt
    else:
        system = recipe(target, scale=scale)
        model, windows, adapter = system.model.build(seed=0).eval(), system.plain, system.adapt
        stir(model)
    spec = model.spec
    bos = 1 if spec.bos is None else spec.bos
    length = min(windows.length, 64)
    grader = LedgerGrader(model, window_specs.Sliding(length, length // 2), spec.vocab, bos, adapter)
    apart = spec.bos is not None and adapter is None
    verdicts = prove_laws(grader, stream(vocab=spec.vocab, bos=bos), vocab=spec.vocab, bos=bos, isolated=apart)
    return [verdict.row() for verdict in verdicts]


def inspect(artifact: str | Path) -> dict[str, Any]:
    """Who made an artifact, and where each of its bytes goes."""
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
) -> Iterator[str]:
    """Go on from a prompt, a few characters at a time; each of several documents begins anew, after an empty line.

    A document ends where the model ends it, or after `tokens`.
    """
    found = read_artifact(artifact)
    words = _tokenizer_of(artifact, tokenizer)
    start = [words.bos, *map(int, words.encode(prompt))]
    options = {"tokens": tokens, "temperature": temperature, "top_p": top_p}
    for number in range(documents):
        if number:
            yield f"\n\n{prompt}"
        yield from _written(found, words, start, seed=seed + number, **options)


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


def judge(target: str | Path, *, record: str | None = None) -> dict[str, Any]:
    """Audit a submission's folder, script, run or `git:REPO@REF` without executing it; the report as plain JSON.

    `record` names what a new record has to beat: its scores, `"1.1147,1.1150"`, or the submission that holds it.
    """
    return audit(target, record=None if record is None else record_of(record)).to_json()


def price_text(artifact: str | Path, text: str, *, tokenizer: str | Path | None = None) -> list[tuple[str, float]]:
    """Each token of a text, as it reads, with the bits that it cost."""
    found = read_artifact(artifact)
    words = _tokenizer_of(artifact, tokenizer)
    ids = [words.bos, *map(int, words.encode(text))]
    rows = score_text(found.model, ids, vocab=found.model.spec.vocab, length=found.plain.length)
    return [(words.decode([token]), bits) for token, bits in rows]


def _tokenizer_of(artifact: str | Path, tokenizer: str | Path | None) -> Tokenizer:
    """The tokenizer that was named, or the one beside the artifact."""
    path = Path(tokenizer) if tokenizer else Path(artifact).with_name("tokenizer.model")
    if not path.is_file():
        raise UserError(f"No tokenizer beside {artifact}. Name its .model file with --tokenizer.")
    return open_tokenizer(path)


def _last(events: Iterator[Event | dict[str, Any]]) -> dict[str, Any]:
    """The result at the end of a stream of events."""
    result: dict[str, Any] = {}
    for event in events:
        result = event if isinstance(event, dict) else result
    return result
