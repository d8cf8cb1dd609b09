"""The auditor on whole targets: verdicts, where submissions come from, every head of a repository, pages."""

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from submissions import CACHE, LEGAL, TRACK, log_text, only_log, record, status, write
from typer.testing import CliRunner

import pargolf.audit as audit_folder
from pargolf.audit.batch import Judged, Range, audit_all, read_reports
from pargolf.audit.judge import audit
from pargolf.audit.read import validation_sets as known
from pargolf.audit.read.repository import Repository
from pargolf.audit.report import HOLD, ORDER, PASS, SUSPECT, UNVERIFIABLE, Report
from pargolf.audit.rules.table import RULES
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.engines.processes import Processes
from pargolf.report.pages.audits import write_site
from pargolf.report.text.audits import report_text

# ---- the whole


def test_a_complete_submission_passes_and_names_what_was_not_checked(tmp_path):
    report = audit(record(tmp_path))
    assert report.verdict == PASS, [(f.rule, f.summary) for f in report.findings if f.status != PASS]
    assert report.track == "10min_16mb"
    assert any(text.startswith("significance") for text in report.unchecked)
    said = {f.rule for f in report.findings} | {text.partition(":")[0] for text in report.unchecked}
    asked = {rule.name for rule in RULES if rule.facts is not None or rule.code is not None or rule.reads_code}
    assert asked <= said | {"outside_folder", "significance"}


def test_json_has_the_documented_shape(tmp_path):
    held = json.loads(json.dumps(audit(record(tmp_path)).to_json()))
    assert list(held) == ["target", "head", "track", "verdict", "findings", "unchecked", "coverage"]
    for finding in held["findings"]:
        assert list(finding) == ["rule", "status", "summary", "evidence", "numbers", "words", "source"]
        assert finding["words"] and finding["source"]
        assert finding["status"] in ORDER and finding["summary"]
        for line in finding["evidence"]:
            assert list(line) == ["file", "line", "text"]


@given(st.lists(st.sampled_from(ORDER), min_size=1))
def test_the_verdict_is_the_weakest_finding(statuses):
    from pargolf.audit.report import RuleFinding

    report = Report("x", None, None, tuple(RuleFinding("a", s, "b") for s in statuses))
    assert ORDER.index(report.verdict) == max(map(ORDER.index, statuses))


def test_nothing_checked_is_not_a_pass():
    assert Report("x", None, None, ()).verdict == UNVERIFIABLE


def test_the_auditor_s_folders_import_one_way():
    """What a script does, what a submission says, the rules, and what uses them: each knows those before it."""
    order = ("code", "read", "rules", "sandbox", "own_runs")
    root = Path(audit_folder.__file__).parent
    for at, name in enumerate(order):
        for path in (root / name).glob("*.py"):
            text = path.read_text()
            assert not [later for later in order[at + 1 :] if f"pargolf.audit.{later}." in text], path


def test_every_rule_has_its_words_and_its_row_in_the_docs():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    text = (Path(__file__).parent.parent / "docs" / "audit.md").read_text()
    for rule in RULES:
        assert rule.asks.endswith("?") and rule.words.endswith(".") and rule.source and rule.passes.endswith(".")
        assert f"| `{rule.name}` | {rule.asks} | {rule.words} | {rule.source} |" in text, rule.name


@pytest.mark.parametrize("target", ["script", "folder"])
def test_a_submission_is_judged_without_what_only_runs_need(tmp_path, target):
    folder = record(tmp_path)
    path = folder / "train_gpt.py" if target == "script" else folder
    heavy = ("torch", "numpy", "matplotlib", "sentencepiece", "scipy", "multiprocessing", "pargolf.run.pack")
    code = f"""
import sys
sys.argv = ["pargolf", "audit", {str(path)!r}]
from pargolf.cli import app
try:
    app()
except SystemExit:
    pass
print([name for name in {heavy} if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.rstrip().endswith("[]"), said.stdout[-300:]


def test_a_folder_is_never_executed(tmp_path):
    marker = tmp_path / "ran"
    script = f"open({str(marker)!r}, 'w').write('x')\nval_bpb = 1\n"
    audit(record(tmp_path, script=script, **{"setup.py": script, "sitecustomize.py": script}))
    assert not marker.exists()


# ---- targets


def git(repo: Path, *words: str) -> str:
    env = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    done = subprocess.run(
        ["git", "-C", str(repo), "-c", "init.defaultBranch=main", *words],
        capture_output=True,
        check=True,
        env={**env, "PATH": "/usr/bin:/bin:/usr/local/bin"},
    )
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A main line with one old record; 1 adds a folder, 2 also touches a file outside, 3 was merged, 4 adds none."""
    path = tmp_path_factory.mktemp("repo")
    git(path, "init", "-q", "-b", "main")
    write(path / TRACK / "old")
    (path / "README.md").write_text("rules\n")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "base")
    for n in (1, 2, 3, 4):
        git(path, "checkout", "-q", "-b", f"b{n}", "main")
        if n < 4:
            write(path / TRACK / f"new{n}")
        if n != 1 and n != 3:
            (path / "run.sh").write_text(f"echo {n}\n")
        git(path, "add", "-A")
        git(path, "commit", "-qm", f"pull {n}")
        git(path, "update-ref", f"refs/pull/{n}/head", f"b{n}")
        git(path, "checkout", "-q", "main")
    git(path, "merge", "-q", "--no-ff", "-m", "merge", "b3")
    return path


def test_the_added_folder_is_found_by_difference_from_the_merge_base(repo):
    report = audit(f"git:{repo}@pull/1/head")
    assert report.verdict == PASS and report.track == "10min_16mb" and len(report.head) == 40
    with Repository(repo) as opened:
        assert [f.path for f in opened.submission("3", target="x").folders] == [f"{TRACK}/new3"]


def test_files_outside_the_folder_are_held(repo):
    report = audit(f"git:{repo}@pull/2/head")
    assert status(report, "outside_folder") == {HOLD} and report.verdict == HOLD
    assert "run.sh" in [e.file for f in report.findings if f.rule == "outside_folder" for e in f.evidence]


def test_a_head_without_a_folder_is_unverifiable(repo):
    assert audit(f"git:{repo}@pull/4/head").verdict == UNVERIFIABLE


def test_every_head_is_audited_once_and_a_cut_line_is_mended(repo, tmp_path):
    out = tmp_path / "all.jsonl"
    events = list(audit_all(repo, out=out))
    assert [e.done for e in events if isinstance(e, Progress)] == [0, 1, 2, 3, 4]
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])
    again = list(audit_all(repo, out=out))
    assert sum(isinstance(e, Judged) for e in again) == 1
    assert sorted(r["target"] for r in read_reports(out)) == sorted(json.loads(x)["target"] for x in whole.splitlines())
    assert not [e for e in audit_all(f"git:{repo}", out=out) if isinstance(e, Judged)]


def test_heads_judged_by_several_processes_stand_in_order(repo, tmp_path, monkeypatch):
    monkeypatch.setattr("pargolf.audit.batch._FEW", 1)
    for engine, name in ((Processes(2), "two"), (None, "one")):
        list(audit_all(repo, out=tmp_path / name, engine=engine))
    two, one = ([{**r, "seconds": 0} for r in read_reports(tmp_path / name)] for name in ("two", "one"))
    assert two == one and [report["target"].split("/")[-2] for report in two] == ["1", "2", "3", "4"]


def test_the_last_line_counts_verdicts_and_the_processors_seconds(repo, tmp_path):
    done = CliRunner().invoke(app, ["audit", "--all", f"git:{repo}", "--out", str(tmp_path / "all.jsonl")])
    seconds = sum(report["seconds"] for report in read_reports(tmp_path / "all.jsonl"))
    assert seconds > 0 and f"1 UNVERIFIABLE, 1 HOLD, 2 PASS, in {seconds:,.1f} s of the processor" in done.output


@pytest.mark.parametrize("target", ["nowhere", "git:nowhere@x", "git:x", "git:{repo}@pull/99/head", "git:{empty}@main"])
def test_a_missing_target_is_one_clear_line(repo, tmp_path, target):
    with pytest.raises(UserError) as caught:
        audit(target.format(repo=repo, empty=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_repository_without_heads_says_how_to_fetch_them(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "a")
    with pytest.raises(UserError, match="git fetch"):
        list(audit_all(tmp_path, out=tmp_path / "o.jsonl"))


def test_ranges_are_parsed_or_refused():
    assert Range.parse("1-20") == Range(1, 20) and Range.parse("7") == Range(7, 7)
    with pytest.raises(UserError):
        Range.parse("a-b")


def test_a_script_alone_is_judged_by_its_code(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(CACHE.replace("DEFAULT", "7"))
    report = audit(path)
    assert report.verdict == SUSPECT and any("size_cap" in text for text in report.unchecked)


def test_known_constants_are_ln2_times_bytes_per_token():
    assert known.GOOD[3].ratio == pytest.approx(math.log(2) * known.BYTES / 40_540_160, abs=2e-3)
    assert known.GOOD[0].ratio == pytest.approx(math.log(2) * known.BYTES / 62_021_632, abs=2e-3)


# ---- pages


def test_the_site_escapes_and_fetches_nothing(tmp_path):
    hostile = '</td><script>alert(1)</script>"'
    folder = record(tmp_path, json={"val_bpb": 1.2, "bytes_total": 17_000_000, "name": hostile}, readme=f"# {hostile}")
    (folder / f"{hostile.replace('/', '')}.log").write_text(log_text(total=17_000_000))
    held = json.loads(json.dumps(audit(folder).to_json()))
    numbered = {**held, "target": "git:/x@pull/861/head"}
    index = write_site([numbered, held], tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert "<script>alert" not in text and not re.search(r"https?://|src=|@import", text)
    assert "#861" in index.read_text() and "over the cap" in index.read_text()
    assert (tmp_path / "site/heads/861.html").exists()


def test_the_site_names_folders_filters_and_corrected_scores(tmp_path):
    wrong = log_text(ratio=3.04)
    text = wrong[: wrong.index("final_")] + f"final_exact val_loss:{1.2 * 3.04:.8f} val_bpb:1.20000000\n"
    held = json.loads(json.dumps(only_log(tmp_path, text).to_json()))
    finding = next(f for f in held["findings"] if f["rule"] == "package")
    finding["evidence"] = [{"file": f"{TRACK}/2026-01-02_Mine", "line": 0, "text": ""}]
    reports = [{**held, "target": f"git:/x@pull/{n}/head"} for n in (10, 9, 8)]
    page = write_site(reports, tmp_path / "site").read_text()
    assert re.findall(r'data-short="#(\d+)"', page) == ["8", "9", "10"]
    assert ">Mine<" in page and "2026-01-02" in page and 'value="byte_denominator"' in page
    assert f"<s>1.2000</s> <b>{1.2 * 3.04 / 2.5832:.4f}</b>" in page
    one = (tmp_path / "site/heads/9.html").read_text()
    assert 'href="8.html"' in one and 'href="10.html"' in one and f"{TRACK}/2026-01-02_Mine" in one


def test_the_rendered_report_shows_texts_literally(tmp_path):
    out = io.StringIO()
    folder = record(tmp_path, readme="# [red]x[/red]", json={"val_bpb": 1.2, "bytes_total": 17_000_000})
    Console(file=out, width=200, no_color=True).print(report_text(audit(folder)))
    text = out.getvalue()
    assert text.startswith("FAIL") and "submission.json:1" in text and "Not checked" in text


def test_the_same_script_gets_the_same_findings_every_time(tmp_path):
    folder = record(tmp_path, script=CACHE.replace("DEFAULT", "7") + LEGAL)
    code = f"from pargolf.audit.judge import audit; import json; print(json.dumps(audit({str(folder)!r}).to_json()))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(said) == 1


# ---- the command line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "is not there"),
        (["git:nowhere@x"], "is not there"),
        (["git:{tmp}"], "names no ref"),
        (["git:{tmp}@x"], "no git repository"),
        (["{tmp}/empty"], "holds no files"),
        (["--all", "git:{repo}", "--prs", "900-950", "--out", "{tmp}/a.jsonl"], "no pull request heads in that range"),
        (["--all", "git:{repo}", "--prs", "x", "--out", "{tmp}/a.jsonl"], "no range"),
        (["--all", "git:{repo}", "--out", "{tmp}/other.txt"], "not a file of reports"),
        (["--all", "git:{repo}", "--run"], "Leave out --all"),
        (["git:{repo}@pull/99/head"], "has no ref"),
    ],
)
def test_bad_input_is_one_clear_line(repo, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.txt").write_text("mine\n")
    done = CliRunner().invoke(app, ["audit", *(w.format(tmp=tmp_path, repo=repo) for w in words)])
    assert done.exit_code not in (0, 2) or said == "Leave out --all"
    text = " ".join((done.output + str(done.exception or "")).split())
    assert said in text and "Traceback" not in text, text
    assert isinstance(done.exception, (SystemExit, UserError))
    assert (tmp_path / "other.txt").read_text() == "mine\n"
