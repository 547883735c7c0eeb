"""`genre train fit`: both heads, judged by artist and by package, then fitted on everything.

The genres are those of the data, or GTZAN's where its lists are given. Start at `fit`; training/hearing/heads.py is
what comes out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from services.errors import GenreError, UsageError
from services.inference.card import Card, load_card
from training import folder, metrics
from training.data import splits, taggrams
from training.data.gtzan import GENRES, NO_GENRE, Clip
from training.given import takes_file
from training.hearing import genre_head, heads, kinds_head
from training.hearing.genre_head import Material
from training.hearing.heads import Heads
from training.hearing.listen import KINDS, Heard
from training.hearing.listen import load as load_heard

_LISTS = {"both": "training and validation lists", "valid": "validation list"}
GTZAN_NAME = tuple(f"{genre}." for genre in GENRES)


@click.command()
@click.option(
    "--heard", type=click.Path(path_type=Path), multiple=True, required=True,
    help="From 'genre train listen'; repeatable. A clip is taken from the first that has it.",
)  # fmt: skip
@click.option("--genres", help="These alone, in this order: a,b,c  [default: those heard; GTZAN's with --splits]")
@click.option(
    "--splits", "lists_dir", type=click.Path(path_type=Path),
    help="For GTZAN: folder of its fault-filtered lists and artists.csv.",
)  # fmt: skip
@click.option(
    "--tags", type=click.Path(path_type=Path),
    help="Taggrams to learn from too, of 'genre train tags'; with --splits those of GTZAN's training list alone.",
)  # fmt: skip
@click.option(
    "--base", default=folder.BASE, show_default=True,
    help="Model whose head for kinds is kept where only music was heard; its sounds are named like it.",
)  # fmt: skip
@click.option("--models", type=click.Path(path_type=Path), help="Folder of --base.  [default: models]")
@click.option(
    "--judge", type=click.Choice(["both", "valid"]), default="both", show_default=True,
    help="GTZAN's lists whose clips count: valid alone for a student that heard the training list's.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/heads.npz"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fit(
    heard: tuple[Path, ...], genres: str | None, lists_dir: Path | None, tags: Path | None, base: str,
    models: Path | None, judge: str, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Fit the genre head and the kinds head, and say what cross-validation makes of them.

    GTZAN's test clips and those that its filter left out are not learnt from, wherever they stand.

    \b
    Example: genre train fit --heard own.npz --out own-heads.npz
    Example: genre train fit --heard own.npz --tags tags.npz --out own-heads.npz
    Example: genre train fit --heard a.npz --heard b.npz --tags train.npz --splits gtzan-splits
    """
    begun = time.process_time()
    lists = splits.load_lists(lists_dir) if lists_dir else None
    everything = load_heard(heard)
    takes_file("--out", out)
    chosen = _genres(everything, genres, lists)
    if tags and lists and chosen != GENRES:
        raise UsageError("--splits", "are of GTZAN's ten genres", "leave --genres out, or --splits")
    based = load_card(models or folder.models_folder(name=base), base)
    classes = based.sounds or ()
    music = _of_clips(everything, [clip.genre in chosen and _taught(clip, lists) for clip in everything.clips])
    music = replace(music, clips=[replace(clip, genres=chosen) for clip in splits.with_artists(music.clips, lists)])
    music = music.take(music.ways == "plain")
    data = taggrams.load(tags, genres=chosen) if tags else _no_taggrams()
    if lists and data.clips:
        data = _with_artists(data, lists)
    material = Material.of(music, data)
    judged = np.array([_judged(clip, lists, judge) for clip in music.clips])
    found = genre_head.nested(material, judged)
    head = genre_head.fit(material, found)
    sounds = _of_clips(everything, [clip.genre not in chosen or _taught(clip, lists) for clip in everything.clips])
    if len(np.unique(sounds.kinds)) == 1:
        kinds = kinds_head.of_model(onnx.load(str(based.path())), classes)
        about_kinds: dict[str, Any] = _kept(based)
    else:
        about_kinds = _told_kinds(kinds_head.judge(sounds, classes), sounds)
        kinds = kinds_head.fit(sounds, classes)
    about = _told(found, material, judged, _LISTS[judge] if lists else "", round(time.process_time() - begun, 1))
    about["command"] = folder.as_given(click.get_current_context())
    clips: dict[tuple[str, str], str] = {}
    for clip in (*music.clips, *data.clips, *sounds.clips):
        clips.setdefault((clip.name, clip.genre), clip.artist)
    taught = tuple((clip_name, genre, artist) for (clip_name, genre), artist in clips.items())
    heads.save(out, Heads(head, kinds, chosen, classes, taught, about, about_kinds))
    if as_json:
        click.echo(json.dumps({"genres": about, "kinds": about_kinds}))
        return
    click.echo(f"{about['protocol']}:")
    click.echo(f"  clips {found.clip_accuracy:.1%}, windows {found.window_accuracy:.1%}, ECE {about['ece']:.3f}")
    click.echo(f"  the tags alone: clips {found.tag_measured.clip_accuracy:.1%}")
    click.echo(about_kinds["protocol"] + (":" if about_kinds["right"] else ""))
    for way, row in about_kinds["right"].items():
        click.echo(f"  {way:<8}" + "".join(f"{kind} {share:>7.1%} " for kind, share in row.items()))
    click.echo(f"wrote {out}")


def _genres(heard: Heard, given: str | None, lists: splits.Lists | None) -> tuple[str, ...]:
    """Return the genres to tell apart.

    Raises:
        GenreError: for fewer than two, one named twice or one without a clip, and where no artist is known.
    """
    there = {clip.genre for clip in heard.clips} - set(NO_GENRE)
    chosen = GENRES if lists else tuple(sorted(there))
    if given:
        chosen = tuple(genre.strip() for genre in given.split(","))
    absent = [genre for genre in chosen if genre not in there]
    if absent or len(set(chosen)) < max(2, len(chosen)):
        reason = f"holds no clip of {absent[0]}" if absent else f"{', '.join(chosen) or 'none'} are no two genres"
        raise GenreError("--heard", reason, "hear clips of each genre, or name others with --genres")
    if not lists and not any(clip.artist for clip in heard.clips if clip.genre in chosen):
        remedy = "name artists in an index or in the files' tags, and listen again"
        raise GenreError("--heard", "no clip's artist is known, so none can be kept apart", remedy)
    return chosen


def _taught(clip: Clip, lists: splits.Lists | None) -> bool:
    """Tell whether a clip may be learnt from: of GTZAN's, the training and the validation list."""
    if lists is None or not clip.name.startswith(GTZAN_NAME):
        return True
    return clip.name in lists.train or clip.name in lists.valid


def _judged(clip: Clip, lists: splits.Lists | None, judge: str) -> bool:
    """Tell whether a clip counts in the figures: all of a data set of one's own, GTZAN's on the lists."""
    return lists is None or clip.name in (lists.valid if judge == "valid" else lists.train | lists.valid)


def _no_taggrams() -> taggrams.Taggrams:
    none = np.empty(0, np.intp)
    return taggrams.Taggrams(np.empty((0, len(taggrams.TAGS)), np.float32), none, none, [])


def _kept(base: Card) -> dict[str, Any]:
    """Return what is said of kinds whose head is another model's."""
    name = f"{base.name} {base.version}"
    return {"protocol": f"kinds: the head of {name}, for only music was heard", "kept_from": name, "right": {}}


def _of_clips(heard: Heard, kept: Sequence[bool]) -> Heard:
    """Return the windows of some clips, and those clips only."""
    mask = np.asarray(kept, bool)
    part = heard.take(mask[heard.clip_of])
    numbers = (np.cumsum(mask) - 1)[part.clip_of].astype(np.intp)
    clips = [clip for clip, keep in zip(heard.clips, kept, strict=True) if keep]
    return Heard(part.tags, part.logits, numbers, clips, part.kinds, part.ways)


def _with_artists(data: taggrams.Taggrams, lists: splits.Lists) -> taggrams.Taggrams:
    """Return taggrams of the training list's clips only, with the artists that the lists know.

    Raises:
        GenreError: where no clip is on the training list.
    """
    stems = [Path(clip.name).stem if clip.name.endswith((".wav", ".au")) else clip.name for clip in data.clips]
    kept = np.array([stem in lists.train for stem in stems])
    if not kept.any():
        raise GenreError("--tags", "holds no clip of the training list", "give taggrams of GTZAN's training clips")
    rows = kept[data.clip_of]
    clips = [
        Clip(stem, clip.genre, clip.path, lists.artists.get(stem, ""))
        for stem, clip, keep in zip(stems, data.clips, kept, strict=True)
        if keep
    ]
    place = np.cumsum(kept) - 1
    return taggrams.Taggrams(data.tags[rows], data.labels[rows], place[data.clip_of[rows]].astype(np.intp), clips)


def _told(
    found: genre_head.Nested, material: Material, judged: NDArray[np.bool_], lists: str, cpu_s: float
) -> dict[str, Any]:
    """Return what is said of the genres."""
    where = f"{int(judged.sum())} clips of GTZAN's fault-filtered {lists}" if lists else f"all {len(judged)} clips"
    shares = ", ".join(f"{share:g}" for share in sorted(set(found.shares)))
    return {
        "protocol": f"nested cross-validation by artist, {genre_head.FOLDS} folds, {len(genre_head.SEEDS)} "
        f"repetitions, judged on {where}; the weight of "
        f"the sound network's head was chosen inside each fold from {len(genre_head.SHARES)} (chosen: {shares})",
        "gtzan": bool(lists),
        "artists": len({clip.artist for clip in material.heard.clips if clip.artist}),
        "cpu_s": cpu_s,
        "clips": len(material.heard.clips),
        "windows": len(material.heard.tags),
        "tag_clips": len(material.taggrams.clips),
        "tag_windows": len(material.taggrams.tags),
        "clip_accuracy_mean": found.clip_accuracy,
        "window_accuracy_mean": found.window_accuracy,
        "tags_alone": found.tag_measured.clip_accuracy,
        **found.measured.as_dict(),
    }


def _told_kinds(scores: Any, heard: Heard) -> dict[str, Any]:
    """Return what is said of the kinds."""
    guess = scores.argmax(axis=1)
    right = {
        str(way): {
            kind: round(float((guess[rows] == place).mean()), 4)
            for place, kind in enumerate(KINDS)
            if (rows := (heard.ways == way) & (heard.kinds == place)).any()
        }
        for way in dict.fromkeys(heard.ways)
    }
    sources = len({clip.artist or clip.name for clip in heard.clips})
    return {
        "protocol": f"{len(heard.kinds)} windows of {sources} sources, {kinds_head.FOLDS}-fold by source",
        "windows": len(heard.kinds),
        "right": right,
        "ece": round(metrics.expected_calibration_error(scores, heard.kinds), 4),
    }
