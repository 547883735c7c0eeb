"""The figures are drawn from the numbers, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from services.errors import GenreError
from training import figures
from training.gtzan import GENRES

PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(figures.figures, [str(argument) for argument in arguments])


def result() -> dict[str, object]:
    counts = np.eye(10, dtype=int) * 5
    history = [{"epoch": at, "train_accuracy": at / 4, "valid_accuracy": at / 5} for at in (1, 2, 3)]
    told = {"title": "random", "window_accuracy": 0.5, "confusion": counts.tolist(), "history": history}
    return {"protocols": {"random": told, "artist": {**told, "title": "artist"}}}


def gtzan(folder: Path) -> Path:
    for at, genre in enumerate(GENRES[:3]):
        path = folder / genre / f"{genre}.00000.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.3 * np.sin(np.arange(22_050 * (3 + at)) * 0.1 * (at + 1)), 22_050)
    return folder


def test_all_three_figures_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result()))
    done = run("--gtzan", gtzan(tmp_path / "gtzan"), "--result", tmp_path / "result.json", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(figures.NAMES.values())
    for name in figures.NAMES.values():
        content = (tmp_path / "out" / name).read_bytes()
        assert content.startswith(PNG) and len(content) > 20_000


def test_a_genres_first_readable_clip_is_shown(tmp_path: Path) -> None:
    folder = gtzan(tmp_path)
    (folder / "blues" / "blues.00001.wav").write_bytes(b"RIFF" * 500_000)
    clips, _ = figures.find(folder)
    assert [(genre, name) for genre, name, _ in figures.one_clip_a_genre(clips)] == [
        (genre, f"{genre}.00000") for genre in GENRES[:3]
    ]
    with pytest.raises(GenreError, match="no clip can be read"):
        figures.one_clip_a_genre([clip for clip in clips if clip.name == "blues.00001"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"protocols": []}', '{"protocols": {"a": {"title": "x"}}}'])
def test_a_file_that_is_no_result_is_one_line_and_draws_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    done = run("--result", tmp_path / "result.json", "--out", tmp_path / "out")
    assert isinstance(done.exception, GenreError)
    assert "is no result of" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_nothing_to_draw_from_is_a_usage_error(tmp_path: Path) -> None:
    assert getattr(run().exception, "exit_code", 0) == 2
    assert isinstance(run("--result", tmp_path / "absent.json").exception, GenreError)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    (tmp_path / "result.json").write_text(json.dumps(result()))
    done = run("--result", tmp_path / "result.json", "--out", tmp_path / "out")
    assert isinstance(done.exception, GenreError) and "can't be written" in str(done.exception)


def test_the_hertz_ticks_stand_where_librosa_puts_them() -> None:
    librosa = pytest.importorskip("librosa")
    recipe = figures.load_recipe("vgg16")
    edges = librosa.hz_to_mel(np.array([recipe.fmin, 500, 2_000, 8_000, recipe.fmax]))
    expected = recipe.bands * (edges[1:4] - edges[0]) / (edges[4] - edges[0])
    np.testing.assert_allclose(list(figures._band_ticks(recipe)), expected, rtol=1e-6)
