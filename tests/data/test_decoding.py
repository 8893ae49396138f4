"""One picture, however it is stored, is one picture: for training, the base line, pages, plots and checks."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import ExifTags, Image

from pml_center import plots
from pml_center.data import LabeledImages, check_data, eval_transform, inspect_images, train_transform
from pml_center.decoding import TURNS, convert, decode, standard
from pml_center.pages.thumbnails import Thumbnails
from pml_center.training.measurement import pixel_rows

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
DEEP = GREY.astype(np.uint16) * 257
BACK = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}


def stored(pixels, kind, **options):
    """The bytes of a file."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def turned(pixels, orientation, kind="PNG", **options):
    """A file that holds the pixels on their side, and says how they are turned upright."""
    turn = TURNS[orientation]
    lying = np.asarray(Image.fromarray(pixels).transpose(BACK.get(turn, turn)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return stored(lying, kind, exif=exif, **options)


def cut_out():
    """A black drawing on nothing, whose shape is in alpha alone."""
    return np.dstack([np.zeros((6, 9, 3), np.uint8), 255 - GREY])


FORMS = {
    "16-bit PNG": stored(DEEP, "PNG"),
    "16-bit PGM": b"P5\n9 6\n65535\n" + DEEP.astype(">u2").tobytes(),
    "16-bit TIFF": stored(DEEP, "TIFF"),
    "float TIFF": stored((GREY / 255).astype(np.float32), "TIFF"),
    "cut-out": stored(cut_out(), "PNG"),
    "RGB": stored(np.dstack([GREY] * 3), "PNG"),
    "16-bit PNG on its side": turned(DEEP, 6),
    "cut-out on its side": turned(cut_out(), 8),
    "TIFF on its side": turned(GREY, 3, "TIFF"),
    **{f"PNG, orientation {orientation}": turned(GREY, orientation) for orientation in TURNS},
}


def thumbnail(images):
    return Thumbnails().uri(images, 0)


READERS = {
    "transform": lambda data: np.asarray(
        data.with_transform(eval_transform((6, 9), 1, (0.5,), (0.5,)))[0][0], dtype=np.float32
    ),
    "base line": lambda data: pixel_rows(data, 1, 0),
    "thumbnail": thumbnail,
    "thumbnail of a PIL image": lambda data: thumbnail([data.stored(0)]),
    "data check": lambda data: [fact.digest + fact.error for fact in inspect_images(data)],
    "plot": lambda data: np.asarray(
        plots.retrieval_gallery([data.stored(0)], [[]], np.zeros((1, 0)), ax=Figure().subplots()).images[0].get_array()
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_looks_the_same_however_it_is_stored(form, tmp_path):
    (tmp_path / "plain.png").write_bytes(stored(GREY, "PNG"))
    (tmp_path / "other.png").write_bytes(FORMS[form])
    plain, other = (LabeledImages([tmp_path / f"{name}.png"], [0], ["a"]) for name in ("plain", "other"))
    np.testing.assert_array_equal(convert(other[0][0], 1), GREY)
    for name, read in READERS.items():
        np.testing.assert_array_equal(read(other), read(plain), err_msg=name)


def test_a_transform_turns_what_no_data_set_has_turned():
    lying = decode(BytesIO(turned(GREY, 6)))
    seen = [
        kind((6, 9), 1, (0.5,), (0.5,), **options)(image)
        for image in (lying, Image.fromarray(GREY))
        for kind, options in ((eval_transform, {}), (train_transform, {"hflip": 1.0}))
    ]
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[1], seen[3])


def test_a_picture_is_turned_once():
    image = standard(decode(BytesIO(turned(GREY, 6, "WEBP", lossless=True))))
    np.testing.assert_array_equal(np.asarray(convert(standard(image), 1)), GREY)


def test_damaged_exif_data_leave_a_picture_as_it_lies():
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense", b"Exif\0\0"):
        image = decode(BytesIO(stored(GREY, "PNG", exif=exif)))
        np.testing.assert_array_equal(standard(image), GREY)


def test_a_clear_grey_of_16_bits_is_clear():
    clear = Image.open(BytesIO(stored(DEEP, "PNG", transparency=int(DEEP[0, 0]))))
    corner = GREY[0, 0]
    expected = np.where(corner == GREY, 255, GREY)
    np.testing.assert_array_equal(convert(clear, 1), expected)


UNKNOWN = {
    "32-bit integers": (stored(DEEP.astype(np.int32), "TIFF"), "got mode I (32-bit integers)"),
    "floats beyond 1": (stored(GREY.astype(np.float32), "TIFF"), f"floating point) from {GREY.min()} to {GREY.max()}"),
    "not a number": (stored(np.full((2, 2), np.nan, np.float32), "TIFF"), "floating point) from nan"),
    "LAB": (None, "got mode LAB"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_pixels_without_a_known_range_are_named_by_the_check_and_refused(kind, photos):
    content, got = UNKNOWN[kind]
    root = photos("a/1.png", "a/2.png", "b/3.png", "b/4.png")
    path = root / "a" / "odd.tif"
    if content is None:
        Image.new("LAB", (4, 4)).save(path)
    else:
        path.write_bytes(content)
    assert {name: got in error for name, error in check_data(root).unreadable.items()} == {str(path): True}
    with pytest.raises(ValueError, match=r"a/odd\.tif .*pixels must have a known range") as error:
        LabeledImages([path], [0], ["a"])[0]
    assert got in str(error.value)
