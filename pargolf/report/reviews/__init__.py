"""A report in the format of its reader: text on a terminal, Markdown, JSON, SARIF, GitHub's annotations."""

import json

from pargolf.audit.report import Report
from pargolf.report.reviews.annotations import to_github
from pargolf.report.reviews.markdown import to_markdown
from pargolf.report.reviews.sarif import to_sarif

FORMS = {
    "markdown": to_markdown,
    "json": lambda report: json.dumps(report.to_json(), ensure_ascii=False) + "\n",
    "sarif": to_sarif,
    "github": to_github,
}
"""Forms that are plain text; the terminal's own is in `report/text/audits.py`."""


def written(report: Report, form: str) -> str:
    """The report in one of `FORMS`."""
    return FORMS[form](report)
