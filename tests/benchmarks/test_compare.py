"""`genre bench --compare`: what became slower is named, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from benchmarks.accounting import spread
from benchmarks.cli import bench, finished
from benchmarks.report import Report
from services.errors import GenreError


def written(out: Path, values: dict[str, Any], name: str = "pipeline", **options: object) -> Path:
    """Write results as a benchmark does; return their folder."""
    report = Report(name, out, options)
    report.values |= values
    return report.save()


def compare(*places: Path) -> Result:
    """Run the command without one that measures."""
    words = [word for place in places for word in ("--compare", str(place))]
    return CliRunner().invoke(bench, words, catch_exceptions=True)


def line(result: Result, name: str) -> str:
    """Return a figure's row."""
    return next(row for row in result.output.splitlines() if row.startswith(f"| {name} "))


def cases(*cpu_s: float, rate: tuple[float, ...] = (50.0, 51.0)) -> dict[str, Any]:
    """Return values of the form that `genre bench pipeline` writes."""
    repeats = [{"cpu_s": value, "results": 9, "processes": {"fetcher-1": {"cpu_s": value / 2}}} for value in cpu_s]
    return {"cases": {"(c) services": {"audio_s_per_cpu_s": spread(rate).to_json(), "repeats": repeats}}}


def test_what_became_slower_by_more_than_its_spread_is_named_and_exits_1(tmp_path: Path) -> None:
    before, after = written(tmp_path / "a", cases(1.0, 1.2)), written(tmp_path / "b", cases(1.21, 1.4))
    found = compare(before, after)
    assert found.exit_code == 1
    assert "SLOWER" in line(found, "cases, (c) services, cpu_s")
    assert "SLOWER" in line(found, "cases, (c) services, processes, fetcher-1, cpu_s")
    assert "SLOWER" not in line(found, "cases, (c) services, audio_s_per_cpu_s")
    back = compare(after, before)
    assert back.exit_code == 0 and "faster" in line(back, "cases, (c) services, cpu_s")


def test_a_rate_is_slower_where_it_is_lower(tmp_path: Path) -> None:
    before, after = written(tmp_path / "a", cases(1.0)), written(tmp_path / "b", cases(1.0, rate=(48.0, 49.9)))
    assert compare(before, after).exit_code == 1 and compare(after, before).exit_code == 0


def test_what_stays_within_its_spread_is_not_slower(tmp_path: Path) -> None:
    found = compare(written(tmp_path / "a", cases(1.0, 1.2)), written(tmp_path / "b", cases(1.19, 1.9)))
    assert found.exit_code == 0 and "SLOWER" not in found.output and "+40.5 %" in found.output


def test_one_run_has_no_spread_and_memory_no_speed(tmp_path: Path) -> None:
    row = {"streams": 10, "p99_ms": 100.0, "peak_mib": {"fetcher-1": 90.0}}
    before = written(tmp_path / "a", {"streams": [row, row | {"streams": 20}]}, "streams-x")
    after = written(
        tmp_path / "b", {"streams": [row | {"p99_ms": 900.0, "peak_mib": {"fetcher-1": 400.0}}]}, "streams-x"
    )
    found = compare(before, after)
    assert found.exit_code == 0
    assert "one run: no verdict" in line(found, "streams, 10, p99_ms")
    assert "+344.4 %" in line(found, "streams, 10, peak_mib, fetcher-1")
    assert "2 figures are of one run only" in found.output


def test_whole_results_folders_are_compared_benchmark_by_benchmark(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        written(tmp_path / name, cases(value, value), "pipeline")
        written(tmp_path / name, {"cpu_ms_per_audio_s": {"mel": spread([3.0, 4.0]).to_json()}}, "stages")
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.exit_code == 1 and "pipeline: before" in found.output and "stages: before" in found.output
    assert compare(tmp_path / "a" / "stages" / "results.json", tmp_path / "b").exit_code == 0


def test_alone_it_compares_with_the_folder_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "results", cases(2.0, 2.1))
    assert compare(written(tmp_path / "a", cases(1.0, 1.1))).exit_code == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "does not say which benchmark"),
        ('{"benchmark": 5}', "does not say which benchmark"),
        ('{"benchmark": "pipeline"}', "no figure in common"),
        ('{"benchmark": "pipeline", "options": 3, "machine": [], "cases": [[], {}, null]}', "no figure in common"),
        ('{"benchmark": "other"}', "only of other"),
        ('{"benchmark": "pipeline", "options": {"scale": 0.25}}', "scale"),
    ],
)
def test_results_that_can_not_be_compared_are_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "results.json").write_text(text)
    error = compare(tmp_path, written(tmp_path / "b", cases(1.0))).exception
    assert isinstance(error, GenreError) and reason in str(error) and "\n" not in str(error)


def test_results_that_are_not_there_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    words = ["--compare", str(tmp_path / "none"), "pipeline", "--out", str(tmp_path / "new")]
    error = CliRunner().invoke(bench, words).exception
    assert isinstance(error, GenreError) and "can't be read" in str(error)
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    assert "holds no results.json" in str(compare(tmp_path / "empty").exception)


def test_figures_of_any_kind_are_read_without_a_fault(tmp_path: Path) -> None:
    odd = {"a_ms": float("nan"), "b_ms": None, "c_s": True, "d_ms": [1, 2], "e_s": {"median": "x"}, "f_ms": [{}]}
    before = written(tmp_path / "a", cases(1.0, 1.1) | odd)
    text = (before / "results.json").read_text()
    assert json.loads(text)["d_ms"] == [1, 2]
    assert compare(before, before).exit_code == 0


def test_a_benchmark_that_runs_is_compared_with_what_its_folder_held_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, cases(1.0, 1.1))

    @click.command()
    def slow() -> None:
        finished(written(tmp_path, cases(2.0, 2.1)))

    monkeypatch.setitem(bench.commands, "slow", slow)
    found = CliRunner().invoke(bench, ["--compare", str(tmp_path), "slow"])
    assert found.exit_code == 1 and "+95.2 %" in line(found, "cases, (c) services, cpu_s")
    assert CliRunner().invoke(bench, ["--compare", str(tmp_path), "slow"]).exit_code == 0
    assert CliRunner().invoke(bench, ["slow"]).exit_code == 0
