"""What a person gives by mistake where a command wants a file, a folder or a name: for tests/test_cli.py.

`TRIED` has each option of `genre classify`, `genre train` and `genre bench` that takes such a thing once, and `cases`
puts every wrong thing of its kind there; {things} are right, and stand beside it. `make` lays all of them out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from tests.training.hearing import invented
from tests.training.test_install import block

ROOT = Path(__file__).resolve().parents[1]
RATE = 22_050

WRONG = {
    "FILE": (
        "{nowhere}", "{empty folder}", "{empty}", "{bytes}", "{text}", "{nan.npz}", "{nan.json}", "{array.npy}",
        "{escapes}", "{unreadable}", "{loop}", "{below}", "{no utf8}", "",
    ),
    "FOLDER": ("{nowhere}", "{bytes}", "{empty folder}", "{noise}", "{loop}", "{below}", "{no utf8}"),
    "NEW_FILE": ("{empty folder}", "{below}", "{no place}", "/dev/null", "{loop}"),
    "NEW_FOLDER": ("{bytes}", "{below}", "{no place}", "/dev/null", "{loop}"),
    "STAGE": ("nope", "\x1b[2J"),
    "MODEL": ("nope", "../x", "", "\x1b[2J\x9b", "\udcff"),
    "GENRES": ("fado,fado", "fado", ",", "polka,zouk", "\x1b[2J,zouk"),
    "NEW_NAME": ("../x", "", "\x1b[2J\x9b", "a" * 300, "\udcff"),
}  # fmt: skip
MANY = 7
TRIED = """
classify --models {models} FILE
classify --models {models} FOLDER --jobs 1
classify --models FOLDER {music}
classify --models {models} --model MODEL {music}
classify --config FILE {nowhere}
classify --pictures NEW_FOLDER {music}
classify --out NEW_FOLDER --models {models} {music}
classify --out {new} --models FOLDER {music}
classify --out {new} --models {models} --model MODEL {music}
train reproduce --audio FOLDER --out {new}
train reproduce --audio {music} --index FILE --out {new}
train reproduce --audio {music} --genres GENRES --out {new}
train reproduce --audio {music} --splits FOLDER --out {new}
train reproduce --audio {music} --weights FILE --out {new}
train reproduce --audio {music} --out NEW_FOLDER
train networks --musicnn FILE --audio {music} --out {new}
train networks --musicnn {bytes} --student FILE --audio {music} --out {new}
train networks --musicnn {bytes} --audio FOLDER --out {new}
train networks --musicnn {bytes} --audio {music} --out NEW_FILE
train listen --networks FILE --audio {music} --out {new}
train listen --audio FOLDER --out {new}
train listen --audio {music} --index FILE --out {new}
train listen --audio {music} --out NEW_FILE
train tags --networks FILE --audio {music} --out {new}
train tags --audio FOLDER --out {new}
train tags --audio {music} --index FILE --out {new}
train tags --audio {music} --out NEW_FILE
train cost --model MODEL --models {models}
train cost --models FOLDER
train fit --heard FILE --out {new}
train fit --heard {heard} --genres GENRES --out {new}
train fit --heard {heard} --splits FOLDER --out {new}
train fit --heard {heard} --splits {splits with bytes} --out {new}
train fit --heard {gtzan heard} --splits {splits} --tags FILE --out {new}
train fit --heard {heard} --base MODEL --out {new}
train fit --heard {heard} --models FOLDER --out {new}
train fit --heard {heard} --out NEW_FILE
train evaluate --model MODEL --audio {music}
train evaluate --audio FOLDER
train evaluate --audio {music} --index FILE
train evaluate --tags FILE
train evaluate --models FOLDER --audio {music}
train evaluate --all --models FOLDER --audio {music}
train export --heads FILE --name own --models {new}
train export --heads {heads} --networks FILE --name own --models {new}
train export --heads {heads} --name NEW_NAME --models {new}
train export --heads {heads} --version NEW_NAME --name own --models {new}
train export --heads {heads} --name own --models NEW_FOLDER
train export --evaluation FILE --protocol p --models {models}
train export --name MODEL --evaluation {report} --protocol p --models {models}
train export --evaluation {report} --protocol p --models FOLDER
train install FILE --card {card} --models {new}
train install {model} --card FILE --models {new}
train install {model} --card {card} --models NEW_FOLDER
train distil --efficientat FILE --audio {music} --work {new} --out {new}
train distil --efficientat {bytes} --networks FILE --audio {music} --work {new} --out {new}
train distil --efficientat {bytes} --audio FOLDER --work {new} --out {new}
train distil --efficientat {bytes} --audio {music} --work NEW_FOLDER --out {new}
train distil --efficientat {bytes} --audio {music} --work {new} --out NEW_FILE
train export-vgg16 --reproduced FOLDER --models {new}
train export-vgg16 --reproduced {half a run} --models {new}
train export-vgg16 --reproduced {a broken run} --models {new}
train figures --audio FOLDER --out {new}
train figures --audio {music} --index FILE --out {new}
train figures --audio {music} --out NEW_FOLDER
train figures --result FILE --out {new}
package {music} --out NEW_FOLDER
package FOLDER --out {new}
streams --config {loop} list
streams --config {loop} add a http://x/a.m3u8
history backup --config {loop} {new}
check-config {loop}
bench --compare FILE
bench --compare {measured} --compare FILE
bench pipeline --model MODEL --out {new} --models-dir {models}
bench pipeline --models-dir FOLDER --out {new}
bench pipeline --music FOLDER --out {new} --models-dir {models}
bench pipeline --out NEW_FOLDER --models-dir {models}
bench http --music FOLDER --out {new} --models-dir {models}
bench http --out NEW_FOLDER --models-dir {models}
bench stages --only STAGE --out {new} --models-dir {models}
bench stages --models-dir FOLDER --out {new}
bench stages --music FOLDER --out {new} --models-dir {models}
bench stages --out NEW_FOLDER --models-dir {models}
bench half --model MODEL --out {new} --models-dir {models}
bench half --music FOLDER --out {new} --models-dir {models}
bench half --out NEW_FOLDER --models-dir {models}
bench all --music FOLDER --out {new} --models-dir {models}
bench all --models-dir FOLDER --out {new}
bench all --out NEW_FOLDER --models-dir {models}
bench scale replicas --model MODEL --out {new} --models-dir {models}
bench scale replicas --music FOLDER --out {new} --models-dir {models}
bench scale replicas --out NEW_FOLDER --models-dir {models}
bench scale streams --model MODEL --out {new} --models-dir {models}
bench scale streams --music FOLDER --out {new} --models-dir {models}
bench scale streams --out NEW_FOLDER --models-dir {models}
bench scale hosts --model MODEL --out {new} --models-dir {models}
bench scale hosts --music FOLDER --out {new} --models-dir {models}
bench scale hosts --out NEW_FOLDER --models-dir {models}
bench fleet --boxes 1 --out NEW_FOLDER
"""


def cases(line: str, things: dict[str, Path], new: Path) -> Iterator[tuple[str, ...]]:
    """Yield the command lines of one line of `TRIED`; of many wrong things every other one, in turn from line to line.

    Args:
        things: where the things are.
        new: folder in which each of them gets a place of its own for results.
    """
    words = re.findall(r"\{[^}]*\}|\S+", line)
    kind = next((word for word in words if word in WRONG), "")
    tried = WRONG.get(kind, ("",))
    if len(tried) > MANY:
        tried = tried[len(line) % 2 :: 2]
    for number, wrong in enumerate(tried):
        found = {**things, "new": new / str(number)}
        given = (wrong if word == kind else word for word in words)
        yield tuple(str(found[word[1:-1]]) if word.startswith("{") else word for word in given)


def make(folder: Path) -> dict[str, Path]:
    """Lay the things out; return where each is, by its name."""
    things = {name: folder / name for name in ("nowhere", "empty folder", "empty", "bytes", "text", "loop", "noise")}
    things |= {"no place": Path("/proc/nothing/here"), "below": things["bytes"] / "below"}
    things |= {name: folder / name for name in ("nan.npz", "nan.json", "array.npy", "music", "splits", "models")}
    things |= {"escapes": folder / "\x1b[2J\x9b31m\u202e.wav", "no utf8": folder / "\udcff\udcfe.wav"}
    things["unreadable"] = folder / "unreadable"
    noise = np.random.default_rng(0)
    for name in ("bytes", "escapes", "no utf8"):
        things[name].write_bytes(noise.bytes(3_000))
    things["empty"].write_bytes(b"")
    things["text"].write_text("file,genre\nno such.wav,fado\n[[")
    things["loop"].symlink_to(things["loop"])
    things["unreadable"].symlink_to("/proc/self/mem")  # reading it fails, for root, too
    things["empty folder"].mkdir()
    things["noise"].mkdir()
    for name in ("\x1b[2J.mp3", "a.wav", "\udcff.flac"):
        (things["noise"] / name).write_bytes(noise.bytes(2_000))
    nothing = {
        "X": (3, 50),
        "tags": (3, 50),
        "logits": (3, 521),
        "clip_of": (3,),
        "kinds": (3,),
        "tag_weights": (50, 2),
    }
    np.savez(things["nan.npz"], Y=[0, 0, 0], IDS=["a"] * 3, clips=[["a", "fado", "b"]], ways=["plain"] * 3, text="{}",
             **{name: np.full(shape, np.nan) for name, shape in nothing.items()})  # fmt: skip
    things["nan.json"].write_text(json.dumps({"model": float("nan"), "benchmark": "http", "protocols": float("nan")}))
    np.save(things["array.npy"], np.full(3, np.nan))
    return things | _right(folder, things)


def _right(folder: Path, things: dict[str, Path]) -> dict[str, Path]:
    """Lay out what is as it should be."""
    noise = np.random.default_rng(1)
    for genre in ("fado", "zouk"):
        (things["music"] / genre).mkdir(parents=True)
        for number in range(6):
            sound = noise.normal(0, 0.1, 2 * RATE)
            soundfile.write(things["music"] / genre / f"{number}.wav", sound, RATE)
    rows = [f"{genre}/{number}.wav,{genre} {number % 3}" for genre in ("fado", "zouk") for number in range(6)]
    (things["music"] / "index.csv").write_text("\n".join(["file,artist", *rows]))
    made = {name: folder / name for name in ("heard", "gtzan heard", "heads", "report", "card", "model", "measured")}
    made["splits with bytes"] = folder / "splits with bytes"
    for lists in (things["splits"], made["splits with bytes"]):
        lists.mkdir()
        for number, part in enumerate(("train", "valid", "test")):
            (lists / f"{part}_filtered.txt").write_text(f"blues/blues.0000{number}.wav\n")
    (made["splits with bytes"] / "artists.csv").write_bytes(things["bytes"].read_bytes())
    things["models"].mkdir()
    (things["models"] / "genre-sounds").symlink_to(ROOT / "models" / "genre-sounds")
    made["networks"] = ROOT / "models" / "genre-sounds" / "1" / "model.onnx"
    exec(block("python").replace('"model.onnx"', repr(str(made["model"]))), {})
    made["card"].write_text(block("json"))
    made["measured"].write_text(json.dumps({"benchmark": "http", "options": {}, "machine": {}}))
    made["report"].write_text(json.dumps({"model": "genre-sounds", "model_version": "?"}))
    for name in ("half a run", "a broken run"):
        made[name] = folder / name
        (made[name] / "work" / "artist").mkdir(parents=True)
    run = {"data": {"shape": [3, 129, 128, 1], "features": "work/features"}}
    (made["half a run"] / "reproduce.json").write_text(json.dumps(run))
    for file in ("reproduce.json", "vgg16-artist.keras", "work/features", "work/artist/windows.npz"):
        (made["a broken run"] / file).write_bytes(things["bytes"].read_bytes())
    _fitted(made)
    return made


def _fitted(made: dict[str, Path]) -> None:
    """Write what networks would say of some clips, and heads of zeros."""
    from services.inference.card import load_card
    from training.data.gtzan import Clip
    from training.discriminant import Discriminant
    from training.hearing import heads, kinds_head, listen
    from training.hearing.genre_head import GenreHead

    classes = load_card(ROOT / "models", "genre-sounds").sounds or ()
    clips = [
        Clip(f"{genre}{n}", genre, Path(genre), f"{genre} {n % 3}") for genre in ("fado", "zouk") for n in range(6)
    ]
    count, random = len(clips), np.random.default_rng(2)
    heard = listen.Heard(
        random.random((count, 50), np.float32), random.random((count, len(classes)), np.float32),
        np.arange(count), clips, np.zeros(count, np.intp), np.array(["plain"] * count),
    )  # fmt: skip
    for name, values in (("heard", heard), ("gtzan heard", invented.music(1, 1))):
        made[name] = made[name].with_suffix(".npz")
        listen.save(made[name], values)
    ranges = kinds_head.ranges_of(classes)
    zeros = [Discriminant(np.zeros((size, 2)), np.zeros(2)) for size in (50, len(classes))]
    kinds = kinds_head.KindsHead(np.zeros((len(ranges), 3)), np.zeros(3), ranges)
    told, kept = dict.fromkeys(heads.TOLD, 1), {"right": {}, "kept_from": "genre-sounds 1"}
    whole = heads.Heads(GenreHead(*zeros, 0.5, 1.0, 1.0, 0.5), kinds, ("fado", "zouk"), classes, (), told, kept)
    made["heads"] = made["heads"].with_suffix(".npz")
    heads.save(made["heads"], whole)
