"""What a licence says of commercial use, as far as its name tells. No legal advice."""

from __future__ import annotations

import re

from coverslip.errors import ModelUnavailableError

# By SPDX identifier (https://spdx.org/licenses), in lower case: none of them limits what a work is used for.
ANY_USE = frozenset(
    (
        *("0bsd", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0"),
        *("cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "unlicense"),
    )
)
NO_COMMERCE = re.compile(r"(?<![a-z])(nc|non-?commercial|research-(only|use)|academic)(?![a-z])")
SUFFIX = re.compile(r"-(only|or-later)$")


def commercial_use(licence: str) -> bool | None:
    """Whether it allows commercial use; None where its name does not tell.

    >>> commercial_use("CC-BY-4.0"), commercial_use("CC-BY-NC-ND-4.0"), commercial_use("not stated")
    (True, False, None)
    """
    name = re.sub(r"[\s_]+", "-", licence.strip().casefold())
    if NO_COMMERCE.search(name):
        return False
    return True if SUFFIX.sub("", name) in ANY_USE else None


def refuse_other_than_commercial(model: str, licence: str) -> None:
    """Raises ModelUnavailableError unless the licence is known to allow commercial use."""
    allows = commercial_use(licence)
    if not allows:
        says = "is not known to allow" if allows is None else "does not allow"
        raise ModelUnavailableError(
            model,
            f"its licence, {licence}, {says} commercial use",
            "choose another model, or leave out --commercial-only where the use is none",
        )
