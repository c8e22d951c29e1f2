"""The slides that other tests stand on: do other programs read them as meant?"""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from slides import corrupt_tiles, halve, tissue, truncate, write_svs, write_tiff, zero_tiles


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "lzw", "zstd", None])
def test_a_tiff_reads_back_with_its_levels_and_resolution(tmp_path, compression):
    rgb = tissue(700, 520)
    path = write_tiff(tmp_path / "a.tiff", rgb, (0.5, 0.25), levels=3, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        assert [page.shape for page in tiff.pages] == [(520, 700, 3), (260, 350, 3), (130, 175, 3)]
        error = np.abs(tiff.pages[0].asarray().astype(int) - rgb).mean()
    assert error < 3 if compression == "jpeg" else error == 0


def test_openslide_sees_levels_and_both_resolutions(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(700, 520), (0.5, 0.25), levels=3)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((700, 520), (350, 260), (175, 130))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25)


def test_openslide_takes_the_svs_for_aperio(tmp_path):
    path = write_svs(tmp_path / "a.svs", tissue(), 0.25, 40)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.properties["openslide.objective-power"] == "40"
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert slide.level_dimensions == ((1024, 1024), (256, 256))
        assert set(slide.associated_images) == {"label", "macro", "thumbnail"}


def test_zeroed_tiles_are_missing_and_the_others_stay(tmp_path):
    rgb = tissue(512, 512)
    path = write_tiff(tmp_path / "a.tiff", rgb, compression="deflate")
    zero_tiles(path, [1])
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].databytecounts[1] == 0
        assert (tiff.pages[0].asarray()[:, :256] == rgb[:, :256]).all()
    with openslide.OpenSlide(path) as slide:
        alpha = np.asarray(slide.read_region((0, 0), 0, (512, 512)))[..., 3]
    assert not alpha[:256, 256:].any()
    assert (alpha[256:] == 255).all()


def test_corrupt_tiles_fail_and_the_others_stay(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(512, 512))
    corrupt_tiles(path, [3])
    with openslide.OpenSlide(path) as slide:
        assert np.asarray(slide.read_region((0, 0), 0, (256, 256)))[..., 3].all()
        with pytest.raises(openslide.OpenSlideError):
            slide.read_region((256, 256), 0, (256, 256))


def test_bytes_of_an_uncompressed_page_cannot_be_corrupt(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(512, 512), compression=None)
    with pytest.raises(ValueError, match="not compressed"):
        corrupt_tiles(path, [0])


def test_a_truncated_file_has_lost_its_end(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(), levels=3)
    size = path.stat().st_size
    truncate(path, 0.5)
    assert path.stat().st_size == size // 2
    with openslide.OpenSlide(write_tiff(tmp_path / "whole.tiff", tissue(), levels=3)) as slide:
        assert slide.level_count == 3
    with pytest.raises(openslide.OpenSlideError), openslide.OpenSlide(path) as slide:
        slide.read_region((0, 0), 0, slide.dimensions)


def test_halving_is_the_rounded_mean():
    rgb = np.array([[[0] * 3, [1] * 3, [9] * 3], [[1] * 3, [1] * 3, [9] * 3]], np.uint8)
    assert halve(rgb).tolist() == [[[1, 1, 1]]]
