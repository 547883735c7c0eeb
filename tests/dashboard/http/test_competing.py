from __future__ import annotations

from services.dashboard.http.competing import MOST_ROWS, STEPS, competing
from services.dashboard.state.stream_state import Glimpse


def test_genres_and_sounds_are_means_by_step_strongest_first() -> None:
    windows = [Glimpse(1_000.0 - age, {"jazz": 0.2, "rock": 0.8}, {"Guitar": 0.6}) for age in (41, 43)]
    windows += [Glimpse(999.0, {"jazz": 1.0, "rock": 0.0}, {})]
    windows += [Glimpse(998.0, {}, {"Speech": 0.9}, "speech")]
    found = competing(windows, 1_000.0)
    assert [name for name, _ in found["genres"]] == ["rock", "jazz"]
    rock, jazz = (means for _, means in found["genres"])
    assert (rock[-5], rock[-1], jazz[-1], rock[-2]) == (0.8, 0.0, 0.5, None) and len(rock) == STEPS
    assert dict(found["sounds"])["Speech"][-1] == 0.45 and dict(found["sounds"])["Guitar"][-1] == 0.0
    (music, of_music), (talk, of_talk) = found["kinds"]
    assert (music, of_music[-5], of_music[-1], talk, of_talk[-5], of_talk[-1]) == ("music", 1, 0.5, "speech", 0, 0.5)


def test_old_windows_and_weak_names_are_left_out() -> None:
    scores = {f"g{number}": number / 100 for number in range(50)}
    found = competing([Glimpse(0.0, {"old": 1.0}, {}), Glimpse(1_000.0, scores, {})], 1_000.0)
    assert [name for name, _ in found["genres"]] == [f"g{49 - number}" for number in range(MOST_ROWS)]
    assert competing([], 0.0) == {"step_s": 10.0, "kinds": [], "genres": [], "sounds": []}
    assert competing([Glimpse(0.0, {"jazz": 0.96, "rock": 0.04}, {})], 0.0)["genres"][1:] == []
