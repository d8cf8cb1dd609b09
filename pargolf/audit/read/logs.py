"""Read a training log of any lineage: seconds, sizes, scores and settings, each with its line.

Two families print most of the published logs. The base one prints `step:7000/20000 val_loss:1.9233 val_bpb:1.1387
train_time:485440ms`; the SP4096/SP8192 one prints `500/20000 train_loss: 3.31 train_time: 0.8m`. Both end with
`stopping_early: wallclock_cap train_time: 588033ms step: 4550/20000` and named scores `tag val_loss:L val_bpb:B
eval_time:Nms`. A third of all logs echo the script's own source. So a line counts only if it begins like a log line and
has no trace of source (`{`, `log0(`, an f-string). Prefixes (rank, time of day) are removed first.

Sizes: `Total submission size <codec>: N bytes` counts. Without a codec, the same line is usually the raw float model
plus code. It is used only if there is nothing better and the sum does not contradict it.
"""

import re
from dataclasses import dataclass, field

from pargolf.audit.read.log_records import OTHERS, log_lines

_PREFIX = re.compile(
    r"^(?:\x1b\[[\d;]*m|\s|\[?(?:default|rank)?\d+\]?:(?=\D)|\[rank\d+\]:?|\d{4}-\d\d-\d\d[ T][\d:.,]+Z?[ |:-]*"
    r"|\[\d{4}-\d\d-\d\d[^\]]*\]|\[?\d\d:\d\d:\d\d[.,\d]*\]?[ |:-]*|\[?\d+(?:\.\d+)?s\])+"
)
_SOURCE = re.compile(r"[{}]|log0?\(|\bf\"|\bf'|print\(")
_STEP_VAL = re.compile(
    r"^(?:step[: ]+)?(\d+)/(\d+)[ :|,]+val_loss\s*[:=]\s*([\d.]+)[ ,|]+val_bpb\s*[:=]\s*([\d.]+)"
    r"(?:.*?train_time[:=]\s*([\d.]+)(ms|m|s))?"
)
_STEP_TRAIN = re.compile(
    r"^(?:step[: ]+)?(\d+)/(\d+)[ :|]+(?:train_)?loss[:=]\s*([\d.]+)(?:.*?train_time[:=]\s*([\d.]+)(ms|m|s))?"
)
_STOP = re.compile(r"^stopping_early: \w+ train_time:\s*([\d.]+)ms step:\s*(\d+)/(\d+)")
_SCORE = re.compile(r"^(.*?)[\s:|]*\bval_loss\s*[:=]\s*([\d.]+)[\s,|]+val_bpb\s*[:=]\s*([\d.]+)(.*)$")
_ALONE = re.compile(r"^(.{0,60}?)\bval_bpb\s*[:=]\s*([\d.]+)")
_SECONDS = re.compile(r"(?:eval_time|elapsed|time)[:=]\s*([\d.]+)\s*(ms|s)\b")
_TOTAL = re.compile(r"^Total submission size\s*([^:]*):\s*([\d,]+)\s*bytes", re.I)
_MODEL = re.compile(r"^Serialized model\s*([^:]*):\s*([\d,]+)\s*bytes", re.I)
_CODE = re.compile(r"^Code size\s*([^:]*):\s*([\d,]+)\s*bytes", re.I)
_PACKED = re.compile(
    r"^(?:compressed model|quant:\w+ artifact size|(?:final )?artifact(?: size)?|compressed artifact)\w*:\s*"
    r"([\d,]{7,})\s*bytes",
    re.I,
)
_SETTING = re.compile(r"^([a-zA-Z_]\w*)\s*[:=]\s*([^\s,]*)(?:\s|$)")
_PAIR = re.compile(r"([a-zA-Z_]\w*)[:=](\S+)")
_PAIRS = re.compile(r"(?:[a-zA-Z_]\w*[:=]\S+\s+)+[a-zA-Z_]\w*[:=]\S+\s*")
_CHUNK = re.compile(r"^\s*ttt_chunk \[(\d+)/(\d+)\] bpb=([\d.]+) time=([\d.]+)s")
_TOTAL_EVAL = re.compile(r"^total_eval_time:\s*([\d.]+)s")
_CALIBRATION = re.compile(
    r"^(?:gptq|hessian)\S*\s*(?:calibrat|collect|building|generat)|calibrating with|collecting hessians", re.I
)
_CALIBRATED = re.compile(
    r"(?:collected|calibrat\w+|hessians?)\b.*?\bin\s+([\d.]+)\s*s"
    r"|(?:calibrat\w+|hessian\w*)_(?:time|seconds)[:=]\s*([\d.]+)",
    re.I,
)
_SELF_GENERATED = re.compile(
    r"self[- _]?gen|ar[- _]calib|generated?\b.*(?:calib|sequences)|synthetic|random[- ]calib", re.I
)
_GATE = re.compile(r"\b((?:within|word)_gate)\w*[=:]\s*([\d.]+)")
_PREQUANT = re.compile(r"^\W*(?:post[-_ ])?pre[-_ ]?quant[-_ ](?:\w+[-_ ])?ttt\b(?!.*(?:disabled|skip|false)).*\d")
_SAMPLES = re.compile(r"val_loader:.*?tokens:(\d+)")
_MIX = re.compile(r"\b(\w*(?:mix|ppm|ngram|cache)\w*_?bpb\w*)[:=]\s*([\d.]+)", re.I)


MOST = 1e15
"""Larger than any number of bytes, tokens, seconds or any score in a submission."""


@dataclass(frozen=True)
class Line:
    """One line of a file, counted from 1."""

    file: str
    number: int
    text: str


@dataclass(frozen=True)
class LoggedRow:
    """A validation row during training: loss in nats per token, bits per byte, seconds of training so far."""

    step: int
    loss: float
    bpb: float
    digits: int
    seconds: float | None
    line: Line


@dataclass(frozen=True)
class LoggedScore:
    """A named score after training, with the seconds it took if the log prints them."""

    tag: str
    loss: float
    bpb: float
    digits: int
    seconds: float | None
    line: Line


@dataclass(frozen=True)
class LoggedNumber:
    """A number and its line."""

    value: float
    line: Line


@dataclass
class Log:
    """The content of one log. Missing values are None or empty. If a line repeats, the last one counts.

    `mixes` are scores without a loss, as mixtures with counts print theirs. `skipped` is the number of lines in the
    middle that were not read.
    """

    path: str
    rows: list[LoggedRow] = field(default_factory=list)
    scores: list[LoggedScore] = field(default_factory=list)
    mixes: list[LoggedScore] = field(default_factory=list)
    train_seconds: LoggedNumber | None = None
    stop: LoggedNumber | None = None
    total: LoggedNumber | None = None
    total_plain: LoggedNumber | None = None
    model: LoggedNumber | None = None
    raw_model: LoggedNumber | None = None
    code: LoggedNumber | None = None
    settings: dict[str, tuple[str, Line]] = field(default_factory=dict)
    seeds: list[str] = field(default_factory=list)
    chunks: list[tuple[int, int, float, float, Line]] = field(default_factory=list)
    total_eval: LoggedNumber | None = None
    late_calibration: Line | None = None
    calibration_seconds: LoggedNumber | None = None
    gates: list[LoggedNumber] = field(default_factory=list)
    val_tokens: LoggedNumber | None = None
    prequant: Line | None = None
    lines: list[Line] = field(default_factory=list)
    skipped: int = 0

    @property
    def final(self) -> LoggedScore | None:
        """The score that the run reports: the last one with a name and a loss, or else the last one without a loss."""
        plain = [s for s in self.scores if "diagnostic" not in s.tag and "pre-quant" not in s.tag]
        alone = [s for s in self.mixes if s.tag.endswith("val_bpb") and 0 < s.bpb < 20 and not OTHERS.search(s.tag)]
        named = plain or self.scores or alone
        return named[-1] if named else None

    @property
    def world_size(self) -> int | None:
        """How many processes ran, by the log."""
        value = self.settings.get("world_size", ("", None))[0]
        return int(value) if value.isdecimal() else None

    @property
    def total_bytes(self) -> LoggedNumber | None:
        """Bytes of the whole artifact, as this log prints or sums them."""
        if self.total is not None:
            return self.total
        if self.total_plain is not None and not self._is_raw(self.total_plain.value):
            return self.total_plain
        if self.model is not None and self.code is not None:
            return LoggedNumber(self.model.value + self.code.value, self.model.line)
        return None

    def _is_raw(self, total: float) -> bool:
        raw = self.raw_model
        return total > 24e6 or (raw is not None and raw.value > 16.8e6 and abs(total - raw.value) < 400_000)


def read_log(path: str, text: str, *, most_lines: int = 200_000) -> Log:
    """Parse one log; of a long one, the first and the last lines.

    Never raises; a text that is no log gives an empty one.
    """
    log = Log(path)
    lines = list(log_lines(text))
    log.skipped = max(0, len(lines) - most_lines)
    if log.skipped:
        lines[most_lines // 2 : most_lines // 2 + log.skipped] = []
    for number, raw in lines:
        if not raw or len(raw) > 2000:
            continue
        prefix = _PREFIX.match(raw)
        body = raw[prefix.end() :] if prefix else raw
        if body and not _is_source(body):
            _take(log, Line(path, number, body.strip()[:240]))
    return log


def _is_source(body: str) -> bool:
    """Whether a line has a trace of Python source. The plain tests come first, because the pattern is slow."""
    if "{" in body or "}" in body:
        return True
    return ("(" in body or 'f"' in body or "f'" in body) and _SOURCE.search(body) is not None


def _number(text: str) -> float:
    """A printed number; 0 if it is none, or absurdly large."""
    try:
        value = float(text.replace(",", "").rstrip("."))
    except ValueError:
        return 0.0
    return value if value < MOST else 0.0


def _digits(text: str) -> int:
    return len(text.partition(".")[2].rstrip("."))


def _seconds(value: str, unit: str) -> float:
    return _number(value) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit]


def _take(log: Log, line: Line) -> None:
    body, lower = line.text, line.text.lower()
    if "bpb" in body or "loss" in body:
        _take_score(log, line)
    if body.startswith("stopping_early"):
        if stop := _STOP.match(body):
            log.stop = log.train_seconds = LoggedNumber(_number(stop[1]) / 1000, line)
    elif " bytes" in body or "size" in body:
        _take_size(log, line)
    if "ttt_chunk" in body and (chunk := _CHUNK.match(body)):
        log.chunks.append((int(chunk[1]), int(chunk[2]), _number(chunk[3]), _number(chunk[4]), line))
    if total := _TOTAL_EVAL.match(body):
        log.total_eval = LoggedNumber(_number(total[1]), line)
    if "_gate" in body:
        log.gates += [LoggedNumber(_number(value), line) for name, value in _GATE.findall(body)]
    _take_calibration(log, line)
    if "quant" in lower and _PREQUANT.search(lower) and not _SETTING.fullmatch(body):
        log.prequant = line
    _take_setting(log, line)
    if len(log.lines) < 4000:
        log.lines.append(line)


def _take_score(log: Log, line: Line) -> None:
    body = line.text
    if "val_bpb" not in body:
        if "loss" in body and (step := _STEP_TRAIN.match(body)):
            if step[4]:
                log.train_seconds = LoggedNumber(_seconds(step[4], step[5]), line)
        elif "_bpb" in body and (mix := _MIX.search(body)):
            log.mixes.append(LoggedScore(mix[1], 0.0, _number(mix[2]), _digits(mix[2]), None, line))
    elif row := _STEP_VAL.match(body):
        seconds = _seconds(row[5], row[6]) if row[5] else None
        digits = min(_digits(row[3]), _digits(row[4]))
        log.rows.append(LoggedRow(int(row[1]), _number(row[3]), _number(row[4]), digits, seconds, line))
        if seconds is not None:
            log.train_seconds = LoggedNumber(seconds, line)
    elif score := _SCORE.match(body):
        tag, loss, bpb, remainder = score.groups()
        duration = _SECONDS.search(remainder)
        seconds = _seconds(duration[1], duration[2]) if duration else None
        digits, tag = min(_digits(loss), _digits(bpb)), tag.strip(" :|-")[:80].lower()
        log.scores.append(LoggedScore(tag, _number(loss), _number(bpb), digits, seconds, line))
    elif alone := _ALONE.match(body):
        tag, bpb = alone.groups()
        log.mixes.append(LoggedScore(f"{tag.strip().lower()} val_bpb", 0.0, _number(bpb), _digits(bpb), None, line))


def _take_size(log: Log, line: Line) -> None:
    body = line.text
    if total := _TOTAL.match(body):
        number = LoggedNumber(_number(total[2]), line)
        if total[1].strip():
            log.total = number
        else:
            log.total_plain = number
    elif model := _MODEL.match(body):
        number = LoggedNumber(_number(model[2]), line)
        if model[1].strip():
            log.model = number
        else:
            log.raw_model = number
    elif code := _CODE.match(body):
        if log.code is None or "uncompressed" not in code[1].lower():
            log.code = LoggedNumber(_number(code[2]), line)
    elif packed := _PACKED.match(body):
        log.model = LoggedNumber(_number(packed[1]), line)


def _take_calibration(log: Log, line: Line) -> None:
    lower = line.text.lower()
    if "calib" not in lower and "hessian" not in lower and not lower.startswith("gptq"):
        return
    if not _CALIBRATION.search(line.text) and not _CALIBRATED.search(line.text):
        return
    if _SELF_GENERATED.search(line.text) or "reserv" in line.text:
        log.settings.setdefault("self_generated_calibration", ("1", line))
        return
    if log.stop is not None and log.late_calibration is None:
        log.late_calibration = line
    if seconds := _CALIBRATED.search(line.text):
        log.calibration_seconds = LoggedNumber(_number(seconds[1] or seconds[2]), line)


def _take_setting(log: Log, line: Line) -> None:
    if "val_loader" in line.text and (tokens := _SAMPLES.search(line.text)):
        log.val_tokens = LoggedNumber(_number(tokens[1]), line)
    setting = _SETTING.match(line.text)
    if setting is None:
        return
    name, value = setting[1].lower(), setting[2]
    if name == "seed" and value.isdecimal() and value not in log.seeds:
        log.seeds.append(value)
    if name == "val_tokens" and value.replace(",", "").isdecimal():
        log.val_tokens = LoggedNumber(_number(value), line)
    pairs = _PAIR.findall(line.text) if _PAIRS.fullmatch(line.text) and "loss:" not in line.text else []
    for pair, content in pairs or [(name, value)]:
        if len(log.settings) < 500:
            log.settings[pair.lower()] = (content, line)
