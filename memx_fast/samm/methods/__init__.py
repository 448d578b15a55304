"""The methods of the paper's tables, and controls, behind one interface and chosen by name.

``interface`` says what a method is, ``by_network`` and ``by_svm`` what networks and histograms have
in common, ``controls`` are two methods to be beaten, and every other file is one method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from memx_fast.samm.methods.bi_woof import BiWoof
from memx_fast.samm.methods.controls import ApexCnn, Majority
from memx_fast.samm.methods.convlstm import ShallowConvLSTMMethod
from memx_fast.samm.methods.dssn import Dssn
from memx_fast.samm.methods.elrcn import Elrcn
from memx_fast.samm.methods.interface import Fit, Input, Machine, Method, Progress
from memx_fast.samm.methods.lbp_top import LbpTop
from memx_fast.samm.methods.off_apexnet import OffApexNet

__all__ = ["METHODS", "Fit", "Input", "Machine", "Method", "Progress", "create"]

METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        method.name: method
        for method in (
            ShallowConvLSTMMethod,
            LbpTop,
            BiWoof,
            OffApexNet,
            Dssn,
            Elrcn,
            ApexCnn,
            Majority,
        )
    }
)
"""All methods by name, in the order of tables."""


def create(
    name: str,
    classes: int,
    settings: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
) -> Method:
    """A method by its name.

    Args:
        name: one of :data:`METHODS`.
        classes: number of classes.
        settings: those that differ from the defaults; text is read as the default's type.
        machine: where to compute.

    Raises:
        ValueError: there is no such method or setting, or the setting's value is wrong.
    """
    if name not in METHODS:
        raise ValueError(f"method: got {name!r}, expected one of {', '.join(METHODS)}")
    kind = METHODS[name]
    defaults = {field.name: field.default for field in fields(kind.Settings)}
    values = {}
    for key, value in (settings or {}).items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"{key}: {name} has no such setting; its settings are: {known}")
        values[key] = _read(key, value, defaults[key]) if isinstance(value, str) else value
    return kind(classes, kind.Settings(**values), machine)


def _read(name: str, text: str, default: Any) -> Any:
    """Text as a value of the default's type."""
    if isinstance(default, str):
        return text
    try:
        return type(default)(text)
    except ValueError:
        expected = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{name}: got {text!r}, expected {expected}") from None
