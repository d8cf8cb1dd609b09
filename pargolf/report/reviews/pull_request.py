"""The GitHub Action: audit what a pull request adds, and write the result where a reviewer looks.

It reads GitHub's environment variables, audits the head against its base, and writes annotations to the log, the review
to the job's summary, SARIF to a file, and one comment that later runs update. It runs none of the submission's code.
"""

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargolf.audit.judge import judge, record_of
from pargolf.audit.read.target import open_target
from pargolf.audit.report import ORDER, Report
from pargolf.core.errors import UserError
from pargolf.core.files import read_json, write_text
from pargolf.report.reviews.annotations import to_github
from pargolf.report.reviews.markdown import to_markdown
from pargolf.report.reviews.sarif import to_sarif

MARK = "<!-- pargolf audit -->"
"""The start of the comment, by which the next run finds it."""
_SECONDS = 30
_PAGE = 100
_MOST_PAGES = 20


@dataclass(frozen=True)
class PullRequest:
    """The pull request that a workflow runs for; `number` is None if it runs for a push."""

    repository: str
    folder: Path
    head: str
    number: int | None
    api: str
    token: str


def read_environment(env: Mapping[str, str]) -> PullRequest:
    """Read the pull request from GitHub's variables. Raises `UserError` if a needed one is missing."""
    needed = ("GITHUB_REPOSITORY", "GITHUB_WORKSPACE", "GITHUB_SHA")
    missing = [name for name in needed if not env.get(name)]
    if missing:
        raise UserError(f"{', '.join(missing)} not set: this is for a workflow of GitHub. Else: pargolf audit TARGET.")
    event: Any = read_json(env["GITHUB_EVENT_PATH"]) if env.get("GITHUB_EVENT_PATH") else {}
    pull = event.get("pull_request") if isinstance(event, dict) else None
    head, number = env["GITHUB_SHA"], None
    if isinstance(pull, dict):
        try:
            head, number = str(pull["head"]["sha"]), int(pull["number"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{env['GITHUB_EVENT_PATH']} names no head of a pull request.") from None
    api = env.get("GITHUB_API_URL", "https://api.github.com")
    folder = Path(env["GITHUB_WORKSPACE"])
    return PullRequest(env["GITHUB_REPOSITORY"], folder, head, number, api, env.get("GITHUB_TOKEN", ""))


def review(env: Mapping[str, str]) -> Report:
    """Audit the pull request of `env` and write everything that the workflow shows; returns the report.

    Inputs: `INPUT_RECORD` (the record to beat), `INPUT_SARIF` (a file to write), `INPUT_COMMENT` (`true` to comment).
    """
    pull = read_environment(env)
    record = record_of(env["INPUT_RECORD"]) if env.get("INPUT_RECORD") else None
    submission = open_target(f"git:{pull.folder}@{pull.head}")
    report = judge(submission, record=record)
    base = submission.folders[0].path if len(submission.folders) == 1 else ""
    print(to_github(report, base=base), end="")
    text = to_markdown(report, command=f"pargolf audit git:.@{pull.head[:12]}")
    if env.get("GITHUB_STEP_SUMMARY"):
        _append(Path(env["GITHUB_STEP_SUMMARY"]), text)
    if env.get("INPUT_SARIF"):
        write_text(pull.folder / env["INPUT_SARIF"], to_sarif(report, base=base))
    if env.get("GITHUB_OUTPUT"):
        _append(Path(env["GITHUB_OUTPUT"]), f"verdict={report.verdict}\n")
    if env.get("INPUT_COMMENT", "").lower() == "true" and pull.number is not None and pull.token:
        _comment(pull, f"{MARK}\n{text}")
    return report


def main() -> None:
    """Review with the process's environment; exits with 1 if the verdict is `INPUT_FAIL_ON` or worse."""
    env = dict(os.environ)
    limit = env.get("INPUT_FAIL_ON", "FAIL").upper() or "FAIL"
    if limit not in (*ORDER, "NEVER"):
        raise SystemExit(f"fail-on is {limit}; write one of {', '.join(ORDER[1:])} or never.")
    try:
        report = review(env)
    except UserError as error:
        print(f"::error title=pargolf audit::{error}")
        raise SystemExit(2) from None
    sys.exit(limit != "NEVER" and ORDER.index(report.verdict) >= ORDER.index(limit))


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _comment(pull: PullRequest, text: str) -> None:
    """Write or update the comment; a refusal is only a warning, because a fork's token may not comment."""
    base = f"{pull.api}/repos/{pull.repository}/issues"
    try:
        for page in range(1, _MOST_PAGES + 1):
            comments = _ask(pull, "GET", f"{base}/{pull.number}/comments?per_page={_PAGE}&page={page}")
            own = [comment for comment in comments if str(comment.get("body", "")).startswith(MARK)]
            if own:
                _ask(pull, "PATCH", f"{base}/comments/{own[0]['id']}", {"body": text})
                return
            if len(comments) < _PAGE:
                break
        _ask(pull, "POST", f"{base}/{pull.number}/comments", {"body": text})
    except (OSError, ValueError, KeyError, AttributeError) as error:
        print(f"::warning title=pargolf audit::The comment could not be written ({error}). See the job's summary.")


def _ask(pull: PullRequest, method: str, url: str, body: Mapping[str, str] | None = None) -> Any:
    headers = {"Authorization": f"Bearer {pull.token}", "Accept": "application/vnd.github+json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return json.load(answer)
