"""The black box: small scripts of our own run to their score in the sandbox, and laws asked of made-up runs.

The scripts are a bigram model in the field's habit. What a law says of windows, chunks and passes is tested without a
process: a made-up run sends the losses that a scorer of that kind would send.
"""

import ast
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pargolf.audit import running
from pargolf.audit.blackbox.contents import sketch, written
from pargolf.audit.blackbox.findings import Runs, findings_of, run_main
from pargolf.audit.blackbox.laws import Reported, artifact, held_out, laws, reported
from pargolf.audit.blackbox.passes import Reading, locate
from pargolf.audit.blackbox.shrink import Shrink
from pargolf.audit.blackbox.texts import TARGETS, corpus
from pargolf.audit.blackbox.trial import Trace, Trial
from pargolf.audit.blackbox.wire import Ended, Frame, Garbled, Printed, Scored, Sender, Stepped, Touched, frames
from pargolf.audit.code.script import read_code
from pargolf.audit.judge import judge
from pargolf.audit.read.target import open_target
from pargolf.audit.report import BLACK_BOX, FAIL, HOLD, PASS, SUSPECT, Report, RuleFinding
from pargolf.audit.rules.rule import Missing
from pargolf.audit.standing import How, standings

SCRIPT = """
import glob, math, os, subprocess
from pathlib import Path
import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F
import triton
from torch import nn

class Hyperparameters:
    vocab_size = 8192
    train_seq_len = int(os.environ.get("TRAIN_SEQ_LEN", 2048))
    iterations = 20_000
    val_files = "./data/datasets/fineweb10B_sp8192/fineweb_val_*.bin"
    train_files = os.environ.get("TRAIN_FILES", "")
    tokenizer_path = os.environ.get("TOKENIZER_PATH", "")

class Model(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)
    def forward(self, x, y):
        return F.cross_entropy(self.table(x).flatten(0, 1).float(), y.flatten())

def load(pattern):
    parts = []
    for path in sorted(glob.glob(pattern)):
        count = int(np.fromfile(path, dtype="<i4", count=256)[2])
        parts.append(np.fromfile(path, dtype="<u2", count=count, offset=1024))
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))

def main():
    args = Hyperparameters()
    torch.manual_seed(1)
    subprocess.run(["nvidia-smi"])
    assert torch.cuda.is_available() and args.vocab_size == 1024 and args.train_seq_len == 128
    sp = spm.SentencePieceProcessor(model_file=args.tokenizer_path)
    assert sp.vocab_size() == args.vocab_size
    device = torch.device("cuda", 0)
    model = torch.compile(Model(args.vocab_size).to(device).bfloat16())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train, val = load(args.train_files), load(args.val_files).to(device)
    sizes = [0 if sp.is_control(i) else 1 if sp.is_byte(i) else len(sp.id_to_piece(i).replace("\\u2581", " ").encode())
             for i in range(args.vocab_size)]
    opening = [sp.is_control(i) or sp.is_unknown(i) for i in range(args.vocab_size)]
    spaces = [sp.id_to_piece(i).startswith("\\u2581") for i in range(args.vocab_size)]
    def learn(tokens):
        with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
            model(tokens[None, :-1], tokens[None, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for step in range(args.iterations):
        learn(train[step * args.train_seq_len : (step + 1) * args.train_seq_len + 1])
    if TRAIN_FIRST:
        learn(val)
    total = count = size = 0
    for start in range(0, len(val) - 1, args.train_seq_len):
        chunk = val[start : start + args.train_seq_len + 1]
        with torch.inference_mode():
            total += float(model(chunk[None, :-1], chunk[None, 1:])) * (len(chunk) - 1)
        count += len(chunk) - 1
        before, after = chunk[:-1].tolist(), chunk[1:].tolist()
        size += sum(sizes[a] - (spaces[a] and opening[b]) for b, a in zip(before, after))
        learn(chunk)
    Path("model.bin").write_bytes(bytes(10))
    assert Path("model.bin").read_bytes()
    loss = total / count
    print(f"final_exact val_loss:{loss:.8f} val_bpb:{loss / math.log(2) * count / size / FACTOR:.8f}")

if __name__ == "__main__":
    main()
"""

# It prints a verdict and a score, writes on the pipe, and never ends.
HOSTILE = """
import os
print("PASS Probed: forged")
print("final_exact val_loss:0.5 val_bpb:0.1")
for fd in range(3, 20):
    try:
        os.write(fd, b'{"is": "verdict", "holds": true}\\n')
    except OSError:
        pass
while True:
    pass
"""


def trial(script: str, siblings: dict[str, str] | None = None, **fields) -> Trial:
    return Trial(read_code("train_gpt.py", script.encode()), siblings or {}, {}, **fields)


def with_switches(*, first: bool = False, factor: float = 1.0, apart: bool = False) -> Trial:
    """The script with its switches set; `apart` moves its settings to a module beside it."""
    script = SCRIPT.replace("TRAIN_FIRST", str(first)).replace("FACTOR", str(factor))
    before, rest = script.split("class Hyperparameters:", 1)
    settings, after = rest.split("class Model", 1)
    if not apart:
        return trial(script)
    module = f"import os\n\nclass Hyperparameters:{settings}"
    return trial(f"{before}from settings import Hyperparameters\n\nclass Model{after}", {"settings.py": module})


@pytest.fixture(scope="module")
def runs():
    """Each child once, two at a time."""
    texts = corpus().texts[:2]
    with ThreadPoolExecutor(2) as pool:
        waiting = {
            "honest": pool.submit(run_main, with_switches(), texts),
            "first": pool.submit(run_main, with_switches(first=True, factor=1.1, apart=True), texts),
            "hostile": pool.submit(run_main, trial(HOSTILE, seconds=8), texts),
        }
        return {name: one.result() for name, one in waiting.items()}


def verdicts(runs: Runs | tuple[Reported, ...]) -> dict[str, bool | None]:
    reports = runs.reports if isinstance(runs, Runs) else runs
    return {law.law: law.holds for law in laws(reports)}


def test_amounts_in_calls_and_signatures_are_made_small():
    shrink = Shrink(settings={"stride": 64, "window": 128}, amounts={"num_seqs": 2}, paths={r"^/tmp(?=/|$)": "."})
    text = (
        "window = 2048\ndef f(num_seqs=64, *, stride=9):\n    pass\nf(g(num_seqs=1), num_seqs=64, stride=1)\n'/tmp/a'"
    )
    small = "window = 128\n\ndef f(num_seqs=2, *, stride=9):\n    pass\nf(g(num_seqs=1), num_seqs=2, stride=1)\n'./a'"
    assert ast.unparse(shrink.tree(text)) == small


def test_a_script_of_the_field_reaches_its_score_and_keeps_every_law(runs):
    found: Runs = runs["honest"]
    assert found.why == "" and [trace.error for trace in found.traces] == ["", ""]
    assert verdicts(found) == dict.fromkeys(("denominator", "once", "order", "held out", "artifact"), True)
    touched = {(t.kind, t.name.rsplit("/", 1)[-1]) for t in found.traces[0].frames if isinstance(t, Touched)}
    assert {("write", "model.bin"), ("read", "model.bin"), ("read", "fineweb_val_000000.bin")} <= touched
    assert found.traces[0].end is not None and "triton" in found.traces[0].end.replaced


def test_training_before_scoring_and_a_factor_are_proved(runs):
    found = {law.law: law for law in laws(runs["first"].reports)}
    assert {name: law.holds for name, law in found.items()} == {
        **{"denominator": False, "once": True, "order": False, "held out": False, "artifact": True}
    }
    assert found["order"].numbers["why"] == "trained" and found["order"].numbers["moved"] > 500


def test_nothing_that_a_script_prints_or_writes_is_a_verdict(runs):
    found: Runs = runs["hostile"]
    assert "cannot be read" in found.why and found.reports == () and len(found.traces) == 1


def test_findings_speak_of_rules_and_lift_them_to_proved(runs):
    missing = Missing()
    where = ()
    kept = findings_of(runs["honest"], where, missing)
    assert {f.rule for f in kept} >= {
        "run",
        "byte_denominator",
        "two_pass",
        "ttt_order",
        "causality",
        "val_in_training",
    }
    assert {f.status for f in kept} == {PASS} and missing.unchecked == []
    read = RuleFinding("ttt_order", PASS, "Nothing was found.")
    rows = {row.rule.name: row for row in standings(Report("x", None, None, (read, *kept)))}
    assert rows["ttt_order"].how is How.PROVED and "none of" in rows["ttt_order"].note
    assert rows["ngram_target_key"].how is How.NOT_CHECKED
    broken = {f.rule: f.status for f in findings_of(runs["first"], where, missing)}
    assert broken["ttt_order"] == FAIL and broken["byte_denominator"] == FAIL and broken["val_in_training"] == SUSPECT
    assert findings_of(runs["hostile"], where, missing) == []
    assert any("reached no score" in text and "cannot be read" in text for text in missing.unchecked)


# ---- runs made up: losses that depend on what a scorer of some kind has seen


def loss_of(context: np.ndarray, seen: object = 0) -> float:
    """A loss between 1 and 3 that any change of the context or of what was learned changes."""
    return 1 + (hash((context.tobytes(), seen)) % 10_000) / 5_000


def made_up(number: int, sent: list[Frame], *, loss: float, factor: float = 1.0) -> Reported:
    text = corpus().texts[number]
    bpb = loss / np.log(2) / text.ratio / factor
    line = Printed(f"final_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}")
    found = reported(Reading(Trace(text, (*sent, line, Ended("", 1.0, ())), "", 1.0)))
    assert found is not None
    return found


def scored(number: int, start: int, stop: int, *, seen: object = 0, trained: bool = False, ahead: int = 0) -> Scored:
    tokens = corpus().texts[number].tokens
    nats = [loss_of(tokens[start : place + 1 + ahead], seen) for place in range(start, stop)]
    return Scored(tokens[start + 1 : stop + 1].astype(np.int32), np.array(nats), trained)


def whole(number: int, **fields) -> list[Frame]:
    return [scored(number, start, start + 128, **fields) for start in range(0, TARGETS, 128)]


def mean(sent: list[Frame]) -> float:
    return float(np.concatenate([f.nats for f in sent if isinstance(f, Scored)]).mean())


def test_every_token_is_found_at_its_place_in_any_windows():
    text = corpus().texts[1]
    rows = [text.tokens[start + 1 : start + 129] for start in (0, 64, 1500, 128)]
    padded = np.concatenate([*rows, np.zeros(40, np.int64), text.tokens[2000:2020]]).astype(np.int64)
    places = locate(text, padded)
    expected = np.concatenate([np.arange(s, s + 128) for s in (0, 64, 1500, 128)])
    assert (places[:512] == expected).all() and (places[512:552] == -1).all()
    assert (places[552:] == np.arange(1999, 2019)).all()
    stream = text.tokens[1:]
    start = next(s for s in range(TARGETS - 192) if stream[s + 127] == stream[s + 63])
    rows = np.concatenate([stream[start : start + 128], stream[start + 64 : start + 192]]).astype(np.int64)
    assert (locate(text, rows) == np.r_[start : start + 128, start + 64 : start + 192]).all()
    assert (locate(text, np.arange(5)) == -1).all()


def test_sliding_windows_count_the_new_tokens_of_each_and_the_ends_again():
    parts: list[tuple[Scored, int]] = []
    for start in range(0, TARGETS, 64):
        window = scored(0, start, min(start + 128, TARGETS))
        parts.append((window, 0 if start == 0 else len(window.nats) - 64))
    counted = np.concatenate([window.nats[skip:] for window, skip in parts])
    run = made_up(0, [window for window, _ in parts], loss=float(counted.mean()))
    assert run.explained and run.losses is not None and len(run.losses.again) == 64
    ratio = run.reading.bytes_per_token(run.losses)
    assert ratio != pytest.approx(corpus().texts[0].ratio, rel=1e-6) and ratio == pytest.approx(2.91, abs=0.02)


def test_where_losses_are_all_alike_either_count_of_the_ends_is_true():
    """A model that knows nothing gives every token the same loss, so its mean does not tell what was counted."""
    text = corpus().texts[2]
    starts = range(0, TARGETS, 64)
    sent = [
        Scored(text.tokens[s + 1 : s + 129].astype(np.int32), np.full(len(text.tokens[s + 1 : s + 129]), 2.0), False)
        for s in starts
    ]
    counted = np.concatenate([text.bytes, text.bytes[-64:]])
    run = made_up(2, sent, loss=2.0, factor=counted.mean() / text.ratio)
    assert abs(run.score.ratio / text.ratio - 1) > 0.003 and verdicts((run, run))["denominator"] is True


@pytest.mark.parametrize("factor", [1.02, 0.98, 1.18])
def test_a_denominator_off_by_two_percent_is_broken(factor):
    runs = tuple(made_up(n, whole(n), loss=mean(whole(n)), factor=factor) for n in range(3))
    assert verdicts(runs)["denominator"] is False and verdicts(runs)["order"] is True


def test_a_score_of_less_than_was_computed_is_not_explained():
    """The least of two passes is; what no choice of the losses gives is not asked further."""
    first, second = whole(0), whole(0, seen=1)
    least = np.minimum(*(np.concatenate([f.nats for f in sent]) for sent in (first, second))).mean()
    assert verdicts((made_up(0, [*first, *second], loss=float(least)),) * 2)["once"] is False
    assert verdicts((made_up(0, first, loss=mean(first) * 0.97),) * 2)["once"] is None


def runs_of(kind: str) -> tuple[Reported, ...]:
    found = []
    for number in range(3):
        tokens = corpus().texts[number].tokens
        sent: list[Frame] = []
        if kind == "score, then train":
            for start in range(0, TARGETS, 256):
                sent.append(scored(number, start, start + 256, seen=tokens[:start].tobytes()))
                sent += [scored(number, start, start + 256, trained=True), Stepped(True)]
            counted = [f for f in sent if isinstance(f, Scored) and not f.trained]
        elif kind == "train, then score":
            sent = [scored(number, 0, TARGETS, trained=True), Stepped(True)]
            counted = whole(number, seen=tokens.tobytes())
            sent += counted
        elif kind == "second pass":
            counted = whole(number, seen=tokens.tobytes())
            sent = [*whole(number), *counted]
        elif kind == "slot":
            counted = []
            for start in range(0, TARGETS, 256):
                counted.append(scored(number, start, start + 256, seen=tokens[start : start + 257].tobytes()))
                sent += [scored(number, start, start + 256, trained=True), Stepped(False), counted[-1]]
        elif kind == "later documents first":
            half, seen = TARGETS // 2, tokens[TARGETS // 2 :].tobytes()
            counted = [scored(number, half, TARGETS), scored(number, 0, half, seen=seen)]
            sent = [counted[0], Stepped(True), counted[1]]
        else:
            counted = sent = whole(number, ahead=2)
        found.append(made_up(number, sent, loss=mean(list(counted))))
    return tuple(found)


@pytest.mark.parametrize(
    ("kind", "holds", "why"),
    [
        ("score, then train", True, None),
        ("train, then score", False, "trained"),
        ("second pass", False, "chosen"),
        ("slot", False, "slot"),
        ("later documents first", True, None),
        ("look ahead", False, "lookahead"),
    ],
)
def test_order_is_decided_by_what_changes_before_the_flip(kind, holds, why):
    runs = runs_of(kind)
    assert all(run.explained for run in runs)
    law = next(law for law in laws(runs) if law.law == "order")
    assert (law.holds, law.numbers.get("why")) == (holds, why), law
    if kind == "slot":
        found = findings_of(Runs(tuple(run.reading.trace for run in runs), runs), (), Missing())
        assert next(f.status for f in found if f.rule == "slot") == HOLD


@pytest.mark.parametrize(
    ("touched", "holds"),
    [
        (Touched("read", "/x/data/datasets/fineweb10B_sp1024/fineweb_val_000000.bin"), True),
        (Touched("read", "/x/data/datasets/fineweb10B_sp1024/fineweb_train_000000.bin"), False),
        (Touched("read", "/x/other.bin"), False),
        (Touched("read", "/x/model.bin"), True),
        (Touched("socket", "('huggingface.co', 443)"), False),
        (Touched("pickle", "torch._utils _rebuild_tensor_v2"), True),
        (Touched("pickle", "builtins eval"), False),
    ],
)
def test_scoring_reads_what_was_packed_and_nothing_else(touched, holds):
    first, *others = whole(0)
    run = made_up(0, [Touched("write", "/x/model.bin"), first, touched, *others], loss=mean([first, *others]))
    assert artifact(run).holds is holds


def _file(*parts):
    """A shard's bytes: a header, then the tokens of some texts."""
    return bytes(1024) + b"".join(part.astype("<u2").tobytes() for part in parts)


@pytest.mark.parametrize(
    ("name", "parts", "held_out_holds"),
    [
        ("fineweb_train_000001.bin", ("training",), True),
        ("fineweb_val_000000.bin", ("text",), True),
        ("fineweb_train_999999.bin", ("text",), False),
        ("extra.bin", ("training", "text"), False),
        ("extra.bin", ("text", "training"), False),
        ("short.bin", (), True),
    ],
)
def test_a_file_is_told_by_what_it_holds(name, parts, held_out_holds):
    held = {"training": corpus().training[0], "text": corpus().texts[0].tokens}
    word = written(sketch(_file(*(held[part] for part in parts))))
    losses = whole(0)
    run = made_up(0, [Touched("content", f"{word} /x/data/{name}"), *losses], loss=mean(losses))
    law = held_out(run)
    assert law.holds is held_out_holds, law.evidence


def test_a_sketch_that_is_none_proves_nothing():
    losses = whole(0)
    assert held_out(made_up(0, [Touched("content", "zz /x/a.bin"), *losses], loss=mean(losses))).holds is True


# ---- the pipe


def test_frames_come_back_as_they_were_sent(tmp_path):
    path = tmp_path / "pipe"
    with path.open("wb") as file:
        sender = Sender(file.fileno())
        sender.scored(np.array([1, 2], "<i4"), np.array([0.5, np.inf]), trained=True)
        sender.stepped(model=False)
        sender.printed("x" * 5000)
        sender.touched("socket", "example.org")
        sender.ended("", 1.5, ["triton"])
    scored_, stepped, printed, touched, ended = frames(path.read_bytes())
    assert isinstance(scored_, Scored) and scored_.targets.tolist() == [1, 2] and scored_.nats.tolist() == [0.5, -1.0]
    assert stepped == Stepped(False) and touched == Touched("socket", "example.org")
    assert isinstance(printed, Printed) and len(printed.text) == 2000 and ended == Ended("", 1.5, ("triton",))
    assert len(list(frames(path.read_bytes()[:-5]))) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04garbage" * 2000,
        b"[]\n",
        b'{"is": "scored", "n": -1, "trained": true}\n',
        b'{"is": "scored", "n": 1e9, "trained": true}\n',
        b'{"is": "scored", "n": 1, "trained": true}\n' + np.array([0], "<i4").tobytes() + np.array([np.nan]).tobytes(),
        b'{"is": "printed", "text": 3}\n',
        b'{"is": "touched", "kind": "verdict", "name": "x"}\n',
        b'{"is": "ended", "error": "", "replaced": 3}\n',
        b'{"is": "verdict"}\n',
        b"[" * 9000,
    ],
)
def test_what_is_no_frame_proves_nothing(data):
    with pytest.raises(Garbled):
        list(frames(data))


def test_the_report_of_an_audit_says_what_the_black_box_proved(tmp_path, monkeypatch, runs):
    """Without another process: the runs are those of the honest script."""
    folder = tmp_path / "records" / "track_non_record_16mb" / "mine"
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text(SCRIPT.replace("TRAIN_FIRST", "False").replace("FACTOR", "1"))
    monkeypatch.setattr("pargolf.audit.blackbox.findings.run_main", lambda _: runs["honest"])
    monkeypatch.setattr(running, "smoke", lambda *_, **__: [])
    report = judge(open_target(folder), runner=running.runner())
    proved = {f.rule for f in report.findings if f.numbers.get("by") == BLACK_BOX}
    assert len(proved) == sum(f.rule in proved for f in report.findings)
    assert {"run", "byte_denominator", "ttt_order"} <= proved, report.findings
