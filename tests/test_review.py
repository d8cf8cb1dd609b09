"""A report in every form, what a verdict rests on, modules beside the script, and the GitHub Action."""

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from submissions import CACHE, LEGAL, TRACK, record, status, write

from pargolf.audit.judge import audit
from pargolf.audit.report import FAIL, PASS, SUSPECT, UNVERIFIABLE, Report, RuleFinding
from pargolf.audit.rules.table import RULES
from pargolf.audit.standing import How, headline, standings
from pargolf.report.reviews import pull_request, written
from pargolf.report.reviews.markdown import code, plain

# ---- what a verdict rests on


def test_a_pass_is_earned_rule_by_rule(tmp_path):
    report = audit(record(tmp_path))
    rows = {row.rule.name: row for row in standings(report)}
    assert list(rows) == [rule.name for rule in RULES]
    assert rows["size_cap"].how is How.PROVED and rows["size_cap"].status == PASS
    assert rows["ttt_order"].how is How.READ and rows["two_pass"].how is How.READ
    assert rows["significance"].how is How.NOT_CHECKED and "record" in rows["significance"].note
    assert re.match(r"PASS: \d+ rules proved, \d+ rules read, 4 not checked \(significance, ", headline(report))
    coverage = report.coverage[0]
    assert 3 <= coverage.reached < coverage.functions and not coverage.unread


@pytest.mark.parametrize(
    "change",
    [
        {f"train_seed{s}.log": None for s in (1, 2, 3)} | {"train.log": "nothing\n"},
        {"script": LEGAL + "\nexec(open('more.txt').read())\n"},
        {"script": LEGAL + "\nimport importlib\nimportlib.import_module('a' + 'b')\n"},
        {"script": "import helper\n" + LEGAL, "helper.py": "def broken(:\n"},
    ],
    ids=["no scores", "exec of a file", "a module by a made-up name", "a module that is no Python"],
)
def test_what_was_not_read_does_not_pass(tmp_path, change):
    report = audit(record(tmp_path, **change))
    assert report.verdict != PASS
    assert status(audit(record(tmp_path / "whole")), "two_pass") == {PASS}
    if "script" in change:
        assert status(report, "two_pass") == {UNVERIFIABLE}
        assert any("could be followed" in f.summary for f in report.findings if f.rule == "two_pass")


# ---- modules beside the script

HELPER = LEGAL.partition("def main():")[0]
MAIN = LEGAL.partition("def main():")[2]


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from helper import *", "{}"),
        ("import helper", "helper.{}"),
        ("import helper as h", "h.{}"),
        ("from helper import Args, load, score_first, adapt", "{}"),
        ("import importlib\nhelper = importlib.import_module('helper')", "helper.{}"),
        ("from tools import helper", "helper.{}"),
    ],
)
@pytest.mark.parametrize("illegal", [False, True])
def test_an_imported_module_is_read_as_part_of_the_script(tmp_path, imports, call, illegal):
    body = "def main():" + MAIN
    for name in ("score_first", "adapt", "load", "Args"):
        body = re.sub(rf"\b{name}\(", f"{call.format(name)}(", body)
    switch = 'bool(int(os.environ.get("PREQUANT", "1")))' if illegal else 'bool(int(os.environ.get("PREQUANT", "0")))'
    helper = HELPER.replace('bool(int(os.environ.get("PREQUANT", "0")))', switch)
    path = "tools/helper.py" if "tools" in imports else "helper.py"
    report = audit(record(tmp_path, script=f"import torch\n{imports}\n{body}", **{path: helper}))
    if not illegal:
        assert status(report, "ttt_order") == {PASS}, [f for f in report.findings if f.rule == "ttt_order"]
        return
    found = next(f for f in report.findings if f.rule == "ttt_order")
    assert found.status == SUSPECT
    assert found.evidence[0].file.endswith("helper.py")
    assert found.evidence[0].text == helper.splitlines()[found.evidence[0].line - 1].strip()


def test_a_hashed_cache_in_a_module_is_found(tmp_path):
    cache, _, rest = CACHE.partition("def evaluate")
    script = f"from cache import Cache\nimport os\nimport numpy as np\nimport torch\ndef evaluate{rest}"
    report = audit(record(tmp_path, script=script.replace("DEFAULT", "4"), **{"cache.py": cache}))
    assert SUSPECT in status(report, "ngram_target_key")
    assert "cache.py" in {e.file for f in report.findings if f.rule == "ngram_target_key" for e in f.evidence}


# ---- forms

HOSTILE = "![x](http://e.example/a.png) @openai #1 <script>alert(1)</script> `a` | b\n::error::forged [l](javascript:x)"


@pytest.fixture
def hostile(tmp_path):
    report = audit(record(tmp_path, json={"val_bpb": 1.5, "name": HOSTILE, "bytes_total": 17_000_000}))
    worse = RuleFinding("consistency", FAIL, HOSTILE, report.findings[0].evidence)
    return Report(HOSTILE, "a" * 40, HOSTILE, (*report.findings, worse), (HOSTILE,))


def test_markdown_shows_a_submission_s_words_and_lets_them_do_nothing(hostile):
    text = written(hostile, "markdown")
    assert text.startswith("## FAIL by ")
    outside = re.sub(r"`+ ?[^\n]*? ?`+", "", text)
    assert not re.search(r"(?<!\\)[<\[]|(?<!\\)\]\(", outside)
    assert "@openai" not in outside and "\n::" not in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(RULES) and all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
    assert "**For the author:**" in text and re.search("Repeat it: `+ ?pargolf audit", text)


@pytest.mark.parametrize("text", ["a`b", "``", "`", "", "a\nb", "x" * 999])
def test_code_spans_hold_any_text(text):
    span = code(text)
    fence = re.match("`+", span)[0]
    assert span.endswith(fence) and fence not in span[len(fence) : -len(fence)] and "\n" not in span


def test_plain_text_has_no_meaning():
    assert plain("a_b*c") == r"a\_b\*c"
    assert "@o" not in plain("@o") and "#1" not in plain("#1")


def test_sarif_has_what_its_readers_need(hostile):
    held = json.loads(written(hostile, "sarif"))
    run = held["runs"][0]
    known = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert held["version"] == "2.1.0" and run["results"]
    for result in run["results"]:
        assert result["ruleId"] in known and result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        for place in result["locations"]:
            assert place["physicalLocation"]["artifactLocation"]["uri"]
            assert place["physicalLocation"].get("region", {}).get("startLine", 1) >= 1


def test_annotations_are_one_command_each(hostile):
    lines = written(hostile, "github").splitlines()
    weak = [finding for finding in hostile.findings if finding.status != PASS]
    assert len(lines) == len(weak) + 1
    assert all(re.match(r"::(error|warning|notice) ", line) for line in lines)


@pytest.mark.parametrize("form", ["text", "markdown", "json", "sarif", "github"])
def test_the_command_line_writes_every_form(tmp_path, form, capsys):
    from typer.testing import CliRunner

    from pargolf.cli import app

    done = CliRunner().invoke(app, ["audit", str(record(tmp_path)), "--format", form])
    assert done.exit_code == 0, done.output
    assert "PASS" in done.stdout


# ---- the action


def git(repo: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    command = ["git", "-C", str(repo), "-c", "init.defaultBranch=main", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=who).stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository as a workflow checks it out: at the merge of a pull request into the main line."""
    repo = tmp_path_factory.mktemp("action") / "repo"
    repo.mkdir()
    git(repo, "init", "-q")
    (repo / "README.md").write_text("base\n")
    git(repo, "add", "."), git(repo, "commit", "-qm", "base")
    git(repo, "checkout", "-qb", "pull")
    write(repo / TRACK / "2026-01-01_mine", json={"val_bpb": 1.2002, "bytes_total": 17_000_000})
    git(repo, "add", "."), git(repo, "commit", "-qm", "mine")
    head = git(repo, "rev-parse", "HEAD")
    git(repo, "checkout", "-q", "main")
    git(repo, "merge", "-q", "--no-ff", "-m", "merge", "pull")
    return repo, head


@pytest.fixture
def hub():
    """A server that keeps comments as GitHub does."""
    comments: list[dict] = [{"id": 1, "body": "hello"}]

    class Handler(BaseHTTPRequestHandler):
        def answer(self, value):
            body = json.dumps(value).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(comments)

        def do_POST(self):
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            comments.append({"id": len(comments) + 1, **sent})
            self.answer(comments[-1])

        def do_PATCH(self):
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = int(self.path.rpartition("/")[2])
            next(c for c in comments if c["id"] == number)["body"] = sent["body"]
            self.answer({})

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", comments
    server.shutdown()
    server.server_close()


@pytest.fixture
def env(checkout, hub, tmp_path):
    repo, head = checkout
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": head}}}))
    return {
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_WORKSPACE": str(repo),
        "GITHUB_SHA": git(repo, "rev-parse", "HEAD"),
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_API_URL": hub[0],
        "GITHUB_TOKEN": "t",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "INPUT_COMMENT": "true",
        "INPUT_SARIF": "pargolf.sarif",
    }


def test_the_action_reviews_what_the_pull_request_adds_and_comments_once(env, hub, checkout, tmp_path, capsys):
    report = pull_request.review(env)
    assert report.verdict == FAIL and status(report, "size_cap") == {FAIL}
    assert f"::error file={TRACK}/2026-01-01_mine/submission.json," in capsys.readouterr().out
    assert (tmp_path / "summary.md").read_text().startswith("## FAIL by size\\_cap")
    assert (tmp_path / "output").read_text() == "verdict=FAIL\n"
    assert json.loads((checkout[0] / "pargolf.sarif").read_text())["runs"][0]["results"]
    pull_request.review(env)
    assert [c["body"].startswith(pull_request.MARK) for c in hub[1]] == [False, True]


def test_a_token_that_may_not_comment_is_a_warning(env, capsys):
    report = pull_request.review(env | {"GITHUB_API_URL": "http://127.0.0.1:9"})
    assert report.verdict == FAIL
    assert "::warning title=pargolf audit::The comment could not be written" in capsys.readouterr().out


@pytest.mark.parametrize(("limit", "code"), [("FAIL", 1), ("suspect", 1), ("never", 0), ("PASSED", None)])
def test_the_job_fails_as_configured(env, monkeypatch, limit, code):
    monkeypatch.setattr("os.environ", env | {"INPUT_FAIL_ON": limit, "INPUT_COMMENT": "false"})
    with pytest.raises(SystemExit) as ended:
        pull_request.main()
    assert int(ended.value.code) == code if code is not None else "PASSED" in str(ended.value.code)


def test_without_github_s_variables_it_says_so(env, monkeypatch, capsys):
    monkeypatch.setattr("os.environ", {})
    with pytest.raises(SystemExit):
        pull_request.main()
    assert "GITHUB_WORKSPACE" in capsys.readouterr().out


def test_the_action_needs_no_torch():
    heavy = ("torch", "numpy", "typer", "matplotlib")
    text = f"import sys, pargolf.report.reviews.pull_request; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_action_s_file_calls_what_is_tested():
    text = (Path(__file__).parent.parent / "action.yml").read_text()
    assert "from pargolf.report.reviews.pull_request import main; main()" in text
    for name in ("INPUT_FAIL_ON", "INPUT_RECORD", "INPUT_COMMENT", "INPUT_SARIF"):
        assert f"{name}: ${{{{ inputs." in text
