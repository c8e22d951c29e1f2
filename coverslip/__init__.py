"""Coverslip: whole-slide analysis for digital pathology.

The public names are those of `__init__.pyi`; each is imported when it is first used, so that `import
coverslip` costs nothing.

    >>> import coverslip
    >>> slide = coverslip.open_slide("slide.svs")                             # doctest: +SKIP
    >>> tissue = coverslip.find_tissue(slide)                                 # doctest: +SKIP
    >>> plan = coverslip.plan_tiles(slide, tissue, mpp=0.5, size=224)         # doctest: +SKIP
    >>> report = coverslip.run(["slide.svs"], "out", coverslip.Ihc())         # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
