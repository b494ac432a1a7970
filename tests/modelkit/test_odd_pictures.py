"""Pictures of every kind that cameras and tools write: the pixels that a viewer shows, or a refusal with its reason."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import GifImagePlugin, Image

from foundation.errors import RejectedError
from foundation.picture_header import read_header
from modelkit.images import ImageLimits, decode_image, read_picture

HEIGHT, WIDTH = 64, 96


def shown() -> np.ndarray:
    """Blocks of 8 x 8 random colours: JPEG keeps them nearly as they are."""
    blocks = np.random.default_rng(1).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(head: bytes, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND", b"")


def rgb16() -> bytes:
    rows = b"".join(b"\0" + (row.astype("u2") * 257).astype(">u2").tobytes() for row in shown())
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    return png_of(head, chunk(b"IDAT", zlib.compress(rows)))


def distance(payload: bytes, wanted: np.ndarray) -> float:
    found = decode_image(payload)
    assert found.shape == wanted.shape and found.dtype == np.uint8
    return float(np.abs(found.astype(int) - wanted.astype(int)).mean())


PICTURE = Image.fromarray(shown())
GREY = np.repeat(np.asarray(PICTURE.convert("L"))[:, :, None], 3, axis=2)
KINDS = {
    "jpeg": (encoded(PICTURE, "JPEG", quality=95, subsampling=0), shown()),
    "progressive jpeg": (
        encoded(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True),
        shown(),
    ),
    "cmyk jpeg": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=95, subsampling=0), shown()),
    "grey jpeg": (encoded(PICTURE.convert("L"), "JPEG", quality=95), GREY),
    "jpeg with garbage behind": (encoded(PICTURE, "JPEG", quality=95, subsampling=0) + b"\0" * 5000, shown()),
    "rgba png": (encoded(PICTURE.convert("RGBA"), "PNG"), shown()),
    "grey and alpha png": (encoded(PICTURE.convert("LA"), "PNG"), GREY),
    "16-bit grey png": (encoded(Image.fromarray(GREY[:, :, 0].astype("u2") * 257), "PNG"), GREY),
    "16-bit rgb png": (rgb16(), shown()),
    "webp": (encoded(PICTURE, "WEBP", lossless=True), shown()),
    "bmp": (encoded(PICTURE, "BMP"), shown()),
    "ppm": (encoded(PICTURE, "PPM"), shown()),
    "tiff": (encoded(PICTURE, "TIFF"), shown()),
    "tiff lzw": (encoded(PICTURE, "TIFF", compression="tiff_lzw"), shown()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_the_pixels_that_a_viewer_shows(kind: str) -> None:
    payload, wanted = KINDS[kind]
    assert distance(payload, wanted) < 6.0


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_a_palette_picture_gives_its_colours(kind: str) -> None:
    palette = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    assert distance(encoded(palette, kind), np.asarray(palette.convert("RGB"))) == 0.0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_tag_is_followed_in_every_format(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    upright[8:24, 8:24] = (230, 20, 20)  # top left, as a viewer shows it
    turn_back = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turn_back[orientation](upright)))
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    payload = encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options)
    picture = read_picture(payload)
    assert np.abs(picture.pixels.astype(int) - upright.astype(int)).mean() < 3.0
    assert picture.orientation == orientation and picture.stored_size == stored.size
    assert any("orientation" in note for note in picture.notes) == (orientation != 1)


def test_a_damaged_orientation_tag_does_not_cost_the_picture() -> None:
    payload = encoded(
        PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\0" * 8, quality=95, subsampling=0
    )
    assert distance(payload, shown()) < 6.0


def test_transparency_lies_on_black_and_is_said() -> None:
    layers = np.dstack([shown(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    layers[:, : WIDTH // 2, 3] = 255
    picture = read_picture(encoded(Image.fromarray(layers), "PNG"))
    assert np.array_equal(picture.pixels[:, : WIDTH // 2], shown()[:, : WIDTH // 2])
    assert not picture.pixels[:, WIDTH // 2 :].any()
    assert picture.notes == ("transparency on black",)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_and_said(kind: str) -> None:
    first, second = (Image.new("RGB", (20, 10), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    picture = read_picture(encoded(first, kind, save_all=True, append_images=[second]))
    assert picture.pixels[5, 5, 0] > 200 and picture.pixels[5, 5, 2] < 60
    assert "first frame of an animation" in picture.notes


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "an empty file"),
        (b"\0\x05\x16\x07" + b"Mac OS X" * 9, "not a picture"),
        (encoded(PICTURE, "JPEG")[:900], "truncated"),
        (encoded(PICTURE, "TIFF", compression="jpeg"), "TIFF of compression 7"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "pixel mode 'F'"),
        (
            png_of(struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0), chunk(b"tRNS", b"\0"), chunk(b"IDAT", b"x")),
            "unreadable image",
        ),
    ],
    ids=["empty", "apple-double", "cut", "jpeg-in-tiff", "float", "damaged-palette"],
)
def test_what_cannot_be_decoded_is_a_verdict_with_its_reason(payload: bytes, why: str) -> None:
    with pytest.raises(RejectedError, match=why) as caught:
        decode_image(payload)
    assert caught.value.reason == "unreadable_image"


def test_a_decoder_that_fails_in_an_undocumented_way_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("an assertion of the decoder")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(RejectedError, match="an assertion of the decoder"):
        decode_image(encoded(PICTURE, "PNG"))


def test_an_animated_bomb_is_refused_before_anything_is_allocated() -> None:
    side = 20_000
    control = struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 1, 0)
    bomb = png_of(
        struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0),
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", control),
        chunk(b"IDAT", zlib.compress(b"\0" * 64)),
    )
    tracemalloc.start()
    try:
        with pytest.raises(RejectedError, match="20000 x 20000 pixels"):
            decode_image(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "jpeg with garbage behind"])
def test_the_size_in_the_bytes_is_the_size_of_the_stored_picture(kind: str) -> None:
    header = read_header(KINDS[kind][0])
    assert (header.width, header.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_over_the_limit_is_refused_in_every_format(kind: str) -> None:
    with pytest.raises(RejectedError, match=r"96 x 64 pixels; the limits are 95 "):
        decode_image(KINDS[kind][0], ImageLimits(max_side_pixels=95))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_cut_or_changed_anywhere_is_decoded_or_refused_and_nothing_else(kind: str) -> None:
    payload = KINDS[kind][0]
    rng = np.random.default_rng(7)
    for place in rng.integers(0, len(payload), 40).tolist():
        changed = bytearray(payload)
        changed[place] ^= int(rng.integers(1, 256))
        for hostile in (payload[:place], bytes(changed)):
            try:
                decode_image(hostile)
            except RejectedError as error:
                assert error.reason == "unreadable_image"


class CountedBytes(bytes):
    """Counts how often a single byte or a part of it is asked for."""

    looks = 0

    def __getitem__(self, place):
        self.looks += 1
        return super().__getitem__(place)


def png_with(padding: bytes) -> bytes:
    whole = encoded(Image.new("RGB", (8, 8)), "PNG")
    return whole[:33] + padding + whole[33:]


def gif_with(padding: bytes) -> bytes:
    whole = encoded(Image.new("P", (8, 8)), "GIF")
    image = whole.rindex(b",\0\0\0\0\x08")
    return whole[:image] + padding + whole[image:]


def jpeg_with(padding: bytes) -> bytes:
    whole = KINDS["jpeg"][0]
    scan = whole.index(b"\xff\xda")
    return whole[:scan] + padding + whole[scan:]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\xff\xd8" + b"\xff" * 1_000_000, "without a marker"),
        (b"\xff\xd8" + b"\xff\x01" * 500_000, "more than 2048 markers"),
        (b"\xff\xd8" + b"\xff\xe0\0\0" * 250_000, "a segment of 0 bytes"),
        (jpeg_with(b"\xff" * 1_000_000), "without a marker"),
        (jpeg_with(b"\xff\x01" * 500_000), "more than 2048 markers"),
        (png_with(b"\0\0\0\0tEXt\0\0\0\0" * 100_000), "more than 16384 chunks"),
        (gif_with(b"!\xfe" + b"\1a" * 500_000 + b"\0"), "more than 4096 blocks"),
        (gif_with(b"\0" * 1_000_000), "without an image"),
        (b"P6 #" + b"a" * 1_000_000, "without a number"),
        (b"P6 4 4 #" + b"a" * 1_000_000 + b"\n255\n" + bytes(48), "without a number"),
        (b"P6 " + b"\n" * 1_000_000 + b"4 4 255\n" + bytes(48), "without a number"),
    ],
    ids=[
        "fill",
        "no-length",
        "zero-length",
        "late-fill",
        "late-no-length",
        "png-chunks",
        "gif-comment",
        "gif-junk",
        "comment",
        "late-comment",
        "blank",
    ],
)
def test_a_header_of_endless_padding_is_refused_after_a_bounded_number_of_looks(
    payload: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = CountedBytes(payload)
    with pytest.raises(ValueError, match=why):
        read_header(counted)
    assert counted.looks < 40_000

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a decoder that walks over the padding byte by byte")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(RejectedError, match=why):
        decode_image(payload)


def test_fill_bytes_and_comments_within_bounds_cost_no_picture() -> None:
    assert distance(jpeg_with(b"\xff" * 100 + b"\xfe\0\x04ab"), shown()) < 6.0
    pixels = encoded(PICTURE, "PPM")[-3 * WIDTH * HEIGHT :]
    assert distance(b"P6 #one\n# two\r\n96 64 #three\n255\n" + pixels, shown()) == 0.0


def test_the_frames_of_an_animation_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (1, 1), (number, 0, 0)) for number in range(200)]
    payload = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    sought: list[int] = []
    real = GifImagePlugin.GifImageFile._seek

    def seek(self: GifImagePlugin.GifImageFile, frame: int, *more: object, **named: object) -> None:
        sought.append(frame)
        real(self, frame, *more, **named)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", seek)
    assert read_picture(payload).notes == ("first frame of an animation",)
    assert set(sought) == {0}


@pytest.mark.parametrize("pointer", [10**6, 3])
def test_damage_behind_the_first_frame_of_a_tiff_does_not_cost_that_frame(pointer: int) -> None:
    payload = bytearray(KINDS["tiff"][0])
    (directory,) = struct.unpack_from("<I", payload, 4)
    (entries,) = struct.unpack_from("<H", payload, directory)
    struct.pack_into("<I", payload, directory + 2 + 12 * entries, pointer)
    assert distance(bytes(payload), shown()) == 0.0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_take_no_more_memory_than_the_pixels_need(kind: str) -> None:
    side = 1000
    payload = encoded(Image.fromarray(np.full((side, side), 0x1234, "u2")), kind)
    decode_image(payload)
    tracemalloc.start()
    try:
        assert (decode_image(payload) == 0x12).all()
        assert tracemalloc.get_traced_memory()[1] < 10 * side * side
    finally:
        tracemalloc.stop()
