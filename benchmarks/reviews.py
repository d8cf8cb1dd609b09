"""Write docs/reviews.md: the reviews of the first five pull requests, beside a community review of them.

`python benchmarks/reviews.py REPO [--run]`; REPO is a clone of openai/parameter-golf with its pull request heads. The
community review is a fact of its day and is stored here. Everything else is written by the auditor.
"""

import argparse
import re
from pathlib import Path

from pargolf.audit.judge import audit
from pargolf.audit.report import PASS, Report
from pargolf.audit.running import runner
from pargolf.audit.standing import headline
from pargolf.report.reviews.markdown import to_markdown

PAGE = Path(__file__).parent.parent / "docs" / "reviews.md"
# Number: the community review of March 2026, and what it did not see.
SAID = {
    1009: (
        "looks clean, score-first adaptation, ten layers; merge pending the usual checks",
        "The script builds twelve layers. The README gives all three artifacts over the cap, and there is no log.",
    ),
    910: (
        "looks clean; merge pending the usual checks. Its cache read 0.069 bits per byte and 3,000,000 bytes",
        "submission.json holds null for score and size, the README says TBD, and there is no log.",
    ),
    543: (
        "looks clean; merge pending the usual checks",
        "Training took 615.394 s in the track of 600 s, with one seed.",
    ),
    295: (
        "looks clean, purely neural; merge pending the usual checks",
        "The record has one run of one seed. Its numbers are right.",
    ),
    861: (
        "looks clean; merge pending the usual checks",
        "It is over the cap and over the time, the script's own limit is 1,800 s, and its log contradicts itself.",
    ),
}
_INTRO = """# Five reviews

The reviews that `pargolf audit` writes of the five pull requests that this project starts from, beside a community
review of that day. That review asked to merge all five. It posted "looks clean" from patterns in the text, and
left what matters (sizes, seconds, seeds, logs) to "the usual checks".

| pull request | community review | audit | what the community review missed |
|---|---|---|---|
{rows}

`python benchmarks/reviews.py REPO --run` writes this page. The reviews below are the output of
`--format markdown`, ready to paste.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo")
    parser.add_argument("--run", action="store_true", help="also build each model in the sandbox")
    args = parser.parse_args()
    reports = {
        number: audit(f"git:{args.repo}@pull/{number}/head", runner=runner() if args.run else None) for number in SAID
    }
    rows = [f"| #{number} | {said} | {_short(reports[number])} | {missed} |" for number, (said, missed) in SAID.items()]
    parts = [_INTRO.format(rows="\n".join(rows))]
    for number, report in reports.items():
        target = f"git:parameter-golf@pull/{number}/head"
        command = f"pargolf audit {target} --format markdown" + (" --run" if args.run else "")
        review = to_markdown(report, command=command).replace(report.target, target)
        deeper = re.sub(r"^(#+ )", r"#\1", review, flags=re.M).strip()
        parts.append(f"## #{number}\n\n{deeper}\n\n")
    PAGE.write_text("".join(parts).rstrip() + "\n", encoding="utf-8")
    for number, report in reports.items():
        print(f"#{number}: {headline(report)}")


def _short(report: Report) -> str:
    """The verdict and the rules behind it."""
    rules = dict.fromkeys(f.rule for f in report.findings if f.status == report.verdict and f.status != PASS)
    return f"{report.verdict} by {', '.join(f'`{rule}`' for rule in rules)}"


if __name__ == "__main__":
    main()
