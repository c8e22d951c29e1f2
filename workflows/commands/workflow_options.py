"""The options that say which workflow is run, and how; `workflow_of` makes it of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from coverslip.workflows.registry import WorkflowKind
    from coverslip.workflows.workflow import Workflow

Function = TypeVar("Function", bound=Callable[..., Any])
# Where click keeps for the command what these options were given: settings and all else asked, by name.
SETTINGS, ASKED = f"{__name__}.settings", f"{__name__}.asked"


def _setting(option: str, setting: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that stands for a setting of the workflow, for those that are asked for often."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            context.meta.setdefault(SETTINGS, {})[option] = (setting, value)

    return click.option(option, expose_value=False, callback=keep, **attributes)


def _asked(option: str, **attributes: Any) -> Callable[[Function], Function]:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        context.meta.setdefault(ASKED, {})[parameter.name] = value

    return click.option(option, expose_value=False, callback=keep, **attributes)


OPTIONS = (
    _asked(
        "--workflow",
        required=True,
        help="What to do with each slide: a name of coverslip workflows list, or a file that coverslip "
        "workflows show wrote.",
    ),
    _asked(
        "--model",
        help="For workflows that need one: a package's folder, a name, or hf:OWNER/NAME@REVISION; for cells "
        "also classical, the default, which needs none, or instanseg:, stardist: or cellpose: and a model of "
        "theirs.",
    ),
    _asked(
        "--commercial-only", is_flag=True, help="Refuse a model whose licence is not known to allow that."
    ),
    _asked(
        "--set",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting of the workflow, such as score.enough_nuclei=200; may be given several times.",
    ),
    _setting("--marker", "marker", help="For ihc: what was stained, such as ki67, er, pr, her2 or pdl1."),
    _setting("--tumour", "tumour", help="For ihc: GeoJSON of the tumour, or a tile model that finds it."),
    _setting("--preparation", "preparation", help="For cytology: liquid-based or conventional."),
    _setting(
        "--guideline", "guideline", help="The rule's id, or a YAML file of your own, where one is followed."
    ),
    _setting(
        "--site",
        "site",
        type=click.Choice(["nucleus", "cytoplasm"]),
        help="For ihc: where the marker stains; by default in the nucleus.",
    ),
    _setting(
        "--tile-mpp",
        "mpp",
        type=click.FloatRange(min=0, min_open=True),
        help="µm per pixel of the tiles, where a slide-level package does not say.",
    ),
    _setting(
        "--tile-size",
        "size",
        type=click.IntRange(min=1),
        help="Their side in pixels, where it does not say; by default the encoder's.",
    ),
    _setting(
        "--exact",
        "exact",
        is_flag=True,
        help="Decode stored tiles in full; otherwise within 40 dB of that.",
    ),
    _asked("--encoder", help="For slide: by default the one that the package names."),
    _asked(
        "--weights",
        type=click.Path(path_type=Path),
        help="Of the encoder, a safetensors file; by default what is in the local Hugging Face cache.",
    ),
    _asked("--random-weights", is_flag=True, help="Of the encoder, for trying out: they mean nothing."),
)


def workflow_options(function: Function) -> Function:
    """All of them, in their order in the help."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def workflow_of(context: click.Context) -> Workflow:
    """What the options ask for. Raises RequestError for what the workflow has no use for."""
    from coverslip.workflows.registry import Asked
    from coverslip.workflows.workflow_file import read_workflow, workflow

    asked = dict(context.meta[ASKED])
    name, given = asked.pop("workflow"), asked.pop("set")
    settings = _named(context.meta.get(SETTINGS, {}), read_workflow(name).kind)
    return workflow(name, {**settings, **_parsed(given)}, Asked(**asked))


def _named(given: Mapping[str, tuple[str, Any]], kind: WorkflowKind) -> dict[str, Any]:
    from coverslip.errors import RequestError

    defaults = kind.settings()
    for option, (setting, _) in given.items():
        if not hasattr(defaults, setting):
            raise RequestError(option, f"is not used by the workflow {kind.name}", "leave it out")
    return dict(given.values())


def _parsed(given: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE by name, values read as YAML: numbers, lists in brackets, true and false."""
    import yaml

    from coverslip.errors import RequestError

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--set {text}", "has no value", "write NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {text}", "has no readable value", "quote it") from error
    return found
