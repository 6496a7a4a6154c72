"""The result of a classification as a DICOM structured report (template TID 1500)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from ttl_monai.deploy.dicom_out.identity import MANUFACTURER, RESEARCH, ModelIdentity, code

__all__ = ["Finding", "structured_report"]

# Kinds of procedure by modality (SNOMED CT), and what holds for any.
_PROCEDURES = {
    "CT": ("77477000", "Computed tomography"),
    "MR": ("113091000", "Magnetic resonance imaging"),
    **dict.fromkeys(("CR", "DX"), ("168537006", "Plain radiography")),
}
_ANY_PROCEDURE = ("363679005", "Imaging")


@dataclass(frozen=True)
class Finding:
    """What a classifier says of one image or series.

    Attributes:
        probabilities: class name -> probability.
        predicted: name of the class.
        threshold: the operating point; None where there is none.
        threshold_class: the class that it is for.
        origin: where the threshold comes from, or how the class was chosen, in words.
    """

    probabilities: Mapping[str, float]
    predicted: str
    threshold: float | None
    threshold_class: str
    origin: str


def structured_report(sources: Sequence[Dataset], finding: Finding, model: ModelIdentity, *, key: str) -> Any:
    """A Comprehensive SR with the scores, the operating point, the predicted class and the model.

    Args:
        sources: what was predicted, all instances; see `load_sources`.
        finding: the result.
        model: which model, as device observer and as algorithm.
        key: pseudonym of the item, for the tracking identifier.

    Returns:
        A highdicom dataset, in a new series of the study of the sources.
    """
    import highdicom.sr as sr
    from pydicom.sr.codedict import codes

    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=model.uid,
            name=model.short_name,
            manufacturer_name=MANUFACTURER,
            model_name=model.short_name,
            serial_number=model.sha256,
        ),
    )
    algorithm = sr.AlgorithmIdentification(
        name=model.short_name,
        version=model.version,
        parameters=[f"sha256 of the weights: {model.sha256}", f"operating point: {finding.origin}", RESEARCH],
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=key),
        algorithm_id=algorithm,
        measurements=_measurements(finding),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.DCM.Finding, _class_code(finding, finding.predicted))],
        source_images=[sr.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in sources],
    )
    value, meaning = _PROCEDURES.get(str(sources[0].get("Modality")), _ANY_PROCEDURE)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept(value, "SCT", meaning),
        imaging_measurements=[group],
    )
    report = sr.ComprehensiveSR(
        evidence=list(sources),
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=9001,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
    )
    report.SeriesDescription = f"{RESEARCH}: scores of a classifier"
    for name, text in model.equipment.items():
        setattr(report, name, text)
    return report


def _measurements(finding: Finding) -> list[Any]:
    import highdicom.sr as sr
    from pydicom.sr.codedict import codes

    measured = [
        sr.Measurement(code(f"PROBABILITY{number}", f"Probability of {name}"), round(value, 6), codes.UCUM.NoUnits)
        for number, (name, value) in enumerate(finding.probabilities.items())
    ]
    if finding.threshold is not None:
        name = code("THRESHOLD", f"Operating point: threshold of {finding.threshold_class}")
        measured.append(sr.Measurement(name, round(finding.threshold, 6), codes.UCUM.NoUnits))
    return measured


def _class_code(finding: Finding, name: str) -> Any:
    return code(f"CLASS{list(finding.probabilities).index(name)}", name)
