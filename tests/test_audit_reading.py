"""What the auditor reads: syntax of every Python, packed scripts, bombs, logs of any kind; and code rules on them."""

import ast
import base64
import bz2
import json
import lzma
import random
import time
import zlib
from pathlib import Path

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from submissions import CACHE, LEGAL, RATIO, log_text, record, status
from typer.testing import CliRunner

from pargolf.audit.code.newer_syntax import rewrite
from pargolf.audit.code.program import Program
from pargolf.audit.code.script import read_code, text_of
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.judge import audit
from pargolf.audit.read.logs import read_log
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE
from pargolf.cli import app

# ---- reading


@pytest.mark.parametrize(
    "source",
    [
        'x = f"{d["a"]}" + f"{x!r:>{w}} {a != b} {{}}" "tail"\n',
        'print("a" f"{x=}" f"b{"c" if y else f"{z["k"]}"}")\n',
        'if f"""a\n{b}\n""": pass\ny = 1\n',
        "def f[T](x: T) -> T:\n    return rf'\\d{x}'\n",
        "type A = list[int]\nx = f'{x:%Y-%m}' if f'{(lambda q: q)(1)}' else 'b'\n",
        'log(f"{"\\n".join(a)}"\n    "b" f"{c}")\nd = 1\n',
        "if'tok'in name or 1 if x else'y':pass\n",
    ],
)
def test_newer_syntax_is_rewritten_line_for_line(source):
    tree = ast.parse(rewrite(source))
    assert rewrite(source).count("\n") == source.count("\n")
    assert tree.body[-1].lineno <= source.count("\n")


@pytest.mark.parametrize(
    "source",
    [
        r"""f"{d['a']:.3f} b {{x}} {name!r:>{w}} {w=} {d['b']}\n\t'q'" """,
        "f'a \"quoted\" {name}'",
        'f"""l1\nl2 {w}\n"""',
        'f"a{w}" "plain {x}" f"{name}"',
        r'rf"\d{w}\{name}"',
        r'f"\N{BULLET} {w:,} {w:>+5d} c:\\x"',
        'f"{w!s}{ {1:2}[1] }{w:{w}.{2}f}{[w == 8]}"',
        "f'{w = }{(lambda x: x)(3)}100%{{}}{w!=8}'",
    ],
)
def test_a_rewritten_string_has_the_value_it_had(source):
    names = {"d": {"a": 1.5, "b": 'x"y'}, "w": 8, "name": "logs"}
    assert eval(rewrite(source.strip()), dict(names)) == eval(source.strip(), dict(names))
    nested = rewrite('f"{d["a"]} {"".join(f"{i}" for i in [w])}"')
    assert eval(nested, dict(names)) == "1.5 8"


def test_what_no_python_parses_fails_and_names_the_line(tmp_path):
    report = audit(record(tmp_path, script="val_bpb = 1\nx = f\"{5 if c == 'm' else '6}\"\n"))
    finding = next(f for f in report.findings if f.rule == "syntax")
    assert finding.status == FAIL and finding.evidence[0].line == 2


def test_a_byte_order_mark_is_python(tmp_path):
    report = audit(record(tmp_path, script=b"\xef\xbb\xbf" + CACHE.replace("DEFAULT", "7").encode()))
    assert status(report, "syntax") == {PASS}
    assert SUSPECT in status(report, "ngram_target_key")


def packers():
    raw = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
    return {
        "lzma b85": lambda b: base64.b85encode(lzma.compress(b)),
        "raw lzma2 b85": lambda b: base64.b85encode(lzma.compress(b, lzma.FORMAT_RAW, filters=raw)),
        "zlib b64": lambda b: base64.b64encode(zlib.compress(b)),
        "twice": lambda b: base64.b85encode(
            lzma.compress(
                b"import zlib,base64;exec(zlib.decompress(base64.b64decode('"
                + base64.b64encode(zlib.compress(b))
                + b"')))"
            )
        ),
    }


@pytest.mark.parametrize("how", list(packers()))
def test_a_packed_script_is_judged_by_what_is_inside(tmp_path, how):
    inner = CACHE.replace("DEFAULT", "7").encode() * 1
    packed = b"import lzma as L,base64 as B\nexec(L.decompress(B.b85decode('" + packers()[how](inner) + b"')))\n"
    report = audit(record(tmp_path, script=packed))
    assert SUSPECT in status(report, "ngram_target_key")
    assert read_code("a.py", packed).size == len(packed)


def test_a_bomb_in_a_string_is_left_alone(tmp_path):
    bomb = base64.b85encode(zlib.compress(b"import os\ndef f(): pass\n" + b"#" * 20_000_000))
    report = audit(
        record(tmp_path, script=b"import zlib,base64\nexec(zlib.decompress(base64.b85decode('" + bomb + b"')))")
    )
    assert status(report, "syntax") == {UNVERIFIABLE}
    assert report.verdict in (UNVERIFIABLE, FAIL)


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"\xff\xfe\x00", bytes(range(256)) * 9, b"(" * 5000, b"# -*- coding: nonsense -*-\n"]
)
def test_damaged_files_end_as_findings(tmp_path, data):
    names = {"json": data, "script": data, "readme": data, "train_seed1.log": data}
    report = audit(record(tmp_path, **names))
    assert report.findings and report.verdict != PASS


@pytest.mark.parametrize(
    "data",
    [
        b'{"val_bpb": 1.2,}',
        b"[" * 100_000,
        b"[1, 2]",
        b'{"val_bpb": 1e999, "bytes_total": NaN, "seeds": {"1": Infinity}}',
        b'{"val_bpb": ' + b"9" * 5000 + b"}",
        b'{"val_bpb": {"a": [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}}',
        b'{"val_bpb": "\xff\xfe"}',
    ],
)
def test_json_that_does_not_parse_is_a_finding(tmp_path, data):
    report = audit(record(tmp_path, json=data))
    assert report.verdict != PASS
    assert not any("check failed" in text for text in report.unchecked), report.unchecked


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-16-le"])
def test_texts_in_any_encoding_are_read(tmp_path, encoding):
    readme = "# Caf\u00e9\n\n| seed | val_bpb | bytes |\n|---|---|---|\n| 7 | 1.2 | 17,000,000 |\n".encode(encoding)
    fields = json.dumps({"val_bpb": 1.2, "name": "Caf\u00e9"}, ensure_ascii=False).encode(encoding)
    report = audit(record(tmp_path, readme=readme, json=fields))
    assert status(report, "size_cap") == {FAIL}
    assert not any("does not parse" in f.summary for f in report.findings)


def test_a_script_in_another_encoding_says_so(tmp_path):
    named = "# -*- coding: latin-1 -*-\nname = 'caf\u00e9'\nval_bpb = 1\n".encode("latin-1")
    assert status(audit(record(tmp_path, script=named)), "syntax") == {PASS}
    unnamed = named.partition(b"\n")[2]
    assert status(audit(record(tmp_path / "b", script=unnamed)), "syntax") == {FAIL}


def bombs():
    zeros = bytes(7_000_000)
    head = b"import os\ndef f(): pass\n#"
    twice = lzma.compress(lzma.compress(head + zeros))
    return {
        "lzma": lzma.compress(head + zeros),
        "bz2": bz2.compress(head + zeros),
        "brotli": brotli.compress(zeros),
        "twice": twice,
    }


def test_bombs_of_every_kind_are_left_alone(tmp_path):
    for name, data in bombs().items():
        script = b"import base64\nexec(unpack(base64.b85decode('" + base64.b85encode(data).ljust(500, b"0") + b"')))\n"
        code = read_code("train_gpt.py", script)
        assert len(code.text) < 100_000, name


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_reading_never_raises(data):
    read_code("x.py", data)
    read_log("x.log", text_of(data))
    text_of(data)


def test_a_script_of_two_hundred_megabytes_is_a_finding(tmp_path):
    folder = record(tmp_path)
    with (folder / "train_gpt.py").open("wb") as file:
        file.truncate(200_000_000)
    report = audit(folder)
    assert UNVERIFIABLE in status(report, "syntax")
    assert any("could not be read" in text for text in report.unchecked)


def test_logs_in_other_encodings_are_read(tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        assert read_log("x", text_of(log_text().encode(encoding))).final.bpb == 1.2


def test_source_echoed_into_a_log_is_not_a_result():
    echoed = 'log0(f"final_int8_zlib_roundtrip_exact val_loss:{q:.8f} val_bpb:{b:.8f}")\n'
    assert read_log("x", echoed).final is None
    assert read_log("x", "[rank0]: 2026-01-01 10:00:00 final_x_exact val_loss:2.0 val_bpb:1.1\n").final.bpb == 1.1


# ---- code rules


def code_status(tmp_path: Path, source: str, rule: str, **files: object) -> set[str]:
    return status(audit(record(tmp_path, script=source, **files)), rule)


def test_score_first_adaptation_is_legal(tmp_path):
    assert code_status(tmp_path, LEGAL, "ttt_order") == {PASS}


def test_train_then_score_is_suspect_although_it_sums_a_loss(tmp_path):
    source = LEGAL.replace('"PREQUANT", "0"', '"PREQUANT", "1"')
    report = audit(record(tmp_path, script=source))
    finding = next(f for f in report.findings if f.rule == "ttt_order")
    assert finding.status == SUSPECT and "Probe" in finding.summary
    assert finding.evidence[0].text == "loss.backward()" and "`adapt`" in finding.summary


def test_a_switch_that_is_off_is_latent_and_named(tmp_path):
    report = audit(record(tmp_path))
    finding = next(f for f in report.findings if f.rule == "latent")
    assert finding.status == PASS and "PREQUANT" in finding.summary


def test_the_run_command_turns_a_switch_on(tmp_path):
    readme = "# x\n\n```bash\nPREQUANT=1 torchrun train_gpt.py\n```\n"
    assert code_status(tmp_path, LEGAL, "ttt_order", readme=readme) == {SUSPECT}


def test_the_last_rounds_score_is_not_score_first(tmp_path):
    source = LEGAL.replace(
        "    for start in range(0, tokens.numel(), 1024):\n        chunk",
        "    for again in range(4):\n     total = torch.zeros(())\n"
        "     for start in range(0, tokens.numel(), 1024):\n        chunk",
        1,
    )
    assert code_status(tmp_path, source, "ttt_order") == {SUSPECT}


def test_tensors_of_its_own_are_slot_and_held(tmp_path):
    source = LEGAL.replace("    opt = torch.optim.AdamW(model.parameters(), lr=0.1)\n", "").replace(
        "        for start in range(0, tokens.numel(), 1024):\n            x = ",
        "        for start in range(0, tokens.numel(), 1024):\n"
        "            delta = torch.zeros(1, 512, requires_grad=True)\n"
        "            opt = torch.optim.AdamW([delta], lr=0.1)\n            x = ",
    )
    source = source.replace('"PREQUANT", "0"', '"PREQUANT", "1"')
    assert code_status(tmp_path, source, "slot") == {HOLD}
    assert SUSPECT not in code_status(tmp_path, source, "ttt_order")


def test_a_cache_keyed_by_the_scored_token_is_suspect(tmp_path):
    assert SUSPECT in code_status(tmp_path, CACHE.replace("DEFAULT", "7"), "ngram_target_key")


def test_the_same_cache_unreachable_is_not(tmp_path):
    assert code_status(tmp_path, CACHE.replace("DEFAULT", "0"), "ngram_target_key") == {PASS}


def test_a_cache_that_wakes_on_eight_processes_is_latent(tmp_path):
    source = CACHE.replace('int(os.environ.get("CACHE_ORDER", "DEFAULT"))', "order").replace(
        "def main():\n", 'def main():\n    order = 7 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0\n'
    )
    logs = {f"train_seed{s}.log": log_text(bpb=1.2 + s * 1e-4, seed=s, ranks=1) for s in (1, 2, 3)}
    report = audit(record(tmp_path, script=source, **logs))
    assert status(report, "latent") == {SUSPECT}
    assert SUSPECT not in status(report, "ngram_target_key")


def test_input_hash_embeddings_are_legal(tmp_path):
    source = LEGAL.replace(
        "        total += nll.sum()",
        "        h = (chunk[1:] * 36313 ^ chunk[:-1] * 27191) % 1024\n        e = table[h] / scale[h]\n"
        "        total += nll.sum() + 0 * e.sum()",
    )
    assert code_status(tmp_path, source, "ngram_target_key") == {PASS}


def test_values_follow_defaults_helpers_and_calls():
    source = (
        "import os\n"
        "def flag(name, default=False):\n"
        "    v = os.environ.get(name)\n"
        "    if v is None:\n"
        "        return default\n"
        "    return v.lower() in ('1', 'true')\n"
        "class H:\n    a = flag('A', True)\n    b = int(os.environ.get('B', 3)) > 2\n"
        "def f(args, on):\n    if on and args.b:\n        yes()\n    else:\n        no()\n"
        "def yes(): pass\ndef no(): pass\n"
        "f(H(), H.a)\n"
    )
    for env, live in (({}, {"yes"}), ({"A": "0"}, {"no"}), ({"B": "1"}, {"no"})):
        program = Program(ast.parse(source), env)
        assert {f.name for f in program.functions if f.live and f.name in ("yes", "no")} == live
    program = Program(ast.parse("x = unknown()\nif x: y = 1\n"), {})
    assert program.value(ast.parse("x", mode="eval").body, program.module) is UNKNOWN


def test_counts_complete_before_they_are_read_are_two_passes(tmp_path):
    one_pass = CACHE.replace("DEFAULT", "7")
    assert code_status(tmp_path, one_pass, "two_pass") == {PASS}
    filled = one_pass.replace(
        "    total = 0.0\n", "    cache.add(t, np.arange(3, len(t) - 1), 0)\n    total = 0.0\n", 1
    ).replace("        cache.add(t, at, 0)\n", "")
    assert code_status(tmp_path / "b", filled, "two_pass") == {SUSPECT}


def test_counts_filled_up_to_where_scoring_begins_are_one_pass(tmp_path):
    """Each process fills its cache with what stands before its own stretch (#796): the prefix, and nothing else."""
    split = CACHE.replace("DEFAULT", "7").replace(
        "    for start in range(0, len(t), 512):\n",
        "    starts = list(range(0, len(t), 512))\n"
        "    mine = starts[first():]\n"
        "    until = mine[0]\n"
        "    for at in range(3, until):\n"
        "        cache.add(t, np.arange(at, at + 1), 0)\n"
        "    for start in mine:\n",
    )
    assert code_status(tmp_path, split, "two_pass") == {PASS}
    whole = split.replace("range(3, until)", "range(3, len(t) - 1)")
    assert code_status(tmp_path / "b", whole, "two_pass") == {SUSPECT}


# ---- nothing to judge, too much to read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n   \n", "is empty"),
        ("# a comment\n", "neither trains nor scores"),
        ("print('hello world')\n", "neither trains nor scores"),
        ("import torch\nval_bpb = 1.0\nprint('val_bpb', val_bpb)\n", "neither trains nor scores"),
        ("from pargolf.recipes.house import RECIPE\nRECIPE = RECIPE\n", "is a recipe"),
    ],
)
def test_a_script_that_does_nothing_is_not_passed(tmp_path, text, said):
    (tmp_path / "train_gpt.py").write_text(text)
    report = audit(tmp_path / "train_gpt.py")
    assert report.verdict == UNVERIFIABLE
    assert any("nothing to judge" in f.summary and said in f.summary for f in report.findings)
    assert CliRunner().invoke(app, ["audit", str(tmp_path / "train_gpt.py")]).exit_code == 2


def test_a_folder_whose_script_does_nothing_is_not_passed(tmp_path):
    report = audit(record(tmp_path, script="print('hello')\n"))
    assert report.verdict == UNVERIFIABLE and status(report, "package") == {UNVERIFIABLE}


def test_a_file_that_is_no_script_is_not_passed(tmp_path):
    (tmp_path / "notes.txt").write_text("val_bpb: 1.0\n")
    report = audit(tmp_path / "notes.txt")
    assert report.verdict == UNVERIFIABLE and "no script" in report.findings[0].summary


@pytest.mark.parametrize(
    "text",
    [
        "a=1\n" * 1_000_000,
        "a;" * 400_000 + "\n",
        "(" * 3_000_000,
        "f(a, b)\n" * 30_000,
        "x = '" + "\\'" * 500_000,
        "'''\\" * 200_000,
    ],
)
def test_a_script_without_end_is_bounded_and_says_so(tmp_path, text):
    (tmp_path / "train_gpt.py").write_text(text)
    began = time.process_time()
    report = audit(tmp_path / "train_gpt.py")
    assert time.process_time() - began < 20
    assert report.verdict in (UNVERIFIABLE, FAIL)
    said = next(f for f in report.findings if f.rule == "syntax")
    assert said.status == FAIL or "than is read" in said.summary


def test_long_strings_and_comments_are_no_code(tmp_path):
    """What a packed script holds in literals does not count toward the bound."""
    code = LEGAL + f"\nTABLE = '{'q' * 2_000_000}'\n# {'x' * 1_000_000}\n"
    report = audit(record(tmp_path, script=code))
    assert status(report, "syntax") == {PASS} and status(report, "ttt_order") == {PASS}


# ---- logs in JSON


def _records() -> list[dict[str, object]]:
    rows = [(500, 1.5), (1000, 1.4), (1500, 1.3)]
    steps = [{"step": s, "steps": 2000, "val_loss": RATIO * b, "val_bpb": b, "train_time_ms": 300 * s} for s, b in rows]
    sizes = {"bytes_total": 15_900_000, "code_bytes": 50_000, "world_size": 8, "seed": 7}
    return [*steps, {"event": "final", "val_loss": round(RATIO * 1.2, 8), "val_bpb": 1.2, **sizes}]


LOGS = {
    "a string": lambda: json.dumps(log_text()),
    "a field": lambda: json.dumps({"log": log_text()}, indent=2),
    "a notebook": lambda: json.dumps({"cells": [{"outputs": [{"text": log_text().splitlines(keepends=True)}]}]}),
    "a stream": lambda: json.dumps([{"stream_name": "stdout", "data": x + "\n"} for x in log_text().splitlines()]),
    "strings": lambda: "\n".join(json.dumps(x) for x in log_text().splitlines()),
    "messages": lambda: "\n".join(json.dumps({"level": "INFO", "message": x}) for x in log_text().splitlines()),
    "records": lambda: "\n".join(map(json.dumps, _records())),
    "records of Python": lambda: "\n".join(map(repr, _records())),
    "one document": lambda: json.dumps(_records(), indent=2),
    "records among lines": lambda: "starting\n" + "\n".join(map(json.dumps, _records())) + "\ndone\n",
}


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_in_json_is_read(kind):
    log = read_log("train.log", LOGS[kind]())
    assert log.final is not None and log.final.bpb == pytest.approx(1.2)
    assert log.final.loss == pytest.approx(1.2 * RATIO, rel=1e-6)
    assert [row.bpb for row in log.rows] == [1.5, 1.4, 1.3]
    assert log.total_bytes is not None and log.total_bytes.value == 15_900_000
    assert log.seeds and log.world_size == 8


@pytest.mark.parametrize("name", ["train.jsonl", "train_log.json"])
def test_a_submission_whose_log_is_json_has_a_log(tmp_path, name):
    others = {f"train_seed{s}.log": None for s in (1, 2, 3)}
    folder = record(tmp_path, **others, **{name: "\n".join(map(json.dumps, _records()))}, json={"val_bpb": 1.2})
    assert status(audit(folder), "package") == {PASS}


@pytest.mark.parametrize(
    "line", ["    val_bpb = 1.2345", "val_bpb: 1.2345", "\tval_loss = 2.1 val_bpb = 1.2345", "final  val_bpb=1.2345"]
)
def test_a_score_is_read_however_it_is_set(line):
    log = read_log("x.log", f"results\n{line}\n")
    assert log.final is not None and log.final.bpb == 1.2345


def any_json(rng: random.Random, depth: int = 0):
    """Any value of JSON; names and texts are of the kinds that logs have."""
    if depth < 4 and rng.random() < 0.6:
        parts = [any_json(rng, depth + 1) for _ in range(rng.randrange(4))]
        return parts if rng.random() < 0.5 else dict(zip(("step", "val_bpb", "log", "rows", "val_loss"), parts))
    return rng.choice([None, True, 3, -1.5, 1e400, "", "step:5/9 val_loss:2.0 val_bpb:1.1", "x: 3\ny", [], {}])


@pytest.mark.parametrize("seed", range(60))
def test_any_json_is_read_as_a_log(seed):
    value = any_json(random.Random(seed))
    read_log("x.log", json.dumps(value))
    read_log("x.jsonl", f"{json.dumps(value)}\n{json.dumps([value, 7])}\n")


def test_another_s_score_in_a_record_is_no_score():
    log = read_log("x.log", json.dumps({"baseline": {"val_bpb": 1.1, "val_loss": 2.0}, "target_val_bpb": 1.0}))
    assert log.final is None
    assert read_log("x.log", "baseline val_bpb: 1.2\n").final is None


def test_the_end_of_a_long_log_is_read_and_the_middle_is_named():
    log = read_log("x.log", "step:1/9 train_loss:3.0\n" * 5000 + "final val_loss:2.0 val_bpb:1.2\n", most_lines=1000)
    assert log.final is not None and log.skipped == 4001


# ---- numbers that are none


ODD = ("x", "", True, [], {}, 10**400, -(10**400), float("inf"), float("nan"), "1e999", "9" * 5000, "²", {"a": [[1]]})


@pytest.mark.parametrize("odd", ODD, ids=[str(odd)[:12] for odd in ODD])
def test_an_odd_number_in_submission_json_ends_as_a_finding(tmp_path, odd):
    folder = record(tmp_path)
    sound = json.loads((folder / "submission.json").read_text())
    for place in ("val_bpb", "val_loss", "bytes_total", "vocab_size", "train_seconds", "seed_results", "name"):
        (folder / "submission.json").write_text(json.dumps({**sound, place: odd}))
        report = audit(folder)
        assert not [text for text in report.unchecked if "the check failed" in text], place
        if place == "val_bpb" and not isinstance(odd, (list, dict)):
            said = [f.summary for f in report.findings if f.rule == "package" and f.status == UNVERIFIABLE]
            assert any("submission.json" in text and "val_bpb" in text for text in said), said


@pytest.mark.parametrize(
    "text", ['{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000, '{"val_bpb": ' + "9" * 10_000 + "}"]
)
def test_a_submission_json_without_end_ends_as_a_finding(tmp_path, text):
    folder = record(tmp_path)
    (folder / "submission.json").write_text(text)
    assert audit(folder).verdict == FAIL


@pytest.mark.parametrize("odd", ["9" * 230, "²", "١", "-1", "nan", "1.2.3", ",,,", "\x00", "\u2028"])
def test_an_odd_number_in_a_log_ends_as_a_finding(tmp_path, odd):
    text = log_text()
    folder = record(tmp_path)
    for number in ("62021632", "15900000", "599900", "1.20000000", ":8 ", "seed:1"):
        (folder / "train_seed1.log").write_text(text.replace(number, f"{number[:1] if number[0] == ':' else ''}{odd} "))
        assert not [text for text in audit(folder).unchecked if "the check failed" in text], number
