"""Which model made an object, as DICOM says it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

__all__ = ["RESEARCH", "ModelIdentity", "code", "require_highdicom"]

RESEARCH = "RESEARCH USE ONLY"
MANUFACTURER = "ttl-monai contributors"
SCHEME = "99TTL"
"""Of our own codes: what no dictionary has, such as the probability of a class of someone's own."""
_LONGEST = 64  # characters of DICOM's LO, and of the meaning of a code


def require_highdicom() -> None:
    """Raise unless highdicom is installed.

    Raises:
        ValueError: with the remedy.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise ValueError("DICOM output needs highdicom, which is not installed: pip install 'ttl-monai[dicom-seg]'")


@dataclass(frozen=True)
class ModelIdentity:
    """A trained model.

    Attributes:
        name: of the bundle.
        version: of the bundle.
        sha256: of the weights, 64 hex digits.
    """

    name: str
    version: str
    sha256: str

    @property
    def uid(self) -> str:
        """The same for the same weights: a UID of 128 bits of their hash."""
        return f"2.25.{int(self.sha256[:32], 16)}"

    @property
    def short_name(self) -> str:
        """The name as far as DICOM has room for it."""
        return self.name[:_LONGEST]

    @property
    def equipment(self) -> dict[str, str]:
        """Attributes of the equipment module (PS3.3 C.7.5.2)."""
        return {
            "Manufacturer": MANUFACTURER,
            "ManufacturerModelName": self.short_name,
            "SoftwareVersions": self.version,
            "DeviceSerialNumber": self.sha256,
        }


def code(value: str, meaning: str) -> Any:
    """A coded concept of our own scheme.

    Args:
        value: at most 16 characters.
        meaning: cut where it is longer than DICOM has room for.
    """
    from highdicom.sr import CodedConcept

    return CodedConcept(value, SCHEME, meaning[:_LONGEST])
