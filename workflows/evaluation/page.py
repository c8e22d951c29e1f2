"""An evaluation for people: its page in HTML, and the folder with it, the document and the plots."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from coverslip.atomic import replacing
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows.evaluation.document import Evaluation
from coverslip.workflows.evaluation.plots import draw_plots
from coverslip.workflows.files import write_json
from coverslip.workflows.report import content_policy, environment, template_text
from coverslip.workflows.result import Measurement

DOCUMENT, PAGE = "evaluation.json", "evaluation.html"


def write_evaluation(evaluation: Evaluation, folder: Path, overwrite: bool = False) -> tuple[str, ...]:
    """The names of what was written: evaluation.json, evaluation.html, and each plot as SVG.

    Raises RequestError where an evaluation is there and `overwrite` is not given.
    """
    if (folder / DOCUMENT).exists() and not overwrite:
        raise RequestError(str(folder), "holds an evaluation", "name another folder, or use --overwrite")
    plots = draw_plots(evaluation)
    for name, text in {**plots, PAGE: render_page(evaluation, plots)}.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(folder / DOCUMENT, evaluation.model_dump(mode="json"))
    return (DOCUMENT, PAGE, *plots)


def render_page(evaluation: Evaluation, plots: dict[str, str]) -> str:
    """HTML that fetches nothing; the plots, our own SVG whose texts are escaped, are part of it."""
    style = template_text("report.css").replace("RUO", RUO)
    return (
        environment()
        .get_template("evaluation.html")
        .render(
            evaluation=evaluation,
            rows=paired(evaluation),
            complete=not evaluation.unanswered,
            plots=[Markup(plot) for plot in plots.values()],
            shown=shown,
            ruo=RUO,
            style=Markup(style),
            policy=content_policy(style, None),
        )
    )


def paired(evaluation: Evaluation) -> list[tuple[Measurement, Measurement]]:
    """Each figure of the answered slides, and the same of all."""
    return list(zip(evaluation.figures, evaluation.counting_unanswered, strict=True))


def shown(figure: Measurement) -> str:
    """To three decimals, with the interval.

    >>> shown(Measurement(name="AUC", value=0.5, unit="1", method="m"))
    '0.500'
    """
    if figure.value is None:
        return "not evaluable"
    ends = figure.interval
    return f"{figure.value:.3f}" + (f" ({ends.low:.3f} to {ends.high:.3f})" if ends else "")
