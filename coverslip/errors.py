"""Every error Coverslip raises on purpose, one class per decision the caller can take.

::

    CoverslipError
    ├── SlideError
    │   ├── UnreadableSlideError     leave it out, or get a whole copy of the file
    │   ├── UnsupportedSlideError    convert it with another program first
    │   ├── DamagedSlideError        scan it again, or accept the damage by setting
    │   ├── SlideInformationError    give what the file does not say
    │   ├── NotBrightfieldError      choose a workflow made for such images
    │   └── StainMismatchError       choose the workflow made for this stain, or accept it by setting
    ├── ModelError
    │   ├── ModelUnavailableError    install, download or name another model
    │   └── ModelMismatchError       choose a model made for this slide
    ├── StoreError
    │   ├── StoreIncompleteError     run again: it continues
    │   └── StoreVersionError        read it with the version that wrote it
    ├── ReviewError
    │   ├── TrailAlteredError        restore the review from a copy
    │   ├── ReviewOpenError          close it where it is open, or open it again
    │   ├── ResultChangedError       put the earlier result back, or begin the review anew
    │   └── NotSignableError         mend the reason it names, then sign
    ├── MissingExtraError            install the named extra
    └── RequestError                 ask differently

Each carries `subject` (what it is about, mostly a file), `problem` (one clause) and `remedy` (what the
user can do). Errors of other libraries are mapped to these where they enter, with the slide's name.
"""

from __future__ import annotations


class CoverslipError(Exception):
    """Base of all: `subject`, `problem` and `remedy` are plain sentences for a person.

    >>> str(CoverslipError("a.svs", "the file is empty", "copy it again"))
    'a.svs: the file is empty; copy it again'
    """

    def __init__(self, subject: str, problem: str, remedy: str):
        super().__init__(subject, problem, remedy)
        self.subject, self.problem, self.remedy = subject, problem, remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


class SlideError(CoverslipError):
    """Something about one slide; a batch goes on with the others."""


class UnreadableSlideError(SlideError, OSError):
    """The file is not a slide, is cut off, or cannot be decoded at all."""


class UnsupportedSlideError(SlideError, ValueError):
    """The file is whole and its format known, but no reader here opens it."""


class DamagedSlideError(SlideError, ValueError):
    """More of the slide is missing or corrupt than the setting allows.

    `fraction` is the damaged share of the area that was looked at, 0 to 1.
    """

    def __init__(self, subject: str, problem: str, remedy: str, fraction: float):
        CoverslipError.__init__(self, subject, problem, remedy)
        self.fraction = fraction

    def __reduce__(self):
        return type(self), (self.subject, self.problem, self.remedy, self.fraction)


class SlideInformationError(SlideError, ValueError):
    """The file lacks something the request needs (mostly µm/px), or what it says is implausible."""


class NotBrightfieldError(SlideError, ValueError):
    """Fluorescence or several channels, where an RGB image of stained tissue on glass is needed."""


class StainMismatchError(SlideError, ValueError):
    """The slide's colours exclude every stain that the workflow is made for."""


class ModelError(CoverslipError):
    """Something about a model package."""


class ModelUnavailableError(ModelError, LookupError):
    """The model is not there, is incomplete, altered, or may not be loaded."""


class ModelMismatchError(ModelError, ValueError):
    """The model exists but is not made for this slide or workflow."""


class StoreError(CoverslipError):
    """Something about results on disk."""


class StoreIncompleteError(StoreError, OSError):
    """A part of the results is missing or half-written."""


class StoreVersionError(StoreError, ValueError):
    """The results were written by a version whose schema this one does not read."""


class ReviewError(CoverslipError):
    """Something about the review of one result."""


class TrailAlteredError(ReviewError, ValueError):
    """The audit trail, or what was signed, is not as it was written.

    `entry` is the number of the first bad entry, counted from 1; 0 where the trail itself is not at fault.
    """

    def __init__(self, subject: str, problem: str, remedy: str, entry: int = 0):
        CoverslipError.__init__(self, subject, problem, remedy)
        self.entry = entry

    def __reduce__(self):
        return type(self), (self.subject, self.problem, self.remedy, self.entry)


class ReviewOpenError(ReviewError, OSError):
    """The same reviewer has it open elsewhere, or somebody holds its lock for too long."""


class ResultChangedError(ReviewError, ValueError):
    """The result is not the one that the review was begun on."""


class NotSignableError(ReviewError, ValueError):
    """Signing is refused; `reason` is one of those that `coverslip.workflows.review.signing` names."""

    def __init__(self, subject: str, problem: str, remedy: str, reason: str):
        CoverslipError.__init__(self, subject, problem, remedy)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.subject, self.problem, self.remedy, self.reason)


class MissingExtraError(CoverslipError, ImportError):
    """An optional part is not installed; `remedy` is the command that installs it."""


class RequestError(CoverslipError, ValueError):
    """The request makes no sense as it stands; `remedy` names what does."""
