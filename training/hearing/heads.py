"""What ships behind both networks, and its file: written by `genre train fit`, read by `genre train export`.

Nothing is fitted here. Start at `Heads`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services import files
from services.errors import GenreError
from training.discriminant import Discriminant
from training.given import UNREADABLE, archive_of
from training.hearing.genre_head import GenreHead
from training.hearing.kinds_head import KindsHead
from training.hearing.listen import KINDS

TOLD = (
    "protocol", "command", "gtzan", "artists", "cpu_s", "clips", "windows", "tag_clips", "tag_windows", "n_clips",
    "n_windows", "clip_accuracy", "clip_interval", "window_accuracy", "window_interval", "ece", "clip_ece", "per_genre",
)  # fmt: skip
"""What a card says of the genres' cross-validation."""


@dataclass(frozen=True)
class Heads:
    """What ships behind the two networks.

    Attributes:
        labels: the genres, in the order of the scores.
        sounds: names of the sound network's classes.
        clips: name, genre and artist of each clip that taught either head.
        about: what cross-validation found of the genres, ready for the card.
        about_kinds: the same of the kinds, or where that head was taken from.
    """

    genres: GenreHead
    kinds: KindsHead
    labels: tuple[str, ...]
    sounds: tuple[str, ...]
    clips: tuple[tuple[str, str, str], ...]
    about: dict[str, Any]
    about_kinds: dict[str, Any]


def save(path: Path, heads: Heads) -> None:
    """Write heads, whole or not at all.

    Raises:
        GenreError: where path can't be written.
    """
    made, kinds = heads.genres, heads.kinds
    text = {
        "share": made.share, "temperature": made.temperature, "tag_temperature": made.tag_temperature,
        "correlation": made.correlation, "labels": heads.labels, "clips": heads.clips,
        "sounds": heads.sounds, "ranges": kinds.ranges, "about": heads.about, "about_kinds": heads.about_kinds,
    }  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as new:
            np.savez(
                new, text=np.array(json.dumps(text)), tag_weights=made.tags.weights, tag_bias=made.tags.bias,
                sound_weights=made.sounds.weights, sound_bias=made.sounds.bias, kind_weights=kinds.weights,
                kind_bias=kinds.bias,
            )  # fmt: skip
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a place that can") from error


def load(path: Path) -> Heads:
    """Read heads.

    Raises:
        GenreError: for a file that holds none, or whose matrices have another shape or are not finite.
    """
    remedy = "make it with 'genre train fit'"
    try:
        with archive_of(path) as archive:
            text = json.loads(str(archive["text"]))
            arrays = {name: np.asarray(archive[name], np.float64) for name in archive.files if name != "text"}
        if absent := set(TOLD) - text["about"].keys() or {"right"} - text["about_kinds"].keys():
            raise ValueError(f"it tells no {', '.join(sorted(absent))}")
        sounds, ranges = tuple(text["sounds"]), tuple((int(a), int(b)) for a, b in text["ranges"])
        labels = tuple(map(str, text["labels"]))
        clips = tuple((str(name), str(genre), str(artist)) for name, genre, artist in text["clips"])
        shapes = {
            "tag_weights": (50, len(labels)), "tag_bias": (len(labels),),
            "sound_weights": (len(sounds), len(labels)), "sound_bias": (len(labels),),
            "kind_weights": (len(ranges), len(KINDS)), "kind_bias": (len(KINDS),),
        }  # fmt: skip
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has the shape {list(arrays[name].shape)}, not {list(shape)}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} holds values that are not finite")
        numbers = [float(text[name]) for name in ("share", "temperature", "tag_temperature", "correlation")]
        if not all(0 < number < 1e6 for number in numbers[1:3]):
            raise ValueError(f"temperatures are {numbers[1]} and {numbers[2]}")
        return Heads(
            GenreHead(
                Discriminant(arrays["tag_weights"], arrays["tag_bias"]),
                Discriminant(arrays["sound_weights"], arrays["sound_bias"]),
                *numbers,
            ),
            KindsHead(arrays["kind_weights"], arrays["kind_bias"], ranges), labels, sounds, clips, text["about"],
            text["about_kinds"],
        )  # fmt: skip
    except UNREADABLE as error:
        raise GenreError(str(path), f"holds no heads ({error})", remedy) from error
