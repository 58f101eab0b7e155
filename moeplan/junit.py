"""A check report as JUnit XML, which CI systems show: a suite for each node, a case for each finding.

``fail`` is a failure and ``not_run`` skipped. A warning passes with its text in the output; in a strict report it is a
failure, as a check that did not run is. Attributes as in the schema of the Jenkins xUnit plugin (junit-10.xsd).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from planner.findings import CheckReport, Finding

# XML 1.0 allows neither other control characters nor lone surrogates.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: CheckReport) -> str:
    """The whole document."""
    suites = ElementTree.Element("testsuites", {"name": "moeplan check"})
    for node in report.nodes:
        found = [each for each in report.findings if each.node == node]
        failures = sum(_fails(each, report.strict) for each in found)
        skipped = sum(each.status == "not_run" and not report.strict for each in found)
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            {
                "name": _clean(node),
                "tests": str(len(found)),
                "failures": str(failures),
                "errors": "0",
                "skipped": str(skipped),
                **({"timestamp": report.checked_at} if report.checked_at else {}),
            },
        )
        for each in found:
            _case(suite, each, report.strict)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _fails(finding: Finding, strict: bool) -> bool:
    return finding.status == "fail" or (strict and finding.status != "pass")


def _case(suite: ElementTree.Element, finding: Finding, strict: bool) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": f"moeplan.check.{finding.code}",
            "name": _clean(f"{finding.code} {finding.subject}"),
            "time": "0",
        },
    )
    message = _clean(f"{finding.actual}; expected {finding.expected}")
    detail = _clean(f"evidence: {finding.evidence}\naction: {finding.action or 'none'}")
    if _fails(finding, strict):
        failure = ElementTree.SubElement(case, "failure", {"message": message, "type": finding.status})
        failure.text = detail
    elif finding.status == "not_run":
        ElementTree.SubElement(case, "skipped", {"message": message})
    elif finding.status == "warn":
        ElementTree.SubElement(case, "system-out").text = f"warning: {message}\n{detail}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
