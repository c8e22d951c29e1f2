"""Quality first: artefacts where they are, evaluable area in the result, slides refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image
from slides import tissue, write_tiff

import coverslip
from coverslip.errors import RequestError, StainMismatchError
from coverslip.tiling.bubbles import BubbleSettings, DarkSettings, find_bubbles, find_dark, grey_density
from coverslip.tiling.focus import FocusSettings, is_sharp
from coverslip.tiling.folds import FoldSettings, find_folds
from coverslip.tiling.glass import Density
from coverslip.tiling.lattice import lay_lattice
from coverslip.tiling.plan import TilePlan, plan_tiles
from coverslip.tiling.quality import (
    ARTEFACTS,
    BLURRED,
    GOOD,
    QualityMap,
    QualitySettings,
    judge_quality,
)
from coverslip.tiling.stain_kind import StainEvidence, stain_evidence
from coverslip.tiling.tissue import TissueMask, TissueSettings, detect_tissue, overview_of, tissue_in
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.job import RunSettings
from coverslip.workflows.layout import lay_out, read_layout, write_layout
from coverslip.workflows.outputs import read_result
from coverslip.workflows.overlays import find_labels
from coverslip.workflows.quality import (
    COLOURS,
    evaluated,
    refuse_other_stain,
    stain_doubted,
    stain_said,
    with_evaluable,
)
from coverslip.workflows.result import Call, Urgency
from coverslip.workflows.run import plan_run
from coverslip.workflows.workflow import Conclusion, Workflow
from coverslip.wsi import Slide, open_slide

Rgb = NDArray[np.uint8]
NO_STAIN = stain_evidence(np.zeros((0, 3), np.float32))
EOSIN = StainEvidence(50_000, 0.2, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0)


def blurred(rgb: Rgb, sigma_px: float) -> Rgb:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


def written(folder: Path, rgb: Rgb, mpp: float = 0.5, name: str = "a.tif") -> Slide:
    return open_slide(str(write_tiff(folder / name, rgb, mpp, levels=2)))


def judged(slide: Slide, settings: QualitySettings | None = None) -> tuple[TissueMask, QualityMap]:
    overview = overview_of(slide, TissueSettings())
    found = tissue_in(slide, overview, TissueSettings())
    return found, judge_quality(slide, overview, found, settings)


def section(height: int = 300, width: int = 400, seed: int = 0) -> Rgb:
    """Solid H&E-coloured tissue on glass at 8 µm/px, grained as nuclei are at that resolution."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 1.2)
    amount = 0.25 + 0.08 * grain / grain.std()
    density = np.maximum(amount, 0.1)[..., None] * np.array([0.6, 1.4, 0.9])
    density[:30], density[-30:], density[:, :30], density[:, -30:] = 0, 0, 0, 0
    return np.clip(245 * 10**-density, 0, 255).astype(np.uint8)


def density_of(rgb: Rgb, mpp: float = 8.0) -> tuple[Density, NDArray[np.bool_]]:
    found = detect_tissue(rgb, np.ones(rgb.shape[:2], bool), mpp, TissueSettings())
    return Density(rgb, found.glass), found.mask


@pytest.fixture(scope="module")
def sharp_fields(shared: Path) -> list[Rgb]:
    """H&E of all tissue classes, 224 px at 0.5 µm/px."""
    folder = shared / "histology-tiles/crc-val-he-7k-mini"
    found = []
    for name in ("ADI", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"):
        paths = sorted((folder / name).glob("*"))[:2]
        found += [np.asarray(Image.open(path).convert("RGB"), np.uint8) for path in paths]
    return found or pytest.skip("the tiles are not here")


@pytest.mark.parametrize(("sigma_um", "sharp"), [(0.0, True), (1.0, True), (3.0, False), (6.0, False)])
def test_blur_is_told_whatever_the_tissue(sharp_fields, sigma_um: float, sharp: bool) -> None:
    said = []
    for rgb in sharp_fields:
        soft = blurred(rgb, sigma_um / 0.5) if sigma_um else rgb
        small = np.asarray(cv2.resize(soft, (112, 112), interpolation=cv2.INTER_AREA), np.uint8)
        said.append(is_sharp(small, FocusSettings()))
    assert said == [sharp] * len(said)


def test_a_field_without_anything_on_it_says_nothing_of_focus() -> None:
    glass = np.random.default_rng(0).normal(240, 0.8, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    assert is_sharp(glass, FocusSettings()) is None


def test_a_fold_is_found_and_solid_tissue_has_none() -> None:
    clean = section()
    density, mask = density_of(clean)
    assert not find_folds(density, mask, 8.0, FoldSettings()).any()
    truth = np.zeros(clean.shape[:2], np.uint8)
    cv2.line(truth, (80, 90), (320, 200), 1, 10)
    folded = clean.copy()
    folded[truth > 0] = (clean[truth > 0].astype(float) ** 2 / 245).astype(np.uint8)
    density, mask = density_of(folded)
    found = find_folds(density, mask, 8.0, FoldSettings())
    assert (found & (truth > 0)).sum() > 0.5 * truth.sum()
    assert (found & (truth > 0)).sum() > 0.75 * found.sum()


def test_a_fold_in_pale_uneven_tissue_is_found(shared: Path) -> None:
    """More of it than by comparing with the tissue around alone, and nothing more where there is none."""
    path = shared / "registration/Rat-Kidney_PanCytokeratin.jpg"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    clean = np.asarray(Image.open(path).convert("RGB").resize((702, 452), Image.Resampling.BOX), np.uint8)
    density, mask = density_of(clean)
    around_alone = FoldSettings(denser_than_sides=9.0)
    clean_found = find_folds(density, mask, 8.0, FoldSettings())
    assert (clean_found == find_folds(density, mask, 8.0, around_alone)).all()
    assert clean_found.sum() < 0.003 * mask.sum()
    amounts = -np.log10(np.maximum(clean, 1) / 245)
    strips = np.zeros(clean.shape[:2], np.uint8)
    height, width = strips.shape
    for row in (0.35, 0.5, 0.65):
        ends = [(int(0.3 * width), int(row * height)), (int(0.6 * width), int((row + 0.1) * height))]
        cv2.line(strips, *ends, 1, 10)
    twice = amounts + strips[..., None] * np.roll(amounts, (6, 5), (0, 1))
    folded, truth = np.clip(245 * 10**-twice, 0, 255).astype(np.uint8), mask & (strips > 0)
    density, mask = density_of(folded)
    found = find_folds(density, mask, 8.0, FoldSettings())
    assert (found & truth).sum() > 0.6 * found.sum()
    without = find_folds(density, mask, 8.0, around_alone)
    assert (found & truth).sum() > 1.2 * (without & truth).sum()


def test_a_real_fold_is_found(shared: Path) -> None:
    path = shared / "qc/tiles/high-nuclei-score-red-pen-level1.png"
    if not path.exists():
        pytest.skip("the tile is not here")
    image = Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.BOX)
    density, mask = density_of(np.asarray(image, np.uint8))
    found = find_folds(density, mask, 8.0, FoldSettings())
    rows, columns = np.nonzero(found)
    # It runs from (0, 60) to (127, 90), 8 pixels wide, and nothing else on the tile is one.
    line = 60 + 30 * columns / 127
    assert 0.04 < found.mean() < 0.12
    assert np.abs(rows - line).max() < 14


def test_a_dense_strip_of_another_dye_is_no_fold() -> None:
    rgb = section()
    strip = np.zeros(rgb.shape[:2], np.uint8)
    cv2.line(strip, (80, 90), (320, 200), 1, 10)
    blue = np.array([1.4, 1.1, 0.4]) * 0.45
    rgb[strip > 0] = np.clip(245 * 10**-blue, 0, 255).astype(np.uint8)
    density, mask = density_of(rgb)
    assert not find_folds(density, mask, 8.0, FoldSettings()).any()


def test_a_bubble_is_found_by_its_rim_and_round_tissue_is_none() -> None:
    rgb = section()
    assert not find_bubbles(grey_density(density_of(rgb)[0]), 8.0, BubbleSettings()).any()
    truth, rim = np.zeros(rgb.shape[:2], np.uint8), np.zeros(rgb.shape[:2], np.uint8)
    cv2.circle(truth, (200, 150), 60, 1, -1)
    cv2.circle(rim, (200, 150), 60, 1, 6)
    soft = cv2.GaussianBlur(rim.astype(float), (0, 0), 1.5)
    rgb = np.clip(rgb * 10 ** (-0.4 * soft[..., None]), 0, 255).astype(np.uint8)
    found = find_bubbles(grey_density(density_of(rgb)[0]), 8.0, BubbleSettings())
    assert (found & (truth > 0)).sum() > 0.95 * truth.sum()
    assert (found & (truth > 0)).sum() > 0.7 * found.sum()


def test_black_matter_is_found_and_specks_are_not() -> None:
    grey = np.zeros((100, 100), np.float32)
    grey[10:20, 10:20], grey[50, 50] = 0.9, 0.9
    found = find_dark(grey, 8.0, DarkSettings())
    assert found.sum() == 100
    assert not found[50, 50]


@pytest.fixture(scope="module")
def half_blurred(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """2 × 1 mm of tissue at 0.5 µm/px, the right half out of focus by 4 µm."""
    rgb = tissue(4096, 2048)
    rgb[:, 2048:] = blurred(rgb, 8.0)[:, 2048:]
    return written(tmp_path_factory.mktemp("half"), rgb)


def test_the_half_that_is_out_of_focus_is_on_the_map(half_blurred: Slide) -> None:
    found, quality = judged(half_blurred)
    middle = quality.values.shape[1] // 2
    left, right = quality.values[:, :middle], quality.values[:, middle:]
    assert (left[left > 0] == GOOD).mean() > 0.9
    assert (right[right > 0] == BLURRED).mean() > 0.9
    assert quality.focus
    assert quality.artefacts["out of focus"] == pytest.approx(0.5, abs=0.08)
    assert quality.evaluable == pytest.approx(1 - sum(quality.artefacts.values()), abs=1e-9)
    assert ((quality.values > 0) == (found.mask | found.pen)).all()
    assert (judged(half_blurred)[1].values == quality.values).all()


def test_few_fields_give_the_same_map_more_coarsely(half_blurred: Slide) -> None:
    _, quality = judged(half_blurred, QualitySettings(most_fields=8))
    assert quality.fields <= 8
    assert quality.artefacts["out of focus"] == pytest.approx(0.5, abs=0.2)


def test_a_slide_too_coarse_for_focus_does_not_say_that_it_is_sharp(tmp_path: Path) -> None:
    _, quality = judged(written(tmp_path, tissue(), 4.0))
    assert not quality.focus
    assert "out of focus" not in quality.artefacts


def test_faded_tissue_is_weak(tmp_path: Path) -> None:
    faded = (255 - (255 - tissue().astype(float)) * 0.14).astype(np.uint8)
    found, quality = judged(written(tmp_path, faded))
    assert not found.is_empty
    assert quality.artefacts["weak stain"] + quality.artefacts["out of focus"] > 0.9


def test_a_lattice_covers_the_tissue_with_no_more_fields_than_asked(half_blurred: Slide) -> None:
    found = tissue_in(half_blurred, overview_of(half_blurred, TissueSettings()), TissueSettings())
    for most in (1, 7, 40):
        lattice = lay_lattice(found, 256.0, most, 0.05)
        assert 1 <= len(lattice) <= most
        assert lattice.x.min() >= 0
        assert lattice.x.max() + 512 <= half_blurred.size.width
        assert lattice.y.max() + 512 <= half_blurred.size.height
        if most == 1:
            assert found.contains(
                np.add(lattice.x, 256.0, dtype=np.float64), np.add(lattice.y, 256.0, dtype=np.float64)
            ).all()
        assert lattice.spread(np.arange(len(lattice))).shape == found.mask.shape


def test_blank_glass_is_no_tissue_and_has_no_artefact(tmp_path: Path) -> None:
    glass = np.random.default_rng(0).normal(243, 1.5, (1024, 1024, 3)).clip(0, 255).astype(np.uint8)
    found, quality = judged(written(tmp_path, glass))
    assert found.is_empty
    assert (quality.evaluable, set(quality.artefacts.values())) == (0.0, {0.0})


@dataclass(frozen=True)
class Ran:
    home: Path
    tiles: list[dict] = field(default_factory=list)


@pytest.fixture(scope="module")
def out_of_focus(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run over a slide that is wholly out of focus."""
    folder = tmp_path_factory.mktemp("run")
    write_tiff(folder / "a.tif", blurred(tissue(1024, 1024), 8.0), 0.5, levels=2)
    report = coverslip.run([str(folder / "a.tif")], folder / "out", Ihc())
    assert not report.failures
    home = folder / "out/slides/a.tif"
    return Ran(home, pq.read_table(home / "tiles.parquet").to_pylist())


def test_a_slide_out_of_focus_is_done_and_not_evaluable(out_of_focus: Ran) -> None:
    result = read_result(out_of_focus.home)
    assert result.status == "done"
    assert result.quality.artefacts["out of focus"] > 0.95
    assert result.quality.evaluable_area_mm2 == pytest.approx(0, abs=0.02)
    assert result.abstentions[0].what == "quality"
    assert "out of focus" in result.abstentions[0].why
    assert "not evaluable" in result.summary
    assert result.provenance.derived["quality"]["focus_judged"] is True


def test_no_tile_is_dropped_and_each_says_how_good_it_is(out_of_focus: Ran) -> None:
    assert len(out_of_focus.tiles) == read_result(out_of_focus.home).quality.tiles
    assert all(0 <= row["evaluable"] < 0.05 for row in out_of_focus.tiles)


def test_the_map_is_a_label_of_the_pyramid(out_of_focus: Ran) -> None:
    labels = {label.name: label for label in find_labels(out_of_focus.home / "slide.ome.zarr")}
    assert {"tissue", "quality"} <= set(labels)
    store = out_of_focus.home / "slide.ome.zarr/labels"
    shown, mask = (
        np.squeeze(np.asarray(zarr.open_array(store / name / "0", mode="r")[:]))
        for name in ("quality", "tissue")
    )
    assert ((shown > 0) == (mask > 0)).all()
    assert (shown == BLURRED).sum() > 0.95 * (shown > 0).sum()
    assert labels["quality"].names[BLURRED] == "out of focus"
    assert {value: COLOURS[value][0] for value in ARTEFACTS} == dict(ARTEFACTS)


def fake(good: int, bad: int) -> tuple[TissueMask, QualityMap]:
    values = np.zeros((10, 10), np.uint8)
    values.ravel()[:good], values.ravel()[good : good + bad] = GOOD, BLURRED
    found = SimpleNamespace(is_empty=good + bad == 0, mpp=SimpleNamespace(x=100.0, y=100.0))
    return cast(TissueMask, found), QualityMap(values, 0, True, 1, NO_STAIN)


NEGATIVE = Call(category="NILM", text="no abnormal cells", confidence=0.9, code="x", urgency="routine")


@pytest.mark.parametrize(("good", "bad", "stays"), [(50, 50, True), (49, 51, False), (0, 80, False)])
def test_a_call_on_too_little_is_withheld(good: int, bad: int, stays: bool) -> None:
    found, quality = fake(good, bad)
    result = evaluated(Conclusion("negative", (), call=NEGATIVE), quality, found, 0.5)
    if stays:
        assert (result.call, result.abstentions) == (NEGATIVE, ())
        return
    call = result.call
    assert call is not None
    assert (call.category, call.confidence, call.code, call.urgency) == (None, None, None, "unevaluable")
    assert "no abnormal cells" in call.text
    assert [one.what for one in result.abstentions] == ["quality"]


def test_what_is_urgent_stays_urgent_and_what_is_not_called_gets_no_call() -> None:
    found, quality = fake(10, 90)
    seen = NEGATIVE.model_copy(update={"category": "HSIL", "urgency": "urgent"})
    assert evaluated(Conclusion("s", (), call=seen), quality, found, 0.5).call == seen
    assert evaluated(Conclusion("s", ()), quality, found, 0.5).call is None
    assert evaluated(Conclusion("no tissue", ()), fake(0, 0)[1], fake(0, 0)[0], 0.5).abstentions == ()


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(RequestError, match="share"):
        RunSettings(min_evaluable=1.5)


@pytest.mark.parametrize(
    ("expects", "refused"),
    [(("IHC",), True), (("Papanicolaou", "IHC"), True), (("IHC", "H&E"), False), ((), False)],
)
def test_a_slide_is_refused_only_when_every_expected_stain_is_excluded(expects, refused: bool) -> None:
    slide = cast(Slide, SimpleNamespace(path="a.svs"))
    workflow = cast(Workflow, SimpleNamespace(name="ihc", expects=expects))
    refuse_other_stain(slide, NO_STAIN, workflow)
    if not refused:
        refuse_other_stain(slide, EOSIN, workflow)
        return
    with pytest.raises(StainMismatchError, match="90% of what is stained is pink as eosin") as caught:
        refuse_other_stain(slide, EOSIN, workflow)
    assert "--accept-stain" in caught.value.remedy
    assert "it looks like H&E" in caught.value.problem


def test_what_colours_say_of_the_stain_is_in_the_result() -> None:
    workflow = cast(Workflow, SimpleNamespace(expects=("IHC",), name="ihc"))
    brown = StainEvidence(50_000, 0.2, 0.0, 0.5, 0.3, 0.3, 0.0, 0.0)
    haematoxylin = StainEvidence(50_000, 0.2, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0)
    pap = StainEvidence(50_000, 0.2, 0.0, 0.0, 0.0, 0.3, 0.1, 0.0)
    assert stain_said(brown, workflow) == "IHC, as its colours show"
    said = stain_said(haematoxylin, workflow)
    assert said == "doubtful: its colours do not tell whether it is IHC; nothing on it is brown as DAB"
    assert str(stain_said(EOSIN, workflow)).endswith("it was accepted")
    assert "too little" in str(stain_said(NO_STAIN, workflow))
    assert stain_said(brown, cast(Workflow, SimpleNamespace(expects=(), name="embed"))) is None
    plain = Conclusion("3 cells", ())
    assert stain_doubted(plain, haematoxylin, workflow) == stain_doubted(plain, brown, workflow) == plain
    (doubt,) = stain_doubted(plain, pap, workflow).abstentions
    assert doubt.what == "stain"
    assert doubt.why.startswith(
        "doubtful: it looks like Papanicolaou, and ihc is made for IHC; look at the slide"
    )
    assert "--accept-stain" in doubt.why


@pytest.mark.parametrize(("urgency", "then"), [("attention", "unevaluable"), ("urgent", "urgent")])
def test_a_call_on_what_looks_like_another_stain_is_withheld(urgency: Urgency, then: str) -> None:
    workflow = cast(Workflow, SimpleNamespace(expects=("Papanicolaou",), name="cytology"))
    brown = StainEvidence(50_000, 0.2, 0.0, 0.5, 0.3, 0.3, 0.1, 0.0)
    call = Call(category="ASC-H", text="ASC-H", confidence=0.9, urgency=urgency)
    found = stain_doubted(Conclusion("ASC-H", (), call=call), brown, workflow).call
    assert found is not None
    assert (found.category, found.confidence, found.urgency) == (None, None, then)
    assert "looks like IHC" in found.text
    assert "ASC-H" in found.text


@pytest.mark.parametrize(
    ("expects", "solid", "cover", "withheld"),
    [
        (("Papanicolaou",), 0.6, 0.9, True),
        (("Papanicolaou",), 0.1, 0.3, True),
        (("Papanicolaou",), 0.6, 0.3, False),
        (("Romanowsky",), 0.6, 0.3, True),
        (("Romanowsky",), 0.1, 0.3, False),
        (("IHC",), 0.6, 0.9, False),
        (("H&E",), 0.6, 0.3, False),
    ],
)
def test_a_call_on_what_does_not_lie_as_such_slides_do_is_withheld_unless_accepted(
    expects, solid: float, cover: float, withheld: bool
) -> None:
    """Colours alone say nothing here: haematoxylin, as all sections have."""
    workflow = cast(Workflow, SimpleNamespace(expects=expects, name="looked"))
    stain = StainEvidence(50_000, 0.2, *[0.0] * 6, solid=solid, spanning=0.9, cover=cover)
    assert stain.kind is None
    assert not stain.excluded
    conclusion = Conclusion("s", (), call=NEGATIVE)
    found, accepted = (stain_doubted(conclusion, stain, workflow, ok) for ok in (False, True))
    assert accepted.call == NEGATIVE
    assert accepted.abstentions == ()
    if not withheld:
        assert found == conclusion
        return
    assert found.call is not None
    assert (found.call.category, found.call.urgency) == (None, "unevaluable")
    assert f"does not look like {expects[0]}" in found.call.text
    assert "--accept-stain" in found.call.text
    assert accepted.summary.endswith("; it was accepted)")
    assert str(stain_said(stain, workflow, accepted=True)).endswith("; it was accepted")


def test_h_and_e_with_little_eosin_is_refused_by_ihc(shared: Path, tmp_path: Path) -> None:
    path = str(shared / "wsi/ome-tiff/OS-1-detail.ome.tif")
    (job,) = plan_run([path], tmp_path / "out", Ihc(), RunSettings()).jobs
    with open_slide(path) as slide, pytest.raises(StainMismatchError, match="pinker than the dense"):
        lay_out(job, slide)


def test_h_and_e_is_refused_by_ihc_unless_accepted(shared: Path, tmp_path: Path) -> None:
    path = str(shared / "wsi/aperio-svs/CMU-1-Small-Region.svs")
    for settings in (RunSettings(), RunSettings(accept_stain=True)):
        (job,) = plan_run([path], tmp_path / "out", Ihc(), settings).jobs
        with open_slide(path) as slide:
            if settings.accept_stain:
                assert lay_out(job, slide).quality.stain.kind == "H&E"
                continue
            with pytest.raises(StainMismatchError, match="is not IHC"):
                lay_out(job, slide)


def test_a_layout_is_read_as_it_was_written(half_blurred: Slide, tmp_path: Path) -> None:
    (job,) = plan_run([half_blurred.path], tmp_path / "out", Ihc(), RunSettings()).jobs
    layout = lay_out(job, half_blurred)
    write_layout(job.layout, layout, "request")
    again = read_layout(job.layout, "request", job.settings.tissue).quality
    assert (again.values == layout.quality.values).all()
    assert (again.stain, again.focus, again.fields) == (
        layout.quality.stain,
        layout.quality.focus,
        layout.quality.fields,
    )


def test_only_a_table_of_the_plans_tiles_gets_the_column(half_blurred: Slide) -> None:
    found, quality = judged(half_blurred)
    plan: TilePlan = plan_tiles(half_blurred, found, mpp=0.5, size=512, overlap=0, min_tissue=0.5)
    table = with_evaluable(pa.table({"x": plan.x, "y": plan.y}), plan, found, quality)
    share = table["evaluable"].to_numpy()
    assert share[plan.x < 1024].min() > 0.9
    assert share[plan.x >= 2560].max() < 0.1
    other = pa.table({"x": plan.x[1:], "y": plan.y[1:]})
    assert with_evaluable(other, plan, found, quality) is other
