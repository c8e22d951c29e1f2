"""Model repositories on Hugging Face, through its own cache: what is there is used without a connection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require

PREFIX = "hf:"
# Never a pickle. The first two are a package of ours, the next two one of WSInfer, the last says the licence.
FILES = ("model.json", "weights.safetensors", "config.json", "model.safetensors", "README.md")


@dataclass(frozen=True, slots=True)
class Repository:
    """`revision`: a branch, tag or commit; None for the default branch, as the cache knows it."""

    name: str
    revision: str | None

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.name}"


def parse_repository(text: str) -> Repository:
    """`hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`. Raises RequestError.

    >>> parse_repository("hf:lab/model@v2")
    Repository(name='lab/model', revision='v2')
    """
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    try:
        require("huggingface_hub.utils").validate_repo_id(name)
    except ValueError as error:
        raise RequestError(text, f"is no repository ({error})", "write hf:OWNER/NAME@REVISION") from error
    if name.count("/") != 1:
        raise RequestError(text, "names no owner and model", "write hf:OWNER/NAME@REVISION")
    return Repository(name, revision or None)


def fetch_repository(repository: Repository) -> Path:
    """The folder in the cache that holds those of FILES the repository has; fetched where they are not there.

    Raises ModelUnavailableError when it cannot be had, naming the page or the command that helps.
    """
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    ask = {"repo_id": repository.name, "revision": repository.revision, "allow_patterns": list(FILES)}
    try:
        folder = Path(hub.snapshot_download(**ask, local_files_only=True))
        if _is_whole(folder):
            return folder
    except errors.LocalEntryNotFoundError:
        pass  # it was never fetched
    try:
        return Path(hub.snapshot_download(**ask))
    except errors.GatedRepoError as error:
        remedy = f"accept it at {repository.page}, then: hf auth login"
        raise ModelUnavailableError(
            repository.name, "is gated: its licence has to be accepted first", remedy
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelUnavailableError(
            repository.name, f"has no revision {repository.revision}", f"see {repository.page}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelUnavailableError(
            repository.name,
            "is not there, or is private",
            f"check the name at {repository.page}; for a private one: hf auth login",
        ) from error
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise ModelUnavailableError(
            repository.name,
            f"is not in the local cache and cannot be fetched ({_first_line(error)})",
            _fetch(repository),
        ) from error


def _is_whole(folder: Path) -> bool:
    """A cache may hold only what somebody else asked for."""
    return any(all((folder / name).is_file() for name in FILES[n : n + 2]) for n in (0, 2))


def _fetch(repository: Repository) -> str:
    revision = f" --revision {repository.revision}" if repository.revision else ""
    return f"where there is a connection: hf download {repository.name}{revision}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
