"""A report in SARIF 2.1.0, the format that code-scanning services read (OASIS, sarif-v2.1.0)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from blackbelt import __version__
from blackbelt.doctor.finding import Finding, Severity
from blackbelt.doctor.report import DoctorReport
from blackbelt.doctor.rule import Rule, all_rules

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(report: DoctorReport, folder: Path) -> dict[str, Any]:
    """Return the report as one SARIF run; files are named relative to ``folder`` where they lie in it."""
    codes = sorted({finding.code for finding in report.findings})
    driver = {
        "name": "blackbelt doctor",
        "version": __version__,
        "informationUri": "https://github.com/takzen/pytorch-black-belt",
        "rules": [_rule(all_rules()[code]) for code in codes],
    }
    results = [_result(finding, folder) for finding in report.findings]
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(rule: type[Rule]) -> dict[str, Any]:
    return {
        "id": rule.code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": inspect.getdoc(rule) or rule.title},
        "defaultConfiguration": {"level": str(rule.severity)},
    }


def _result(finding: Finding, folder: Path) -> dict[str, Any]:
    words = finding.message if not finding.fix else f"{finding.message}. Write instead: {finding.fix}"
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": str(Severity(finding.severity)),
        "message": {"text": words},
        "properties": {"evidence": dict(finding.evidence), "step": finding.step, "ranks": list(finding.ranks)},
    }
    if finding.place is not None:
        path = Path(finding.place.file).resolve()
        uri = path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else path.as_uri()
        region = {"startLine": finding.place.line}
        result["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}]
    return result
