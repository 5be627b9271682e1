"""What files and boxes say of where the objects are: the right value of every kind of mask, and a refusal for what
says nothing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz.errors import OptionError, PictureError
from simpool_viz.images import read_picture
from simpool_viz.scores.references import (
    Reference,
    parse_reference,
    read_grey_mask,
    read_labels,
    read_reference,
    reference_of_boxes,
    reference_of_labels,
    resized,
)
from tests.helpers import one_object

# --- mask files
# ------------------------------------------------------------------------------------------------------------


def saved(folder: Path, labels: np.ndarray, name: str = "mask.png", mode: str = "L") -> Path:
    image = Image.fromarray(labels.astype(np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 756 + [224, 224, 192])
    (image if mode == "P" else image.convert(mode)).save(folder / name)
    return folder / name


@pytest.mark.parametrize("value", [255, 1, 38])
def test_two_valued_mask_marks_the_object_by_any_value_and_has_no_void(tmp_path: Path, value: int) -> None:
    objects = one_object().objects
    read = read_reference(saved(tmp_path, value * objects))
    assert np.array_equal(read.objects, objects) and not read.void.any() and read.size == (140, 90)


@pytest.mark.parametrize("mode", ["1", "RGB", "P", "L"])
def test_masks_of_every_mode_are_read(tmp_path: Path, mode: str) -> None:
    objects = one_object().objects
    assert np.array_equal(
        read_reference(saved(tmp_path, (1 if mode == "P" else 255) * objects, mode=mode)).objects, objects
    )


@pytest.mark.parametrize("mode", ["L", "P"])
def test_in_a_label_map_255_is_void_and_every_other_id_an_object(tmp_path: Path, mode: str) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:6, 3:9], labels[10:15, 20:25], labels[9, 20:25] = 1, 2, 255
    read = read_reference(saved(tmp_path, labels, mode=mode))
    assert np.array_equal(read.objects, (labels == 1) | (labels == 2)) and np.array_equal(read.void, labels == 255)


def test_16_bit_instance_map_is_read(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 3:9], labels[10:15, 20:25] = 1001, 26001
    Image.fromarray(labels).save(tmp_path / "mask.png")
    assert np.array_equal(read_reference(tmp_path / "mask.png").objects, labels > 0)


def test_mask_with_soft_edges_is_cut_at_half_and_not_taken_for_a_label_map(tmp_path: Path) -> None:
    hard = Image.fromarray(255 * one_object((180, 280)).objects.astype(np.uint8))
    soft = np.asarray(hard.rotate(20, Image.Resampling.BICUBIC).resize((140, 90), Image.Resampling.LANCZOS))
    assert len(np.unique(soft)) > 20
    read = read_reference(saved(tmp_path, soft))
    assert np.array_equal(read.objects, soft >= 128) and not read.void.any()


@pytest.mark.parametrize("soft", [128, 129, 254])
def test_soft_mask_of_few_values_is_cut_at_128(tmp_path: Path, soft: int) -> None:
    """A value from 128 to 254 beside 255 tells of soft edges, since label maps number their objects from 1."""
    values = np.zeros((12, 20), np.uint8)
    values[2:9, 3:15], values[2, 3:15], values[8, 3:15], values[9, 3:15] = 255, soft, 127, 1
    read = read_reference(saved(tmp_path, values))
    assert np.array_equal(read.objects, values >= 128) and not read.void.any()


@pytest.mark.parametrize("largest", [1, 127])
def test_one_object_with_void_around_it_is_a_label_map(tmp_path: Path, largest: int) -> None:
    labels = np.zeros((12, 20), np.uint8)
    labels[2:9, 3:15], labels[2, 3:15] = largest, 255
    read = read_reference(saved(tmp_path, labels))
    assert np.array_equal(read.objects, labels == largest) and np.array_equal(read.void, labels == 255)


@pytest.mark.parametrize(
    ("spread", "pixels", "refused"), [(24, 5000, False), (25, 100, False), (200, 100, False), (25, 101, True)]
)
def test_mask_may_be_tinted_by_24_levels_and_coloured_in_one_pixel_of_a_hundred(
    tmp_path: Path, spread: int, pixels: int, refused: bool
) -> None:
    rgb = np.zeros((80, 125, 3), np.uint8)  # 10,000 pixels
    rgb[10:60, 20:90] = 255
    flat = rgb.reshape(-1, 3)
    flat[:pixels, 2] = np.where(flat[:pixels, 0] > 0, 255 - spread, spread)
    Image.fromarray(rgb).save(tmp_path / "mask.png")
    if refused:
        with pytest.raises(ValueError, match="it is a colour picture"):
            read_reference(tmp_path / "mask.png")
    else:
        assert read_reference(tmp_path / "mask.png").objects.any()


def test_jpeg_mask_is_cut_at_half(tmp_path: Path) -> None:
    objects = one_object().objects
    read = read_reference(saved(tmp_path, 255 * objects, "mask.jpg"))
    assert np.array_equal(read.objects, objects) and not read.void.any()


def test_mask_file_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mask\.png marks no object"):
        read_reference(saved(tmp_path, np.zeros((20, 30))))
    (tmp_path / "text.png").write_text("no mask")
    with pytest.raises(ValueError, match=r"text\.png is not a picture in a format that can be read"):
        read_reference(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"absent\.png cannot be read"):
        read_reference(tmp_path / "absent.png")
    whole = saved(tmp_path, np.random.default_rng(0).integers(256, size=(90, 140))).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.png is damaged or cut off"):
        read_reference(tmp_path / "half.png")


def test_mask_file_of_900_megapixels_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(ValueError, match=r"huge\.png has more than \d+ megapixels"):
        read_reference(tmp_path / "huge.png")


def test_colour_photo_is_no_reference(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png cannot be read: it is a colour picture"):
        read_reference(tmp_path / "photo.png")
    grey = np.repeat((pixels[:, :, :1] > 127) * np.uint8(255), 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_reference(tmp_path / "grey.png").objects, grey[:, :, 0] > 0)


# --- what was read wrongly without a word


OBJECT = (slice(4, 15), slice(6, 25))  # rows and columns of a picture of 40 x 30


def values_of(inside: int, outside: int = 0, dtype: type = np.uint8) -> np.ndarray:
    values = np.full((30, 40), outside, dtype)
    values[OBJECT] = inside
    return values


def is_the_object(reference: Reference) -> bool:
    return np.array_equal(reference.objects, values_of(1).astype(bool)) and not reference.void.any()


@pytest.mark.parametrize("white", [255, 0, 90])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_mask_in_the_transparency_of_one_colour_is_read_there(tmp_path: Path, white: int, mode: str) -> None:
    alpha = Image.fromarray(values_of(255))
    image = Image.new("RGBA", alpha.size, (white, white, white))
    image.putalpha(alpha)
    if mode == "P":
        image = image.quantize(4)
    elif mode == "LA":
        image = image.convert("LA")
    image.save(tmp_path / "mask.png")
    assert is_the_object(read_reference(tmp_path / "mask.png"))


def test_soft_transparency_is_cut_at_half_and_a_photo_cut_out_is_its_outline(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, 40).round().astype(np.uint8) * np.ones((30, 1), np.uint8)
    for rgb in (np.full((30, 40, 3), 255, np.uint8), np.random.default_rng(0).integers(256, size=(30, 40, 3))):
        Image.fromarray(np.dstack([rgb, alpha]).astype(np.uint8), "RGBA").save(tmp_path / "mask.png")
        assert np.array_equal(read_reference(tmp_path / "mask.png").objects, alpha >= 128)


def test_transparent_pixels_are_background_whatever_their_hidden_value(tmp_path: Path) -> None:
    labels = values_of(1)
    labels[20:25, 5:9] = 2
    alpha = 255 * (labels > 0).astype(np.uint8)
    hidden = np.where(labels > 0, labels, 77).astype(np.uint8)
    Image.fromarray(np.dstack([hidden, alpha]), "LA").save(tmp_path / "mask.png")
    read = read_reference(tmp_path / "mask.png")
    assert np.array_equal(read.labels, labels) and len(read.instances) == 2


@pytest.mark.parametrize("opacity", [255, 200])
def test_transparency_that_does_not_vary_says_nothing(tmp_path: Path, opacity: int) -> None:
    Image.fromarray(np.dstack([values_of(255), np.full((30, 40), opacity, np.uint8)]), "LA").save(tmp_path / "mask.png")
    assert is_the_object(read_reference(tmp_path / "mask.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_is_turned_as_its_photo_is(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    photo = np.repeat(values_of(200, 40)[:, :, None], 3, axis=2)
    Image.fromarray(photo).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(values_of(255)).save(tmp_path / "mask.png", exif=exif)
    upright = read_picture(tmp_path / "photo.png")
    read = read_reference(tmp_path / "mask.png", upright.size)
    assert np.array_equal(read.objects, upright.rgb[:, :, 0] > 100)


def test_trimap_is_refused_until_it_is_said_what_is_object(tmp_path: Path) -> None:
    trimap = values_of(1, 2)
    trimap[3], trimap[15] = 3, 3
    Image.fromarray(trimap).save(tmp_path / "mask.png")
    with pytest.raises(PictureError, match=r"leaves no background: its values are 1, 2, 3\..*--object-ids"):
        read_reference(tmp_path / "mask.png")
    assert is_the_object(read_reference(tmp_path / "mask.png", object_ids=[1]))
    both = read_reference(tmp_path / "mask.png", object_ids=[1, 3])
    assert np.array_equal(both.objects, trimap != 2) and [int(m.sum()) for m in both.instances] == [209, 80]
    with pytest.raises(OptionError, match="has no label 0, 7; its labels are 1, 2, 3"):
        read_reference(tmp_path / "mask.png", object_ids=[7, 0, 1])


def test_classes_can_be_chosen_from_a_label_map_whose_void_stays_void(tmp_path: Path) -> None:
    labels = values_of(7, 3)
    labels[0], labels[28] = 255, 0
    image = Image.fromarray(labels, "P")
    image.putpalette(list(np.random.default_rng(0).integers(256, size=768)))
    image.save(tmp_path / "mask.png")
    read = read_reference(tmp_path / "mask.png", object_ids=[7])
    assert np.array_equal(read.objects, labels == 7) and np.array_equal(read.void, labels == 255)
    assert np.array_equal(read_reference(tmp_path / "mask.png", object_ids=[255]).objects, labels == 255)


@pytest.mark.parametrize(("low", "high"), [(2, 252), (0, 200), (5, 255), (0, 255)])
@pytest.mark.parametrize("kind", ["L", "P", "P backwards"])
def test_grey_ramp_is_a_soft_mask_however_it_is_kept(tmp_path: Path, low: int, high: int, kind: str) -> None:
    ramp = np.linspace(low, high, 80).round().astype(np.uint8) * np.ones((20, 1), np.uint8)
    image = Image.fromarray(ramp)
    if kind != "L":
        levels = np.unique(ramp)[:: -1 if "backwards" in kind else 1]
        indices = np.zeros(256, np.uint8)
        indices[levels] = np.arange(len(levels))
        image = Image.fromarray(indices[ramp], "P")
        image.putpalette(np.repeat(levels, 3).tolist())
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_reference(tmp_path / "mask.png").objects, ramp >= 128)


@pytest.mark.parametrize(("low", "high"), [(2, 252), (10, 128), (127, 200)])
def test_two_greys_without_black_are_told_apart_at_half(tmp_path: Path, low: int, high: int) -> None:
    Image.fromarray(values_of(high, low)).save(tmp_path / "mask.png")
    assert is_the_object(read_reference(tmp_path / "mask.png"))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_soft_masks_of_more_than_8_bits_are_cut_at_half(tmp_path: Path, dtype: type) -> None:
    top = 1.0 if dtype is np.float32 else 65535
    ramp = (np.linspace(0, top, 600).astype(dtype) * np.ones((4, 1), dtype)).astype(dtype)
    Image.fromarray(ramp).save(tmp_path / "mask.tiff")
    found = read_reference(tmp_path / "mask.tiff").objects
    assert abs(int(found[0].sum()) - 300) <= 1 and found[0, -1] and not found[0, 0]


def test_labels_of_many_objects_stay_labels(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint8)
    for number in range(1, 41):
        labels[number - 1, number : number + 5] = number
    Image.fromarray(labels).save(tmp_path / "mask.png")
    assert len(read_reference(tmp_path / "mask.png").instances) == 40


def test_voc_palette_holds_its_indices(tmp_path: Path) -> None:
    labels = values_of(15)
    labels[3], labels[20:22] = 255, 2
    image = Image.fromarray(labels, "P")
    colours = np.zeros((256, 3), np.uint8)
    colours[15], colours[2], colours[255] = (192, 128, 128), (0, 128, 0), (224, 224, 192)
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "mask.png")
    read = read_reference(tmp_path / "mask.png")
    assert np.array_equal(read.labels * read.objects, labels * (labels != 255)) and (read.void == (labels == 255)).all()


# --- sizes and boxes


def test_command_line_names_a_mask_or_boxes(tmp_path: Path) -> None:
    Image.fromarray(values_of(255)).save(tmp_path / "1,2,3,4.png")
    assert is_the_object(parse_reference(str(tmp_path / "1,2,3,4.png"), (40, 30)))
    assert is_the_object(parse_reference("6,4,25,15", (40, 30)))
    assert len(parse_reference("0, 0, 5, 5; 10,10,12.5,20", (40, 30)).instances) == 2
    with pytest.raises(PictureError, match="cannot be read: it is not there"):
        parse_reference("6,4,25", (40, 30))


def test_mask_of_another_size_is_brought_to_the_photo_and_of_another_shape_refused(tmp_path: Path) -> None:
    Image.fromarray(values_of(255)).save(tmp_path / "mask.png")
    doubled = read_reference(tmp_path / "mask.png", (80, 60))
    assert np.array_equal(doubled.objects, np.kron(values_of(1), np.ones((2, 2))).astype(bool))
    assert read_reference(tmp_path / "mask.png", (41, 30)).size == (41, 30), "a pixel of rounding"
    with pytest.raises(PictureError, match="is 40 x 30 pixels for a picture of 30 x 40; it belongs to another picture"):
        read_reference(tmp_path / "mask.png", (30, 40))
    same = Reference(values_of(1).astype(bool), np.zeros((30, 40), bool))
    assert resized(same, (40, 30)) is same and resized(same, (20, 15)).labels is None


def test_boxes_mark_the_pixels_whose_centres_they_hold(tmp_path: Path) -> None:
    read = reference_of_boxes([(0, 0, 30, 20), (6, 4, 25, 15)], (40, 30))
    assert [int(mask.sum()) for mask in read.instances] == [600 - 209, 209], "the smaller box lies on top"
    assert is_the_object(reference_of_boxes([(5.6, 3.9, 24.6, 14.9)], (40, 30)))
    assert reference_of_boxes([(-50, -9, 20, 99)], (40, 30)).objects.sum() == 600, "cut to the picture"


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ([], "at least one box"),
        ([(5, 5, 5, 9)], r"the box \(5, 5, 5, 9\) holds no pixel"),
        ([(9, 5, 5, 9)], "holds no pixel"),
        ([(50, 5, 60, 9)], "holds no pixel of a picture of 40 x 30"),
        ([(float("nan"), 0, 5, 9)], "holds no pixel"),
        ([(0, 0, 40, 30)], "leave no background"),
    ],
)
def test_boxes_that_say_nothing_are_refused(boxes: list[tuple[float, float, float, float]], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        reference_of_boxes(boxes, (40, 30))


def test_labels_are_the_numbers_that_are_stored(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.ravel().tolist())
    palette.putpalette([7] * 768)  # greys of one colour say nothing of the numbers
    for name, image in (("palette.png", palette), ("grey.png", Image.fromarray(numbers))):
        image.save(tmp_path / name)
        assert np.array_equal(read_labels(tmp_path / name, name), numbers)
    Image.fromarray(numbers.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    assert read_labels(tmp_path / "deep.png", "deep.png").max() == 11000
    Image.new("RGB", (9, 9), (200, 10, 10)).save(tmp_path / "colour.png")
    with pytest.raises(PictureError, match=r"reference mask colour\.png cannot be read: it is a colour picture"):
        read_labels(tmp_path / "colour.png", "colour.png")


def test_a_grey_mask_is_cut_at_half_also_where_255_is_rare() -> None:
    """As labels it would be three objects and void."""
    values = np.zeros((20, 30), np.uint8)
    values[2:8, 2:8], values[3:7, 3:7], values[4, 4] = 51, 153, 255
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    reference = read_grey_mask(io.BytesIO(file.getvalue()), "a.png")
    assert np.array_equal(reference.objects, values >= 128) and not reference.void.any()
    assert len(reference.instances) == 1


def test_numbered_objects_leave_void_out() -> None:
    labels = np.zeros((6, 8), np.int64)
    labels[0:2, 0:2], labels[3:5, 3:6] = 4, 9
    void = np.zeros(labels.shape, bool)
    void[3:5, 5] = True
    reference = reference_of_labels(labels, void, "a.png")
    assert [int(one.sum()) for one in reference.instances] == [4, 4] and reference.void.sum() == 2
    with pytest.raises(PictureError, match=r"a\.png marks no object"):
        reference_of_labels(labels, labels > 0, "a.png")
