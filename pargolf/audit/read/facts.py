"""Read everything that a submission's folder says about itself, each number with its line.

`submission.json` has no schema that people follow: the size alone has a dozen names. So its leaves are flattened to
dotted paths, and a key's meaning decides: `seed_results.1337.artifact_bytes` is the total size of the run with seed
1337, `bytes_model_int6_zstd` a model size, `baseline_bpb` another system's score. README tables with a seed column are
read in the same way. Logs and scripts are parsed once and shared by all rules.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pargolf.audit.code.modules import joined
from pargolf.audit.code.script import Code, read_code, text_of
from pargolf.audit.read.fields import SEED_GROUP, Leaf, is_foreign_leaf, read_leaves, seed_of
from pargolf.audit.read.logs import Line, Log, LoggedNumber, LoggedRow, LoggedScore, read_log
from pargolf.audit.read.submission import File, Folder, logs_among
from pargolf.audit.read.tokenizer import Tokenizer, read_tokenizer

EIGHT = {"WORLD_SIZE": "8", "RANK": "0", "LOCAL_RANK": "0"}
MOST_LOGS = 40
MOST_SCRIPTS = 24
MOST_TOKENIZERS, MOST_TOKENIZER = 4, 8_000_000
_TOTAL = re.compile(
    r"^(bytes_total|total_bytes|total_size(_bytes)?|artifact(_size)?(_total)?_bytes|artifact_size|submission_bytes"
    r"|submission_size(_bytes)?|total_artifact_bytes|total_submission_(bytes|size)|compressed_size(_bytes)?|size_bytes"
    r"|artifact_bytes_(max|mean|min|total|worst)|bytes_total_\w+|total_artifact_size(_bytes)?|artifact_total_bytes"
    r"|max_artifact_bytes|artifact_size_bytes_(max|mean)|artifact|bytes)$"
)
_MODEL = re.compile(r"^(bytes_model\w*|model_bytes\w*|compressed_model_bytes|model_size_bytes|bytes_weights)$")
_CODE = re.compile(r"^(bytes_code\w*|code_bytes\w*|code_size(_bytes)?)$")
_TRAIN = re.compile(
    r"^(wall_?clock(_time)?_(seconds|s|sec|ms)|wallclock"
    r"|train(ing)?_(time|wallclock|wall)_?(seconds|s|sec|ms)(_mean|_max)?"
    r"|train(ing)?_(seconds|s|ms)|train(ing)?_time|train_wallclock)$"
)
_EVAL = re.compile(
    r"^((ttt_|total_|legal_ttt_|sliding_)?eval(uation)?_(time|wallclock)?_?(seconds|s|sec|ms)(_mean|_max)?|eval_time"
    r"|ttt_time_(seconds|s|sec|ms))$"
)
_BPB = re.compile(
    r"^(val_bpb|mean_val_bpb|val_bpb_mean|final_val_bpb|bpb|mean_bpb|ttt_bpb|ttt_val_bpb|bpb_mean|score|sliding_bpb"
    r"|val_bpb_ttt|quantized_ttt_bpb|post_ttt_bpb|post_ttt_val_bpb|final_bpb|val_bpb_final)$"
)
_LOSS = re.compile(r"^(val_loss|mean_val_loss|val_loss_mean|final_val_loss|ttt_val_loss|ttt_loss|post_ttt_val_loss)$")
_ASSIGNED = re.compile(
    r"(?<![\w$.{])(?:export\s+)?([A-Z][A-Z0-9_]{2,})=[\"']?(?:\$\{[A-Z0-9_]+:-([\w./:+-]*)\}|([\w./:+-]+))(?![\w$({])"
)

_OPTION = re.compile(r"--([a-zA-Z][\w-]{0,60})(?:[= ]([^\s-]\S{0,80}))?")
_ASKED = re.compile(r"(?:environ\.get|env\w{0,20})\(\s{0,8}[\"']([A-Z][A-Z0-9_]{1,60})[\"']")


@dataclass(frozen=True)
class Run:
    """One declared seed: bits per byte, loss, total size, seconds. Missing values are None."""

    seed: str
    bpb: Leaf | LoggedNumber | None = None
    total: LoggedNumber | None = None

    @property
    def score(self) -> float | None:
        """Its bits per byte as a number."""
        return self.bpb.number if isinstance(self.bpb, Leaf) else self.bpb.value if self.bpb is not None else None


@dataclass
class Facts:
    """A folder, read. `env` and `options` are settings before and after the run command in its README or shell scripts.

    `borrowed` and `stray_logs` are outside the folder: the script is read if the folder has none, the logs only for
    facts about the data. `tokenizers` are SentencePiece models in the folder, or beside a script.
    """

    folder: Folder
    leaves: list[Leaf] = field(default_factory=list)
    json_file: File | None = None
    json_error: str = ""
    readme: list[Line] = field(default_factory=list)
    readme_file: File | None = None
    codes: list[Code] = field(default_factory=list)
    borrowed: list[Code] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    stray_logs: list[Log] = field(default_factory=list)
    tokenizers: list[Tokenizer] = field(default_factory=list)
    env: dict[str, tuple[str, Line]] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def record_track(self) -> bool:
        """Whether the folder is in the track of the leaderboard."""
        return self.folder.track is not None and self.folder.track.startswith("10min")

    @cached_property
    def main(self) -> Code | None:
        """The script that trains: `train_gpt.py`, or the largest one that mentions bits per byte."""
        at_top = [c for c in self.codes if "/" not in c.path] or self.codes or self.borrowed
        named = [c for c in at_top if c.path.rsplit("/", 1)[-1] == "train_gpt.py"]
        speaking = [c for c in at_top if "val_bpb" in c.text or "bpb" in c.text]
        pool = named or speaking or at_top
        return max(pool, key=lambda c: (c.path.rsplit("/", 1)[-1].startswith("train"), len(c.text))) if pool else None

    @cached_property
    def program(self) -> Code | None:
        """The script that trains, with the modules of the folder that it imports."""
        main = self.main
        return main if main is None or main.tree is None else joined(main, tuple(self.codes))

    @property
    def title(self) -> str:
        """The submission's name for itself."""
        name = next((str(x.value) for x in self.leaves if x.path in (("name",), ("title",), ("submission_name",))), "")
        heading = next((x.text.lstrip("# ") for x in self.readme if x.text.startswith("#")), "")
        return name or heading or self.folder.path

    @cached_property
    def bpb(self) -> Leaf | None:
        """The declared score."""
        top = [x for x in self.leaves if len(x.path) <= 2 and _BPB.match(x.key) and x.number and not is_foreign_leaf(x)]
        return min(top, key=lambda x: (len(x.path), "val_bpb" not in x.key), default=None)

    @cached_property
    def loss(self) -> Leaf | None:
        """The declared loss that belongs to the declared score."""
        if self.bpb is None:
            return None
        near = self.bpb.path[:-1]
        losses = [x for x in self.leaves if x.path[:-1] == near and _LOSS.match(x.key) and x.number]
        return losses[0] if losses else None

    @cached_property
    def totals(self) -> list[Leaf]:
        """Declared total sizes, bytes."""
        totals = [x for x in self.leaves if _is_size(x, _TOTAL)]
        packed = [x for x in self.leaves if re.search(r"int\d|zlib|zstd|lzma|brotli|quant", x.key)]
        # If there is a packed size, one of twice the cap is the size of the float checkpoint.
        if any(1e6 < (x.number or 0) < 2e7 for x in packed):
            totals = [x for x in totals if (x.number or 0) < 32e6]
        return totals

    @cached_property
    def models(self) -> list[Leaf]:
        """Declared model sizes, bytes."""
        return [x for x in self.leaves if _is_size(x, _MODEL)]

    @cached_property
    def train_times(self) -> list[Leaf]:
        """Declared training times. A plain wall clock counts only if nothing mentions training."""
        times = [x for x in self.leaves if _timed(x, _TRAIN)]
        return [x for x in times if x.key.startswith("train")] or times

    @cached_property
    def eval_times(self) -> list[Leaf]:
        """Declared scoring times."""
        return [x for x in self.leaves if _timed(x, _EVAL)]

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Declared runs by seed, from submission.json, or from a table of the README."""
        runs: dict[str, Run] = {}
        for leaf in self.leaves:
            seed = seed_of(leaf)
            if seed is None or is_foreign_leaf(leaf) or leaf.number is None:
                continue
            old = runs.get(seed, Run(seed))
            if (_BPB.match(leaf.key) or SEED_GROUP.match(leaf.key) or leaf.key.startswith("val_bpb")) and (
                old.bpb is None and 0 < leaf.number < 20
            ):
                runs[seed] = Run(seed, leaf, old.total)
            elif _is_size(leaf, _TOTAL):
                runs[seed] = Run(seed, old.bpb, LoggedNumber(leaf.number, leaf.line))
        runs = {seed: run for seed, run in runs.items() if run.bpb is not None}
        return runs or self.table_runs

    @cached_property
    def table_runs(self) -> dict[str, Run]:
        """Rows of README tables that have a seed column."""
        runs: dict[str, Run] = {}
        columns: list[str] = []
        for line in self.readme:
            cells = [re.sub(r"[*`~]", "", c).strip() for c in line.text.strip().strip("|").split("|")]
            if not line.text.lstrip().startswith("|"):
                columns = []
            elif not columns:
                columns = [c.lower() for c in cells]
            elif (
                columns[0].startswith("seed")
                and len(cells) == len(columns)
                and re.fullmatch(r"\w{0,5}\s?\d+", cells[0])
            ):
                runs.setdefault(cells[0], _table_run(cells, columns, line))
        return runs

    @cached_property
    def environment(self) -> dict[str, str]:
        """The settings of the reported run: eight ranks, the run command's variables, and the log's own list."""
        env = {**EIGHT, **{name: value for name, (value, _) in self.env.items()}}
        sizes = {x.world_size for x in self.own_logs if x.world_size}
        if len(sizes) == 1:
            env["WORLD_SIZE"] = str(sizes.pop())
        for name, value in self.logged_settings.items():
            env.setdefault(name, value)
        return env

    @cached_property
    def settings(self) -> dict[str, str]:
        """The environment, the options of the run command (`--name`), and switches that every log prints (`name`)."""
        options = {f"--{name}": value or "1" for name, value in self.options.items()}
        printed: dict[str, set[str]] = {}
        for log in self.own_logs:
            for name, (value, _) in log.settings.items():
                plain = {"True": "1", "False": "0"}.get(value, value)
                if plain in ("0", "1") and name.islower():
                    printed.setdefault(name, set()).add(plain)
        switches = {name: values.pop() for name, values in printed.items() if len(values) == 1}
        return {**switches, **options, **self.environment}

    @cached_property
    def logged_settings(self) -> dict[str, str]:
        """Environment variables that the script reads, with the values that every log of the submission prints."""
        variables = set(_ASKED.findall(self.main.text)) if self.main is not None else set()
        settings: dict[str, set[str]] = {}
        for log in self.own_logs:
            for name, (value, _) in log.settings.items():
                plain = {"True": "1", "False": "0"}.get(value, value)
                if name.upper() in variables and re.fullmatch(r"-?\d+(\.\d+)?", plain):
                    settings.setdefault(name.upper(), set()).add(plain)
        return {name: values.pop() for name, values in settings.items() if len(values) == 1}

    @cached_property
    def not_as_committed(self) -> frozenset[str]:
        """Switches and limits of seconds that are lower in the logs than in the script or the README's run command."""
        text = self.main.text if self.main is not None else ""
        names = set()
        for name, value in self.logged_settings.items():
            default = re.search(rf"""["']{name}["']\s*,\s*["']?([\d.]+|True)""", text)
            limit = re.search(r"WALL|SECONDS|BUDGET|LIMIT", name) is not None
            if name not in self.env and default is None and limit:
                names.add(name)  # a computed default
            if name in self.env and value == "0" and self.env[name][0].lower() not in ("", "0", "false", "none"):
                names.add(name)
            if default is None or name in self.env:
                continue
            number = 1.0 if default[1] == "True" else float(default[1].rstrip(".") or 0)
            if number > float(value) and (limit or not float(value)):
                names.add(name)
            elif limit and not number and float(value):
                names.add(name)  # the script itself has no limit
        return frozenset(names)

    @cached_property
    def own_logs(self) -> list[Log]:
        """Logs whose final score is declared by the submission; if there are none, all logs with a score."""
        scored = [log for log in self.logs if log.final is not None]
        claims: list[float | None] = [self.bpb.number] if self.bpb is not None else []
        claims += [run.score for run in self.runs.values()]
        mine = [
            log
            for log in scored
            if any(
                c and abs(c - s) < 0.0015
                for c in claims
                for s in (*map(_bpb, log.scores), *map(_bpb, log.mixes), *map(_bpb, log.rows[-1:]))
            )
        ]
        return mine or ([] if claims and len(scored) > 4 else scored)


def _bpb(score: LoggedRow | LoggedScore) -> float:
    return score.bpb


def read_facts(folder: Folder) -> Facts:
    """Read a folder's texts, logs and scripts. Never raises: what cannot be read is noted."""
    facts = Facts(folder)
    facts.json_file = _first(folder, "submission.json") or _like(folder, "submission", ".json")
    if facts.json_file is not None:
        facts.leaves, facts.json_error = read_leaves(facts.json_file)
    readme = _first(folder, "readme.md") or _first(folder, "readme") or _like(folder, "readme", ".md")
    if readme is not None:
        facts.readme_file = readme
        facts.readme = _lines(readme)
    _read_scripts(facts)
    _read_logs(facts)
    for file in folder.elsewhere:
        data = file.read()
        if data is not None and file.suffix == ".py":
            facts.borrowed.append(read_code(file.path, data))
        elif data is not None and file.suffix != ".model":
            facts.stray_logs.append(read_log(file.path, text_of(data)))
    models = [f for f in (*folder.files, *folder.elsewhere) if f.suffix == ".model" and f.size <= MOST_TOKENIZER]
    tokenizers = [read_tokenizer(f.path, data) for f in models[:MOST_TOKENIZERS] if (data := f.read()) is not None]
    facts.tokenizers = [tokenizer for tokenizer in tokenizers if tokenizer is not None]
    _read_env(facts)
    return facts


def read_scripts(folder: Folder) -> Facts:
    """Read only a folder's scripts, for callers that need only code."""
    facts = Facts(folder)
    _read_scripts(facts)
    return facts


def _read_scripts(facts: Facts) -> None:
    scripts = [f for f in facts.folder.files if f.suffix == ".py"]
    if len(scripts) > MOST_SCRIPTS:
        facts.notes.append(f"{len(scripts) - MOST_SCRIPTS} of {len(scripts)} scripts were not read")
    for file in sorted(scripts, key=lambda f: (f.path.count("/"), "train" not in f.name, f.path))[:MOST_SCRIPTS]:
        data = file.read()
        if data is None:
            facts.notes.append(f"{file.path} ({file.size:,} bytes) could not be read")
            facts.codes.append(Code(file.path, "", None, file.size, error="the file could not be read"))
        else:
            facts.codes.append(read_code(file.path, data))


def _read_logs(facts: Facts) -> None:
    logs = logs_among(facts.folder.files)
    if len(logs) > MOST_LOGS:
        facts.notes.append(f"{len(logs) - MOST_LOGS} of {len(logs)} logs were not read")
    for file in logs[:MOST_LOGS]:
        data = file.read()
        if data is None:
            facts.notes.append(f"{file.path} ({file.size:,} bytes) could not be read")
            continue
        log = read_log(file.path, text_of(data))
        facts.logs.append(log)
        if log.skipped:
            facts.notes.append(f"{file.path}: {log.skipped:,} lines in the middle were not read")


def _first(folder: Folder, name: str) -> File | None:
    """The file with that name; the one at the top of the folder, if there is one."""
    files = [f for f in folder.files if f.name.lower() == name]
    return next((f for f in files if "/" not in f.path), files[0] if files else None)


def _like(folder: Folder, word: str, suffix: str) -> File | None:
    """A file at the top of the folder whose name contains a word, for folders with other file names."""
    return next((f for f in folder.files if "/" not in f.path and word in f.name.lower() and f.suffix == suffix), None)


def _lines(file: File) -> list[Line]:
    data = file.read()
    if data is None:
        return []
    return [Line(file.path, i, x.rstrip()[:600]) for i, x in enumerate(text_of(data).splitlines()[:4000], 1)]


def _is_size(leaf: Leaf, names: re.Pattern[str]) -> bool:
    value = leaf.number
    return bool(names.match(leaf.key.lower())) and value is not None and value > 200_000 and not is_foreign_leaf(leaf)


def _timed(leaf: Leaf, names: re.Pattern[str]) -> bool:
    return bool(names.match(leaf.key.lower())) and bool(leaf.seconds) and not is_foreign_leaf(leaf)


def _table_run(cells: list[str], columns: list[str], line: Line) -> Run:
    bpb = total = None
    for cell, column in zip(cells, columns):
        digits = re.match(r"[\d,]{1,20}(\.\d{1,20})?", cell)
        if digits is None:
            continue
        value = float(digits[0].replace(",", "") or 0)
        if "bpb" in column and 0.3 < value < 5 and "delta" not in column:
            bpb = LoggedNumber(value, line)
        whole = re.search(r"artifact|bytes|size|total", column) and "code" not in column and "model" not in column
        if whole and value > 1_000_000:
            total = LoggedNumber(value, line)
    return Run(cells[0], bpb, total)


def _read_env(facts: Facts) -> None:
    """Settings that shell scripts, then the README's command blocks, put into the environment."""
    shells = [f for f in facts.folder.files if f.suffix == ".sh" and f.size < 100_000][:6]
    commands = [line for file in shells for line in _lines(file)] + [*_fenced(facts.readme)]
    for line in commands:
        if line.text.lstrip().startswith("#"):
            continue
        for name, value in _OPTION.findall(line.text.partition(".py ")[2]):
            facts.options.setdefault(name.replace("_", "-"), value)
        for name, fallback, value in _ASSIGNED.findall(line.text):
            if fallback or value:
                facts.env.setdefault(name, (fallback or value, line))


def _fenced(lines: list[Line]) -> Iterator[Line]:
    """Lines between the fences of code blocks."""
    inside = False
    for line in lines:
        if line.text.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            yield line
