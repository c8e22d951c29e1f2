"""Shares of areas: lymphocytes in stroma, stroma in tumour. Cut-offs: `guidelines/stil.yaml`, `tsr.yaml`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline, load_guideline

STIL, TSR = "stil", "tsr"


def stromal_til(infiltrate_mm2: float, stroma_mm2: float) -> float:
    """Per cent of the stromal area that mononuclear infiltrate covers; `stroma_mm2` includes the infiltrate.

    An area, not a count: lymphocytes per mm² are another figure. Raises RequestError for no stroma.

    >>> round(stromal_til(0.3, 2.0), 6)
    15.0
    """
    if not (stroma_mm2 > 0 and 0 <= infiltrate_mm2 <= stroma_mm2):
        raise RequestError(
            f"{infiltrate_mm2} mm² of infiltrate in {stroma_mm2} mm² of stroma",
            "make no share",
            "the stroma includes the infiltrate, and is more than nothing",
        )
    return 100 * infiltrate_mm2 / stroma_mm2


def til_band(percent: float, rules: Guideline | None = None) -> str:
    """By the helper cut-offs; a share that is just one of them lies where `bound_belongs_to` says.

    >>> til_band(4.9), til_band(15.0), til_band(30.0)
    ('low', 'intermediate', 'high')
    """
    rules = rules or load_guideline(STIL)
    place = bisect_right if rules["bound_belongs_to"] == "higher" else bisect_left
    return rules["bands"][place(rules["cut_offs"], percent)]


def stroma_share(stroma_mm2: float, tumour_mm2: float) -> float:
    """Stroma in per cent of stroma and tumour. Raises RequestError where there is neither."""
    if not (stroma_mm2 >= 0 and tumour_mm2 >= 0 and stroma_mm2 + tumour_mm2 > 0):
        raise RequestError(
            f"{stroma_mm2} mm² of stroma and {tumour_mm2} mm² of tumour", "make no share", "give areas"
        )
    return 100 * stroma_mm2 / (stroma_mm2 + tumour_mm2)


def stroma_category(percent: float, rules: Guideline | None = None) -> str:
    """By the measured share, not by the rounded one.

    >>> stroma_category(50.0), stroma_category(50.1)
    ('stroma-low', 'stroma-high')
    """
    return "stroma-high" if percent > (rules or load_guideline(TSR))["high_above"] else "stroma-low"


def in_steps(percent: float, rules: Guideline) -> int:
    """The nearest of the steps in which the rule reports; half-way goes up.

    >>> in_steps(12.5, load_guideline("stil")), in_steps(44.0, load_guideline("tsr"))
    (15, 40)
    """
    step = rules["step"]
    return int(percent / step + 0.5) * step
