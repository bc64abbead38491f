"""The audit of a dataset: from the table of a source's files to a report, and the verb that reads a published one.

`audit_files` is pure; `refuse_blocked` turns what blocks into the error that stops prepare; `audit` reads the record
that prepare has written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tljobs.data.facts import Facts
from tljobs.data.findings import all_findings
from tljobs.data.near import group_sizes
from tljobs.errors import InputRefused, NotFound
from tljobs.records import SPLITS, AuditReport, ClassCounts, Finding
from tljobs.runs import dataset_audit, open_dataset
from tljobs.specs import AuditSpec, PrepareSpec
from tljobs.store import Store

QUANTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
SEVERITIES = ("blocks", "warns", "info")
SHOWN_EXAMPLES = 3


def audit(spec: AuditSpec, store: Store) -> AuditReport:
    """What prepare noticed about a dataset.

    Raises NotFound when there is no such dataset, or when it was prepared by a release that made no audit.
    """
    manifest = open_dataset(store, spec.dataset)
    report = dataset_audit(store, manifest)
    if report is None:
        hint = f"It was prepared by an earlier release: tljobs prepare {manifest.source} --name {manifest.name}-2"
        raise NotFound("this dataset has no audit", f"{manifest.name}@{manifest.version}", hint)
    return report


def audit_files(files: pa.Table, classes: Sequence[str], spec: PrepareSpec) -> AuditReport:
    """Reports on a table of FILES_SCHEMA; see tljobs.data.findings for the rules.

    Args:
        files: one row per listed file, with the plan's decisions.
        classes: names in index order.
        spec: what was asked for; its limits and permissions decide what blocks.
    """
    facts = Facts(files, classes, spec)
    kept = facts.kept
    findings = sorted(all_findings(facts), key=lambda finding: SEVERITIES.index(finding.severity))
    reasons = Counter(facts.column("reason").tolist())
    del reasons[""]
    near = facts.column("near", -1)[kept]
    shorter = np.minimum(facts.column("width_px", 0), facts.column("height_px", 0))
    return AuditReport(
        files=len(kept),
        images=int(kept.sum()),
        rejected=dict(sorted(reasons.items())),
        duplicates=len(kept) - int(kept.sum()) - reasons.total(),
        near_groups=len(np.unique(near[(near >= 0) & (group_sizes(near) > 1)])),
        classes=_class_counts(facts),
        formats=_counts(facts, "source_format"),
        modes=_counts(facts, "mode"),
        short_side_px=_quantiles(shorter[kept]),
        brightness=_quantiles(facts.column("brightness", 0.0)[kept]),
        findings=tuple(findings),
    )


def refuse_blocked(report: AuditReport, source: str) -> None:
    """Raises InputRefused with all that blocks and the option that overrules each."""
    blocking = [finding for finding in report.findings if finding.severity == "blocks"]
    if blocking:
        raise InputRefused("; ".join(finding.text for finding in blocking), source, "; ".join(map(_hint, blocking)))


def _hint(finding: Finding) -> str:
    uris = ", ".join(example.uri for example in finding.examples[:SHOWN_EXAMPLES])
    return f"Such as {uris}. Move or remove them, or use {finding.option}" if uris else f"See {finding.option}"


def _class_counts(facts: Facts) -> tuple[ClassCounts, ...]:
    split = facts.column("split")
    counts = {name: facts.per_class(facts.kept & (split == name)) for name in SPLITS}
    bad = facts.per_class(facts.column("reason") != "")
    return tuple(
        ClassCounts(label=label, splits={name: int(counts[name][place]) for name in SPLITS}, rejected=int(bad[place]))
        for place, label in enumerate(facts.classes)
    )


def _counts(facts: Facts, name: str) -> dict[str, int]:
    return dict(Counter(facts.column(name)[facts.kept].tolist()).most_common())


def _quantiles(values: npt.NDArray[np.number]) -> dict[str, float]:
    if not len(values):
        return {}
    return {name: round(float(np.percentile(values, percent)), 1) for name, percent in QUANTILES.items()}


# --------------------------------------------------------------------------------------------------------- as text


def audit_text(report: AuditReport) -> str:
    """The report for a terminal."""
    head = [
        f"files      {report.files}: {report.images} images, {report.duplicates} duplicates, "
        f"{sum(report.rejected.values())} rejected",
        f"formats    {_shares(report.formats)}",
        f"colours    {_shares(report.modes)}",
        f"short side {_range(report.short_side_px)} px",
        f"brightness {_range(report.brightness)} of 255",
    ]
    width = max(len("class"), *(len(each.label) for each in report.classes))
    rows = [f"{'class':<{width}}  {'train':>7} {'val':>7} {'test':>7} {'rejected':>8}"]
    for each in report.classes:
        numbers = " ".join(f"{each.splits[name]:>7}" for name in SPLITS)
        rows.append(f"{each.label:<{width}}  {numbers} {each.rejected:>8}")
    told = [_finding_text(report, severity) for severity in SEVERITIES]
    return "\n\n".join(filter(None, ["\n".join(head), "\n".join(rows), *told]))


def _finding_text(report: AuditReport, severity: str) -> str:
    lines = []
    for finding in report.findings:
        if finding.severity == severity:
            option = f" [{finding.option}]" if finding.option else ""
            lines.append(f"{severity:<6} {finding.code}: {finding.text}{option}")
            lines += [f"         {example.uri}" for example in finding.examples[:SHOWN_EXAMPLES]]
    return "\n".join(lines)


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _range(quantiles: dict[str, float]) -> str:
    return "{min:.0f} to {max:.0f}, median {median:.0f}".format(**quantiles) if quantiles else "none"
