"""What the chaos run listens to: real music as VOD, each piece several times over, and a model that is cheap.

The playlist repeats a piece after a discontinuity, so a stream is as long as wanted and has many epochs. The model is
a real ONNX file with a real card: its answers depend on every frame, and cost next to nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import wave
from pathlib import Path

import numpy as np

from services.contract.recipe import load_recipe
from services.origin.packager import Packaging, package_folder
from tests.demo_recordings import recordings

ROOT = Path(__file__).resolve().parents[2]


def write_music(folder: Path, pieces: dict[str, float]) -> Path:
    """Write pieces of music: chords that change, with a little noise, so that every window differs."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, seconds) in enumerate(pieces.items()):
        draw = np.random.default_rng(number)
        t = np.arange(int(44_100 * seconds)) / 44_100
        notes = 110 * 2 ** (draw.integers(0, 24, size=int(seconds) + 1) / 12)
        pitch = notes[t.astype(int)]
        sound = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3)) + draw.normal(0, 0.05, t.size)
        pcm = (np.clip(sound / 3, -1, 1) * 20_000).astype("<i2")
        with wave.open(str(folder / f"{name}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(44_100)
            out.writeframes(pcm.tobytes())
    return folder


def package(music: Path, out: Path, loops: int, most: int) -> dict[str, str]:
    """Package pieces and return playlist paths by stream name."""
    done = package_folder(music, out, Packaging(coder="fast", segment_s=4.0))
    return {name: _looped(out, name, loops) for name in sorted(done.names.values())[:most]}


def _looped(out: Path, name: str, loops: int) -> str:
    multivariant = (out / f"{name}.m3u8").read_text()
    media = next(line for line in multivariant.splitlines() if line and not line.startswith("#"))
    lines = (out / media).read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(("#EXTINF", "#EXT-X-MAP")))
    head, body = lines[:first], [line for line in lines[first:] if line != "#EXT-X-ENDLIST"]
    folder = str(Path(media).parent)
    body = [line if line.startswith("#") else f"{folder}/{line}" for line in body]
    body = [re.sub(r'URI="([^"]+)"', rf'URI="{folder}/\1"', line) for line in body]
    text = "\n#EXT-X-DISCONTINUITY\n".join(["\n".join(body)] * loops)
    (out / f"{name}-looped.m3u8").write_text("\n".join([*head, text, "#EXT-X-ENDLIST", ""]))
    return f"{name}-looped.m3u8"


def tiny_model(models_dir: Path) -> str:
    """Write a model "tiny" that takes musicnn's recipe; return its name."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    source, folder = ROOT / "models" / "vgg16", models_dir / "tiny"
    (folder / "1").mkdir(parents=True)
    card = json.loads((source / "card.json").read_text())
    recipe = load_recipe("musicnn")
    frames, bands = recipe.shape
    weights = np.random.default_rng(1).normal(size=(bands, len(card["labels"]))).astype(np.float32)
    over_time = np.random.default_rng(2).normal(size=(1, frames)).astype(np.float32) / 10
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["over_time", "features"], ["pooled"]),
            helper.make_node("Squeeze", ["pooled"], ["flat"], axes=[1]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", frames, bands])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(card["labels"])])],
        [numpy_helper.from_array(over_time, "over_time"), numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    (folder / "1" / "model.onnx").write_bytes(content)
    answers = next(file for file in card["files"] if file["path"] == "1/model.onnx")
    entry = {**answers, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    card.update(name="tiny", files=[entry], parameters=int(weights.size + over_time.size))
    card.update(recipe=recipe.model_dump(), recipe_digest=recipe.digest, precision="fp32")
    (folder / "card.json").write_text(json.dumps(card))
    return "tiny"


def default_music(folder: Path, pieces: int) -> Path:
    """Return music: clips of the shared data set where it is there, else the demo's recordings."""
    clips = sorted((ROOT.parent / "shared" / "data" / "gtzan-subset").glob("*/*.flac"))
    music = folder / "music"
    music.mkdir()
    if clips:
        for clip in clips[:: max(1, len(clips) // pieces)][:pieces]:
            shutil.copy(clip, music / clip.name)
    else:
        recordings(music)
    return music
