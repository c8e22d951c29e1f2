"""Who reviews."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from coverslip.errors import RequestError

MOST_LETTERS = 120


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person, by the name the signed report shows; two of the same name are one reviewer.

    Blanks around and within are made single, letters are in Unicode's composed form. Raises RequestError
    for an empty name, one that cannot be printed, or one of more than 120 letters.
    """

    name: str
    role: str = ""

    def __post_init__(self) -> None:
        for part, text in (("name", self.name), ("role", self.role)):
            plain = " ".join(unicodedata.normalize("NFC", text).split())
            if not plain.isprintable() or len(plain) > MOST_LETTERS:
                raise RequestError(f"the reviewer's {part}", "cannot be printed on one line", "shorten it")
            object.__setattr__(self, part, plain)
        if not self.name:
            raise RequestError("the reviewer", "has no name", "say who reviews")

    @property
    def slug(self) -> str:
        """For the name of a folder.

        >>> Reviewer("Dr. Änne  O'Hara").slug
        'dr-anne-o-hara'
        """
        plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode().lower()
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "reviewer"

    @property
    def key(self) -> str:
        """As `slug`, but different for every name."""
        return f"{self.slug}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def __str__(self) -> str:
        return f"{self.name} ({self.role})" if self.role else self.name
