"""Small slides in the formats of scanners, made on the spot as OpenSlide's vendor code expects them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import JPEG2000, UID, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid
from slides import UM_PER_CM, halve, tissue

Rgb = NDArray[np.uint8]
JPEG_QUALITY = 90


def pyramid(rgb: Rgb, levels: int) -> list[Rgb]:
    """The image and its halvings."""
    found = [rgb]
    while len(found) < levels:
        found.append(halve(found[-1]))
    return found


def padded(rgb: Rgb, tile: int) -> Rgb:
    """With white at the right and below, to whole tiles."""
    height, width = (-(-side // tile) * tile for side in rgb.shape[:2])
    rows, columns = height - rgb.shape[0], width - rgb.shape[1]
    return np.pad(rgb, ((0, rows), (0, columns), (0, 0)), constant_values=255)


def write_philips(path: Path, rgb: Rgb, mpp: float = 0.25, *, tile: int = 256, levels: int = 3) -> Path:
    """Philips TIFF: every level padded to whole tiles, its true size to be had from the spacings only."""
    images = pyramid(padded(rgb, tile), levels)
    spacings = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING">'
        f'"{mpp / 1000 * 2**level:.6f}" "{mpp / 1000 * 2**level:.6f}"</Attribute></DataObject>'
        for level in range(levels)
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
        f'<Attribute Name="DICOM_PIXEL_SPACING">"{mpp / 1000:.6f}" "{mpp / 1000:.6f}"</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{spacings}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for level, image in enumerate(images):
            _write_page(
                tiff, padded(image, tile), tile, level, xml if level == 0 else None, "Philips DP v1.0"
            )
    return path


def _write_page(
    tiff: tifffile.TiffWriter,
    rgb: Rgb,
    tile: int,
    level: int,
    description: str | None,
    software: str | bool = False,
    mpp: float | None = None,
    extratags: Sequence[tuple[int, int, int, bytes, bool]] = (),
) -> None:
    tiff.write(
        rgb,
        tile=(tile, tile),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": JPEG_QUALITY},
        subfiletype=1 if level else 0,
        description=description,
        software=software,
        metadata=None,
        resolution=None if mpp is None else (UM_PER_CM / mpp, UM_PER_CM / mpp),
        resolutionunit=None if mpp is None else "CENTIMETER",
        extratags=extratags,
    )


SCN_AREA = (
    "<image><creationDate>2020-01-01T00:00:00Z</creationDate><device model='SCN400' version='1'/>"
    "<pixels>{dimensions}</pixels>"
    "<view sizeX='{width}' sizeY='{height}' offsetX='{x}' offsetY='{y}'/>"
    "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
    "<illuminationSource>brightfield</illuminationSource><numericalAperture>0.4</numericalAperture>"
    "</illuminationSettings></scanSettings></image>"
)


def write_scn(
    path: Path,
    areas: Sequence[tuple[Rgb, tuple[int, int]]],
    nm: int = 500,
    *,
    tile: int = 256,
    levels: int = 2,
    slide: tuple[int, int] = (2048, 2048),
) -> Path:
    """Leica SCN: images with the pixel of the slide at which each begins, on a slide of that many pixels.

    The last image of the file is a picture of the whole slide, which OpenSlide shows as `macro`.
    """
    images: list[Rgb] = []
    texts = []
    macro = np.full((slide[1] // 2**levels, slide[0] // 2**levels, 3), 200, np.uint8)
    for rgb, (x, y), factor in [*((*area, 1) for area in areas), (macro, (0, 0), 2**levels)]:
        dimensions = ""
        for image in pyramid(rgb, levels):
            height, width = image.shape[:2]
            dimensions += f"<dimension sizeX='{width}' sizeY='{height}' r='0' ifd='{len(images)}'/>"
            images.append(image)
        height, width = (side * factor * nm for side in rgb.shape[:2])
        texts.append(SCN_AREA.format(dimensions=dimensions, width=width, height=height, x=x * nm, y=y * nm))
    xml = (
        "<?xml version='1.0'?><scn xmlns='http://www.leica-microsystems.com/scn/2010/10/01'>"
        f"<collection name='c' sizeX='{slide[0] * nm}' sizeY='{slide[1] * nm}'>{''.join(texts)}"
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for n, image in enumerate(images):
            mpp = nm / 1000 * 2 ** (n % levels)
            _write_page(tiff, image, tile, n % levels, xml if n == 0 else None, mpp=mpp)
    return path


def write_bif(
    path: Path, rgb: Rgb, mpp: float = 0.25, *, tile: int = 256, levels: int = 2, overlap: int | None = None
) -> Path:
    """Ventana BIF with one area of whole tiles that overlap by so many pixels; None for Ventana's plain
    TIFF, which names no areas."""
    rows, columns = (side // tile for side in rgb.shape[:2])
    rgb = rgb[: rows * tile, : columns * tile]
    iscan = f"<iScan Magnification='40' ScanRes='{mpp}' Z-layers='1'/>".encode()
    with tifffile.TiffWriter(path) as tiff:
        _write_page(tiff, tissue(256, 256), 256, 0, "Label Image", extratags=[_xml_tag(iscan)])
        for level, image in enumerate(pyramid(rgb, levels)):
            tags = []
            if level == 0 and overlap is not None:
                tags = [_xml_tag(_stitching(rows, columns, tile, overlap).encode())]
            mag = 40 / 2**level
            _write_page(tiff, image, tile, level, f"level={level} mag={mag:g} quality=90", extratags=tags)
    return path


def _xml_tag(xml: bytes) -> tuple[int, int, int, bytes, bool]:
    return 700, 1, len(xml), xml, True


def _stitching(rows: int, columns: int, tile: int, overlap: int) -> str:
    """Tiles are numbered from the lower left in rows that run right, left, right, …"""
    number = {}
    for up in range(rows):
        for n in range(columns):
            number[columns - 1 - n if up % 2 else n, up] = up * columns + n + 1
    joint = (
        "<TileJointInfo FlagJoined='1' Confidence='100' Direction='{}' Tile1='{}' Tile2='{}' "
        f"OverlapX='{overlap}' OverlapY='{overlap}'/>"
    )
    joints = ""
    for (column, up), one in number.items():
        for direction, other in (("RIGHT", (column + 1, up)), ("UP", (column, up + 1))):
            if other in number:
                joints += joint.format(direction, one, number[other])
    return (
        "<EncodeInfo Ver='2'><SlideStitchInfo>"
        f"<ImageInfo AOIScanned='1' AOIIndex='0' NumRows='{rows}' NumCols='{columns}' Width='{tile}' "
        f"Height='{tile}' Pos-X='0' Pos-Y='0'>{joints}</ImageInfo></SlideStitchInfo>"
        "<AoiOrigin><AOI0 OriginX='0' OriginY='0'/></AoiOrigin></EncodeInfo>"
    )


def write_ndpi(
    path: Path, rgb: Rgb, mpp: float = 0.25, *, levels: int = 2, across: int = 4, subsampling: int = 1
) -> Path:
    """Hamamatsu NDPI: one JPEG per level, with `across` restart intervals in every row of blocks.

    `subsampling`: of colour as Pillow numbers it, 0 for 4:4:4, 1 for 4:2:2 (2, 4:2:0, OpenSlide cannot read).
    The sides are multiples of what one interval of the coarsest level spans.
    """
    images = pyramid(rgb, levels)
    with path.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<Q", 12))
        for level, image in enumerate(images):
            blocks = image.shape[1] // (16 if subsampling else 8)
            stream, starts = _restarting(image, blocks // across, subsampling)
            _write_ndpi_page(file, image, mpp * 2**level, 40 / 2**level, stream, starts, level == levels - 1)
    return path


def _restarting(rgb: Rgb, restart: int, subsampling: int) -> tuple[bytes, list[int]]:
    """The stream, and where each of its intervals begins."""
    data = BytesIO()
    Image.fromarray(rgb).save(
        data, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling, restart_marker_blocks=restart
    )
    stream = data.getvalue()
    scan = stream.index(b"\xff\xda")
    first = scan + 2 + int.from_bytes(stream[scan + 2 : scan + 4])
    later = [
        n + 2 for n in range(first, len(stream) - 1) if stream[n] == 0xFF and 0xD0 <= stream[n + 1] <= 0xD7
    ]
    return stream, [first, *later]


def _write_ndpi_page(
    file: BinaryIO, rgb: Rgb, mpp: float, lens: float, stream: bytes, starts: list[int], last: bool
) -> None:
    """Directory, values, stream; offsets of directories take eight bytes, unlike in TIFF."""
    height, width = rgb.shape[:2]
    per_cm = round(UM_PER_CM / mpp)
    values: list[tuple[int, int, int, bytes]] = [
        (256, 4, 1, struct.pack("<I", width)),
        (257, 4, 1, struct.pack("<I", height)),
        (258, 3, 3, struct.pack("<3H", 8, 8, 8)),
        (259, 3, 1, struct.pack("<I", 7)),
        (262, 3, 1, struct.pack("<I", 6)),
        (271, 2, 10, b"Hamamatsu\0"),
        (272, 2, 5, b"C0TE\0"),
        (273, 4, 1, b""),  # where the stream is to lie
        (277, 3, 1, struct.pack("<I", 3)),
        (278, 4, 1, struct.pack("<I", height)),
        (279, 4, 1, struct.pack("<I", len(stream))),
        (282, 5, 1, struct.pack("<2I", per_cm, 1)),
        (283, 5, 1, struct.pack("<2I", per_cm, 1)),
        (296, 3, 1, struct.pack("<I", 3)),
        (65420, 4, 1, struct.pack("<I", 1)),
        (65421, 11, 1, struct.pack("<f", lens)),
        (65424, 9, 1, struct.pack("<i", 0)),
        (65426, 4, len(starts), struct.pack(f"<{len(starts)}I", *starts)),
    ]
    begin = file.tell()
    at = begin + 2 + 12 * len(values) + 8 + 4 * len(values)
    size = sum(len(value) for *_, value in values if len(value) > 4)
    entries, rest = b"", b""
    for tag, kind, count, known in values:
        value = known or struct.pack("<I", at + size)
        if len(value) > 4:
            entries += struct.pack("<HHII", tag, kind, count, at + len(rest))
            rest += value
        else:
            entries += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    follows = 0 if last else at + size + len(stream)
    file.write(struct.pack("<H", len(values)) + entries + struct.pack("<Q", follows) + bytes(4 * len(values)))
    file.write(rest + stream)


def write_dicom(
    folder: Path,
    rgb: Rgb,
    mpp: float = 0.25,
    *,
    tile: int = 256,
    levels: int = 2,
    codec: str = "jpeg",
    offsets: str = "basic",
    fragments: int = 1,
) -> Path:
    """A DICOM whole slide image, a file per level. `codec`: "jpeg" or "jpeg2000"; `offsets`: of the frames,
    "basic", "extended" or "none"; `fragments`: pieces each frame is in."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    for level, image in enumerate(pyramid(rgb, levels)):
        data = _whole_slide(image, mpp * 2**level, tile, level, series)
        data.PhotometricInterpretation = "YBR_FULL_422" if codec == "jpeg" else "RGB"
        _put_frames(data, _frames(image, tile, codec), offsets, fragments)
        syntax = JPEGBaseline8Bit if codec == "jpeg" else JPEG2000
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(folder / f"level{level}.dcm", enforce_file_format=True)
    return folder


def _frames(rgb: Rgb, tile: int, codec: str) -> list[bytes]:
    whole = padded(rgb, tile)
    frames = []
    for y in range(0, whole.shape[0], tile):
        for x in range(0, whole.shape[1], tile):
            data = BytesIO()
            part = Image.fromarray(whole[y : y + tile, x : x + tile])
            if codec == "jpeg":
                part.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=1)
            else:
                part.save(data, "JPEG2000", no_jp2=True, mct=1)
            frames.append(data.getvalue())
    return frames


def _put_frames(data: Dataset, frames: list[bytes], offsets: str, fragments: int) -> None:
    data.NumberOfFrames = len(frames)
    if offsets == "extended":
        data.PixelData, table, lengths = encapsulate_extended(frames)
        data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = table, lengths
    else:
        data.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=offsets == "basic")
    data["PixelData"].is_undefined_length = True


def _whole_slide(rgb: Rgb, mpp: float, tile: int, level: int, series: UID) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = series, generate_uid()
    data.FrameOfReferenceUID = generate_uid()
    data.Modality = "SM"
    kind = "RESAMPLED" if level else "NONE"
    data.ImageType = ["DERIVED" if level else "ORIGINAL", "PRIMARY", "VOLUME", kind]
    data.Rows = data.Columns = tile
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = rgb.shape[:2]
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = rgb.shape[1] * mpp / 1000, rgb.shape[0] * mpp / 1000
    data.SamplesPerPixel, data.PlanarConfiguration, data.PixelRepresentation = 3, 0, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.DimensionOrganizationType = "TILED_FULL"
    data.NumberOfOpticalPaths = data.TotalPixelMatrixFocalPlanes = 1
    measures, groups, path = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    groups.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [groups]
    path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", 40
    data.OpticalPathSequence = [path]
    return data
