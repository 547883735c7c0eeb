"""The figures are drawn from the numbers, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from services.errors import GenreError
from training import figures
from training.data.gtzan import GENRES

PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(figures.figures, [str(argument) for argument in arguments])


def result() -> dict[str, object]:
    counts = np.eye(10, dtype=int) * 5
    measures = [(at / 4, at / 5, 2 / at, 3 / at) for at in (1, 2, 3)]
    names = ("train_accuracy", "valid_accuracy", "train_loss", "valid_loss")
    history = [{"epoch": at, **dict(zip(names, row, strict=True))} for at, row in enumerate(measures, 1)]
    told = {
        "title": "random", "window_accuracy": 0.5, "window_interval": [0.4, 0.6], "n_windows": 50,
        "clip_accuracy": 0.6, "clip_interval": [0.2, 0.9], "n_clips": 5,
        "confusion": counts.tolist(), "clip_confusion": (counts // 5).tolist(), "history": history,
    }  # fmt: skip
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


@pytest.mark.parametrize(("form", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_for_print_are_pdf_or_svg(tmp_path: Path, form: str, start: bytes) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result()))
    done = run("--result", tmp_path / "result.json", "--out", tmp_path / "out", "--format", form, "--dpi", 300)
    assert done.exit_code == 0, done.exception
    drawn = list((tmp_path / "out").iterdir())
    assert len(drawn) == 2 and all(path.suffix == f".{form}" for path in drawn)
    assert all(path.read_bytes().startswith(start) for path in drawn)


def test_a_genres_first_readable_clip_is_shown(tmp_path: Path) -> None:
    folder = gtzan(tmp_path)
    (folder / "blues" / "blues.00001.wav").write_bytes(b"RIFF" * 500_000)
    clips = figures.read_data_set(folder).clips
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
    edges = librosa.hz_to_mel(np.array([recipe.view.fmin, 500, 2_000, 8_000, recipe.view.fmax]))
    expected = recipe.view.bands * (edges[1:4] - edges[0]) / (edges[4] - edges[0])
    np.testing.assert_allclose(list(figures._band_ticks(recipe)), expected, rtol=1e-6)


def test_each_column_of_figure_2_has_its_colour_bar_and_figure_3_counts_clips_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path, dpi: drawn.append(figure))
    figures.spectrograms(figures.one_clip_a_genre(figures.read_data_set(gtzan(tmp_path)).clips), tmp_path / "x.png")
    figures.from_result(result(), tmp_path)
    two, three, four = ([panel for panel in figure.axes if panel.axison] for figure in drawn)
    bars = [panel for panel in two if "dB" in panel.get_xlabel() or "share" in panel.get_xlabel()]
    assert len(bars) == 4 and bars[0].get_xlim() == (-80, 0)
    titles = [panel.get_title(loc="left") for panel in three if panel.get_title(loc="left")]
    assert titles[:2] == [
        "random\n50.0 % of 50 windows (95 %: 40.0-60.0)", "random\n60.0 % of 5 clips (95 %: 20.0-90.0)",
    ]  # fmt: skip
    words = {text.get_text() for panel in four for text in panel.texts}
    assert {"chance", "the paper, 97.02 %"} <= words and len(four) == 4
    assert four[2].get_ylabel().startswith("loss") and four[0].get_ylabel().startswith("accuracy")
