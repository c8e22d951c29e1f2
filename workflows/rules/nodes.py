"""The size of a tumour deposit in a lymph node: isolated tumour cells, micrometastasis, macrometastasis.

Of one deposit: sizes are never added up across deposits, sections or nodes. Cut-offs are in
`guidelines/nodes.yaml`.
"""

from __future__ import annotations

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline, load_guideline

NODES = "nodes"


def deposit_category(size_mm: float, cells: int | None = None, rules: Guideline | None = None) -> str:
    """The category of one deposit by its greatest dimension, and its cells in a cross-section if counted.

    More cells than `itc_most_cells` make a small deposit a micrometastasis. Fewer in a larger one fit both
    texts, and `where_both_fit` says which counts. Without `cells` the size alone decides. Raises RequestError
    for what is negative.

    >>> deposit_category(0.15, 150), deposit_category(0.18, 250), deposit_category(2.1)
    ('isolated tumour cells', 'micrometastasis', 'macrometastasis')
    """
    rules = rules or load_guideline(NODES)
    if not size_mm >= 0 or (cells is not None and cells < 0):
        raise RequestError(f"a deposit of {size_mm} mm and {cells} cells", "makes no sense", "give its size")
    small, middle, large = rules["categories"]
    if size_mm > rules["micrometastasis_most_mm"]:
        return large
    if cells is not None and cells > rules["itc_most_cells"]:
        return middle
    few = cells is not None and cells < rules["itc_most_cells"] and rules["where_both_fit"] == "by cells"
    return middle if size_mm > rules["itc_most_mm"] and not few else small


def possible_categories(low_mm: float, high_mm: float, rules: Guideline | None = None) -> tuple[str, ...]:
    """The categories of every size from `low_mm` to `high_mm`, both included, from small to large.

    >>> possible_categories(0.1, 0.3)
    ('isolated tumour cells', 'micrometastasis')
    """
    rules = rules or load_guideline(NODES)
    names = list(rules["categories"])
    first, last = (names.index(deposit_category(size, rules=rules)) for size in (low_mm, high_mm))
    return tuple(names[first : last + 1])


def stage_of(category: str, rules: Guideline | None = None) -> str:
    """What a slide whose largest deposit has this category speaks for, such as "pN1mi"."""
    return (rules or load_guideline(NODES))["stages"][category]
