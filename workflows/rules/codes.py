"""Codes of what is reported, where a source confirmed one."""

from __future__ import annotations

from coverslip.workflows.rules.guideline import load_guideline


def code_of(name: str) -> str | None:
    """Of a measurement or category: system and code, such as "LOINC 83053-9"; None where none is known.

    >>> code_of("HSIL")
    'SNOMED CT 62061000119107'
    """
    return load_guideline("codes").values.get(name)
