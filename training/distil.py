"""`genre train distil`: a small network that learns a large one's answers from unlabelled music, becomes a model.

The teacher labels windows of any music, the student learns its tags, and both are judged by artist: each half of the
pieces by a student that was taught with the other half. Start at `distil`; the steps are in training/distil_*.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference.card import Card, load_card
from training import gtzan, heads, splits, taggrams
from training.distil_front import Front
from training.distil_windows import LONGEST_S, Draw, Labelled, Library, Teacher, audio_files, label
from training.terminal import quiet, show

if TYPE_CHECKING:
    import keras

    from training.distil_student import Upper

LEAST_PIECES = 50


@dataclass(frozen=True)
class Plan:
    """The numbers that rule how a student is taught; together with the music they make the result."""

    windows: int
    own_windows: int
    epochs: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Heard:
    """The pieces' windows, unchanged, with the teacher's answers.

    Attributes:
        clips: pieces that can be read.
        clip_of: number of each window's piece.
        half: which half each piece belongs to; no artist is in both.
        labelled: the windows.
    """

    clips: list[gtzan.Clip]
    clip_of: NDArray[np.intp]
    half: NDArray[np.intp]
    labelled: Labelled


@click.command()
@click.option(
    "--music", type=click.Path(path_type=Path), multiple=True, required=True,
    help="Folder of unlabelled music; repeatable.",
)  # fmt: skip
@click.option(
    "--pieces", type=click.Path(path_type=Path), required=True,
    help="GTZAN folder, any subset: to judge by artist, and, without its genres, to learn from.",
)  # fmt: skip
@click.option(
    "--splits", "lists_dir", type=click.Path(path_type=Path),
    help="Folder of the fault-filtered lists and artists.csv.  [default: gtzan-splits in or beside --pieces]",
)  # fmt: skip
@click.option("--tags", type=click.Path(path_type=Path), required=True, help="Taggrams for the head (.npz: X, Y, IDS).")
@click.option("--teacher", default="musicnn", show_default=True, help="Model to learn from.")
@click.option("--name", default="musicnn-small", show_default=True, help="Name and folder of the model to write.")
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--version", "model_version", default="1", show_default=True, help="Version written into the card.")
@click.option("--licences", type=click.Path(path_type=Path), help="CSV file for the card: name, licence, source.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/distil"), show_default=True)
@click.option("--windows", type=click.IntRange(64, 10_000_000), default=40_000, show_default=True, help="Of --music.")
@click.option(
    "--own-windows", type=click.IntRange(64), default=6_000, show_default=True, help="Of each half of pieces."
)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=8, show_default=True)
@click.option("--batch", type=click.IntRange(2, 4_096), default=64, show_default=True, help="Windows a step.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=0.0003, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def distil(
    music: tuple[Path, ...], pieces: Path, lists_dir: Path | None, tags: Path, teacher: str, name: str, models: Path,
    model_version: str, licences: Path | None, out: Path, windows: int, own_windows: int, epochs: int, batch: int,
    learning_rate: float, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Teach a small network what a large one answers, and write it to models/NAME/.

    Killed and started again with the same options, it goes on where it was.

    \b
    Example: genre train distil --music ogg --pieces gtzan --tags train.npz
    """
    from training.distil_card import ingredients, write

    plan = Plan(windows, own_windows, epochs, batch, learning_rate, seed)
    made_of = ingredients(licences)
    if name == teacher:
        raise GenreError(f"model {name!r}", "is the teacher itself", "give the student another --name")
    card = load_card(models, teacher)
    teaching = Teacher(card)
    front = Front.of(onnx.load(card.float_path() or card.path()))
    lists = splits.load_lists(lists_dir) if lists_dir else splits.find_lists(pieces)
    if lists is None:
        raise GenreError(str(pieces), "has no fault-filtered lists", f"give --splits; {splits.GET_LISTS}")
    clips = [clip for clip in splits.with_artists(gtzan.find(pieces)[0], lists) if clip.name in lists.train]
    if len(clips) < LEAST_PIECES:
        reason = f"has {len(clips)} clips of the training list; {LEAST_PIECES} are needed to judge by artist"
        raise GenreError(str(pieces), reason, "name a larger GTZAN folder")
    data = with_artists_of(taggrams.load(tags), lists)
    files = audio_files(music)
    heard = hear(clips, card, teaching, seed)
    sets = labelled_sets(files, heard, card, teaching, plan, out)
    student, found, head = taught(front, card, heard, sets, data, plan, out)
    about: dict[str, Any] = {"compared": found.as_dict(), **told(plan, heard, found)}
    (out / "distil.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    made = write(models, name, model_version, card, front, student, head, about, made_of)
    if as_json:
        click.echo(json.dumps(about))
        return
    click.echo(f"judged on {len(heard.clips)} pieces, 2-fold by artist:")
    for who, one in (("teacher", found.teacher), ("student", found.student)):
        click.echo(f"  {who} clips {one.clip_accuracy:.1%}, windows {one.window_accuracy:.1%}, ECE {one.ece:.3f}")
    for what, (gap, low, high) in (("clips", found.clip_gap), ("windows", found.window_gap)):
        click.echo(f"  the student has {gap:+.1%} less of the {what} right (95 %: {low:+.1%} to {high:+.1%})")
    click.echo(f"wrote {made.folder}: {made.parameters} parameters, {made.costs[0].cpu_ms} CPU-ms a window")


def hear(clips: Sequence[gtzan.Clip], card: Card, teacher: Teacher, seed: int) -> Heard:
    """Ask the teacher about each window of the pieces; a broken file is named and left out.

    Raises:
        GenreError: for too few pieces or artists.
    """
    featurizer = Featurizer(card.recipe)
    used: list[gtzan.Clip] = []
    features, clip_of = [], []
    for number, clip in enumerate(clips):
        show("pieces", number + 1, len(clips))
        try:
            pcm = gtzan.windows(gtzan.read(clip.path)).pcm
        except GenreError as error:
            click.echo(f"skipped {error.thing}: {error.reason}", err=True)
            continue
        features.append(featurizer.features(pcm))
        clip_of += [len(used)] * len(pcm)
        used.append(clip)
    if len(used) < LEAST_PIECES:
        raise GenreError("--pieces", f"has {len(used)} clips that can be read; {LEAST_PIECES} are needed", "add clips")
    half = np.zeros(len(used), np.intp)
    half[splits.folds(used, 2, seed)[0][0]] = 1
    everything = np.concatenate(features)
    logits, hidden = teacher.answer(everything)
    labelled = Labelled(everything.astype(np.float16), logits, hidden.astype(np.float16))
    return Heard(used, np.array(clip_of, np.intp), half, labelled)


def labelled_sets(
    files: Sequence[Path], heard: Heard, card: Card, teacher: Teacher, plan: Plan, out: Path
) -> tuple[Labelled, Labelled, Labelled]:
    """Return labelled windows of the unlabelled music, of the pieces' first half and of their second half."""
    digest = hashlib.sha256(card.path().read_bytes())
    digest.update(f"{card.recipe_digest} {LONGEST_S} {plan.seed}".encode())
    digest.update(" ".join(f"{path.name} {path.stat().st_size}" for path in files).encode())
    digest.update(" ".join(clip.name for clip in heard.clips).encode())
    key = digest.hexdigest()[:16]

    @functools.cache
    def library() -> Library:
        made = Library.read(files, show)
        for line in made.skipped:
            click.echo(f"skipped {line}", err=True)
        return made

    def half(number: int) -> Callable[[], Draw]:
        @functools.cache
        def draw() -> Draw:
            clips = [clip for clip, part in zip(heard.clips, heard.half, strict=True) if part == number]
            own = Library([clip.name for clip in clips], [gtzan.read(clip.path) for clip in clips], [])
            return Draw(own, card.recipe, library())

        return draw

    first = label(functools.cache(lambda: Draw(library(), card.recipe)), teacher, plan.windows, plan.seed,
                  out / "music", key, show)  # fmt: skip
    others = [
        label(half(part), teacher, plan.own_windows, plan.seed + 1 + part, out / f"half-{part}", f"{key} {part}", show)
        for part in (0, 1)
    ]
    return first, others[0], others[1]


def taught(
    front: Front, card: Card, heard: Heard, sets: tuple[Labelled, ...], data: taggrams.Taggrams, plan: Plan, out: Path
) -> tuple[keras.Model, Any, heads.Head]:
    """Teach three students: one without each half, to judge by, and one with everything, to ship.

    Returns:
        The student to ship, what the comparison found, and its head.
    """
    with quiet():  # TensorFlow takes seconds to import; what is wrong with the music has been told by now.
        from training import distil_fit, distil_judge
        from training.distil_student import Upper, build
    upper: Upper = Upper(onnx.load(card.float_path() or card.path()))
    fronts = [Labelled(front.run(part.features, show), part.logits, part.hidden) for part in (*sets, heard.labelled)]

    def begin() -> keras.Model:
        model = build(front.channels)
        upper.begin(model)
        return model

    students = {}
    for away in (0, 1, None):
        kept = np.ones(len(heard.clip_of), bool) if away is None else (heard.half != away)[heard.clip_of]
        own = Labelled(*(part[kept] for part in vars(fronts[3]).values()))
        parts = [fronts[0], *(fronts[1 + half] for half in (0, 1) if half != away), own, own]
        together = Labelled(*(np.concatenate([vars(part)[name] for part in parts]) for name in vars(own)))
        name = "all" if away is None else f"without-{away}"
        key = f"{plan} {len(together.features)} {float(together.logits.sum()):.3f}"
        students[away] = distil_fit.teach(begin, together, plan, out / name, key, show)
    answers = [distil_fit.answers(students[half], fronts[3].features) for half in (0, 1)]
    own_tags = np.where((heard.half == 0)[heard.clip_of][:, None], answers[0], answers[1])
    teacher_tags = np.asarray(1 / (1 + np.exp(-heard.labelled.logits.astype(np.float64))), np.float32)
    pieces = distil_judge.Pieces(heard.clips, heard.clip_of, heard.half, teacher_tags, own_tags)
    head, found = distil_judge.compare(data, pieces, heads.FITTERS["gaussians"])
    return students[None], found, head


def told(plan: Plan, heard: Heard, found: Any) -> dict[str, Any]:
    """Return what the card says of training and faults."""
    (gap, low, high), (window_gap, window_low, window_high) = found.clip_gap, found.window_gap
    weakest = sorted(found.student.per_genre.items(), key=lambda item: item[1])[:4]
    return {
        "training": {
            "student": "the teacher's filters at half of the frames and bands; the layers behind them begun from it",
            "data": f"{plan.windows} windows of unlabelled music, {plan.own_windows} drawn from each half of "
            f"{len(heard.clips)} GTZAN pieces, and the pieces' {len(heard.clip_of)} windows; no genre label",
            "taught": f"{plan.epochs} passes, AdamW {plan.learning_rate} falling along a cosine, seed {plan.seed}",
            "head": "gaussians on the teacher's log tags of the training clips; own temperature",
        },
        "faults": [
            f"On the same {len(heard.clips)} pieces it has {100 * gap:.1f} points less of the clips right than its "
            f"teacher (95 %: {100 * low:.1f} to {100 * high:.1f}) and {100 * window_gap:.1f} points less of the "
            f"windows ({100 * window_low:.1f} to {100 * window_high:.1f}).",
            "Weakest genres, of pieces: " + ", ".join(f"{genre} {share:.0%}" for genre, share in weakest) + ".",
            "The ten genres of GTZAN are all it knows: other music is given the nearest of them.",
        ],
    }


def with_artists_of(data: taggrams.Taggrams, lists: splits.Lists) -> taggrams.Taggrams:
    """Return taggrams whose clips have the artists that the lists know; clips outside the training list go.

    Raises:
        GenreError: where no clip is on the training list.
    """
    stems = [Path(clip.name).stem if Path(clip.name).suffix in gtzan.SUFFIXES else clip.name for clip in data.clips]
    kept = np.array([stem in lists.train for stem in stems])
    if not kept.any():
        raise GenreError("--tags", "holds no clip of the training list", "give taggrams of GTZAN's training clips")
    place = np.cumsum(kept) - 1
    rows = kept[data.clip_of]
    clips = [
        gtzan.Clip(stem, clip.genre, clip.path, lists.artists.get(stem, ""))
        for stem, clip, keep in zip(stems, data.clips, kept, strict=True)
        if keep
    ]
    return taggrams.Taggrams(data.tags[rows], data.labels[rows], place[data.clip_of[rows]].astype(np.intp), clips)
