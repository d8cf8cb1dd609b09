"""A report as SARIF 2.1.0, for code scanning and editors: one result for each finding that is not a PASS."""

import json
from typing import Any

from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, Evidence, Report, RuleFinding
from pargolf.audit.rules.table import RULES
from pargolf.core.version import VERSION

_LEVELS = {FAIL: "error", SUSPECT: "warning", UNVERIFIABLE: "note", HOLD: "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(report: Report, *, base: str = "") -> str:
    """The report as SARIF. `base` is put before the files' paths, so that they start at the repository's root."""
    rules = [
        {
            "id": rule.name,
            "shortDescription": {"text": rule.asks},
            "fullDescription": {"text": rule.words},
            "help": {"text": f"{rule.mend} Source: {rule.source}."},
        }
        for rule in RULES
    ]
    driver = {"name": "pargolf audit", "version": VERSION, "rules": rules}
    results = [_result(finding, base) for finding in report.findings if finding.status != PASS]
    properties = {"verdict": report.verdict, "target": report.target, "head": report.head}
    run = {"tool": {"driver": driver}, "results": results, "properties": properties}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, ensure_ascii=False, indent=2) + "\n"


def _result(finding: RuleFinding, base: str) -> dict[str, Any]:
    return {
        "ruleId": finding.rule,
        "level": _LEVELS[finding.status],
        "message": {"text": f"{finding.status}: {finding.summary}"},
        "locations": [_location(evidence, base) for evidence in finding.evidence[:10]],
    }


def _location(evidence: Evidence, base: str) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": evidence.path_from(base)}}
    if evidence.line:
        location["region"] = {"startLine": evidence.line, "snippet": {"text": evidence.text}}
    return {"physicalLocation": location}
