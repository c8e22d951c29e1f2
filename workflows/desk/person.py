"""Who reviews, remembered for the user of this computer in `reviewer.json` of the folder for settings.

Linux: ~/.config/coverslip, macOS: ~/Library/Application Support/coverslip, Windows: %LOCALAPPDATA%. The
environment variable COVERSLIP_CONFIG names another folder.
"""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path

import platformdirs

from coverslip.atomic import replacing
from coverslip.errors import RequestError
from coverslip.workflows.review.reviewer import Reviewer

FILE = "reviewer.json"


def settings_folder() -> Path:
    """Where it is; it need not exist."""
    return Path(
        os.environ.get("COVERSLIP_CONFIG") or platformdirs.user_config_path("coverslip", appauthor=False)
    )


def remembered() -> Reviewer | None:
    """Who signed or reviewed last here; None where nobody said, or what is kept cannot be read."""
    try:
        kept = json.loads((settings_folder() / FILE).read_text(encoding="utf-8"))
        return Reviewer(str(kept["name"]), str(kept.get("role", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RequestError):
        return None


def remember(person: Reviewer) -> None:
    """Nothing where the folder cannot be written: it is a convenience."""
    try:
        settings_folder().mkdir(parents=True, exist_ok=True)
        with replacing(settings_folder() / FILE) as temporary:
            temporary.write_text(json.dumps({"name": person.name, "role": person.role}) + "\n", "utf-8")
    except OSError:
        return


def reviewer_of(name: str | None, role: str | None) -> Reviewer:
    """As given, else as remembered, else the user of this computer."""
    kept = remembered()
    if name:
        known = kept is not None and kept.name == Reviewer(name).name
        return Reviewer(name, kept.role if role is None and known and kept else role or "")
    if kept is not None:
        return Reviewer(kept.name, kept.role if role is None else role)
    return Reviewer(_user(), role or "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "reviewer"
