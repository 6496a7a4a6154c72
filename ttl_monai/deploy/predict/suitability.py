"""Whether an image is of the kind that a bundle accepts, by the tags that say what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

from ttl_monai.data.volume import OUTCOMES, VolumeReport

__all__ = ["JUDGED_TAGS", "check_rules", "judge", "judge_undescribed"]

FORMATS = ("DICOM", "picture", "NIfTI")
# What is asked of a header, in words; a bundle's `accepts` may name any of them.
_NAMES = {
    "Modality": "modality",
    "ViewPosition": "view",
    "BodyPartExamined": "body part",
    "PresentationIntentType": "presentation",
    "BurnedInAnnotation": "burned-in annotation",
}
JUDGED_TAGS = (*_NAMES, "PatientOrientation")
"""All that is read of a header to judge it; the ids beside them serve for keys alone."""
# Values that a report may quote: any other one could be a name in the wrong field.
_QUOTED = frozenset(
    {
        *("CR", "DX", "MG", "CT", "MR", "PT", "NM", "US", "XA", "RF", "IO", "PX", "OT", "SC", "XC", "GM", "SM", "ES"),
        *("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT", "LPO", "RPO", "RAO", "LAO"),
        *("CHEST", "ABDOMEN", "HEAD", "SKULL", "NECK", "PELVIS", "HAND", "FOOT", "KNEE", "HIP", "SHOULDER", "ANKLE"),
        *("BREAST", "SPINE", "CSPINE", "TSPINE", "LSPINE", "WRIST", "ELBOW", "LEG", "ARM", "HEART", "BRAIN", "LIVER"),
        *("EXTREMITY", "WHOLEBODY", "PARTIALBODY", "LUNG", "THORAX", "RIB", "FOR PRESENTATION", "FOR PROCESSING"),
        *("YES", "NO"),
    }
)


def check_rules(rules: Any) -> None:
    """Raise ValueError unless `accepts` of a bundle is what `judge` understands."""
    expected = (
        "expected accepts of inference.json to have 'formats' (a list of DICOM, picture, NIfTI), and 'image' and "
        "'series' each as null or {KEYWORD: {'values': [...], 'missing': OUTCOME, 'other': OUTCOME}} with KEYWORD of "
        f"{', '.join(_NAMES)} and OUTCOME of {', '.join(OUTCOMES)}"
    )
    if not isinstance(rules, Mapping) or set(rules) != {"formats", "image", "series"}:
        raise ValueError(f"{expected}; got {rules!r}")
    if not isinstance(rules["formats"], list) or not set(rules["formats"]) <= set(FORMATS):
        raise ValueError(f"{expected}; got {rules!r}")
    if rules["image"] is None and rules["series"] is None:
        raise ValueError(f"{expected}; got neither image nor series")
    for kind in ("image", "series"):
        for name, rule in (rules[kind] or {}).items():
            known = name in _NAMES and isinstance(rule, Mapping) and set(rule) <= {"values", "missing", "other"}
            if not known or not isinstance(rule.get("values"), list):
                raise ValueError(f"{expected}; got {name} {rule!r} in {kind}")
            if wrong := {rule.get("missing", "warned"), rule.get("other", "refused")} - set(OUTCOMES):
                raise ValueError(f"{expected}; got {wrong.pop()!r} in {kind}, {name}")


def judge(header: Dataset, rules: Mapping[str, Any], report: VolumeReport) -> None:
    """Compare a header with what a bundle accepts, and note each comparison.

    Args:
        header: the tags of `JUDGED_TAGS`.
        rules: keyword -> `values` that are accepted, and the outcome where the tag is `missing` (default "warned") or
            has any `other` value (default "refused").
        report: gets a check for each rule. A value that is no known word of DICOM is not quoted.
    """
    for keyword, rule in rules.items():
        found = _view(header) if keyword == "ViewPosition" else _words(header.get(keyword))
        accepted = [str(value).upper() for value in rule["values"]]
        expected = f"expected {' or '.join(accepted)}"
        if not found:
            report.note(_NAMES[keyword], rule.get("missing", "warned"), f"not stated, {expected}")
        elif found in accepted:
            report.note(_NAMES[keyword], "passed", found)
        else:
            shown = found if found in _QUOTED else "another value"
            report.note(_NAMES[keyword], rule.get("other", "refused"), f"{shown}, {expected}")


def judge_undescribed(report: VolumeReport) -> None:
    """Note that a file without tags says nothing about what it shows."""
    report.note("kind of image", "warned", "the file states no modality, view or body part: whoever gives it answers")


def _words(value: Any) -> str:
    return str(value).strip().upper() if isinstance(value, str) else ""


def _view(header: Dataset) -> str:
    """ViewPosition; where it is absent, LATERAL if the rows of the picture run from front to back or back to front."""
    if stated := _words(header.get("ViewPosition")):
        return stated
    orientation: Any = header.get("PatientOrientation") or ()  # direction of rows, then of columns (PS3.3 C.7.6.1.1.1)
    along_rows = str(orientation[0]).upper() if len(orientation) == 2 else ""
    return "LATERAL" if along_rows[:1] in {"A", "P"} else ""
