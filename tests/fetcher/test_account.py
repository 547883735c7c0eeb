"""The ledger: exact whatever the order of acks, movable to a restart at any moment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.contract import Ledger
from services.fetcher.account import Account
from services.fetcher.heard import Bookmark

ENTRIES = st.lists(
    st.tuples(st.sampled_from(["chunk", "gap", "short", "lost"]), st.integers(0, 100_000)), min_size=1, max_size=30
)


def mark(sample: int) -> Bookmark:
    return Bookmark(0, 0, sample)


@given(entries=ENTRIES, data=st.data())
def test_it_adds_up_at_every_moment_and_is_exact_at_the_end(
    entries: list[tuple[str, int]], data: st.DataObject
) -> None:
    account = Account(Ledger(stream="radio"))
    expected = {"classified": 0, "gap": 0, "short": 0, "lost": 0}
    open_chunks = []
    for i, (place, samples) in enumerate(entries):
        if place == "chunk":
            account.chunk(f"c{i}", samples, 1, mark(i))
            open_chunks.append((f"c{i}", samples))
        elif place == "gap":
            account.gap(samples, "http-404")
            expected["gap"] += samples
        elif place == "short":
            account.short(samples)
            expected["short"] += samples
        else:
            account.lost(samples, "unaccounted")
            expected["lost"] += samples
    account.end()
    for chunk, samples in data.draw(st.permutations(open_chunks)):
        assert account.saved()[0].adds_up and not account.saved()[0].ended
        cause = data.draw(st.sampled_from(["", "stale", "dead"]))
        assert account.settle(chunk, cause) == samples
        assert account.settle(chunk) == 0, "a duplicate ack counts for nothing"
        expected["lost" if cause else "classified"] += samples
    ledger, _ = account.saved()
    assert ledger.adds_up and ledger.ended and ledger.in_flight == 0
    assert {place: getattr(ledger, place) for place in expected} == expected
    assert ledger.timeline == sum(samples for _, samples in entries)
    assert sum(ledger.causes.values()) == ledger.gap + ledger.lost


def test_it_moves_only_over_what_is_settled_without_a_hole() -> None:
    account = Account(Ledger(stream="radio"))
    for i in range(3):
        account.chunk(f"c{i}", 100, 2, mark(i))
    account.settle("c1")
    account.settle("c2")
    ledger, resume = account.saved()
    assert (ledger.timeline, ledger.in_flight, ledger.windows, resume) == (0, 300, 0, None)
    account.settle("c0")
    ledger, resume = account.saved()
    assert (ledger.timeline, ledger.in_flight, ledger.windows, resume) == (300, 0, 6, mark(2))


def test_a_restart_goes_on_where_the_saved_ledger_ended() -> None:
    account = Account(Ledger(stream="radio"))
    account.chunk("a", 100, 1, mark(0))
    account.settle("a")
    again = Account(*account.saved())
    again.gap(50, "http-404")
    ledger, resume = again.saved()
    assert (ledger.timeline, ledger.classified, ledger.gap, resume) == (150, 100, 50, mark(0))


def test_a_new_place_to_begin_again_is_taken_only_where_nothing_before_it_is_open() -> None:
    account = Account(Ledger(stream="radio"))
    account.begin_again_from(mark(0))
    assert account.saved()[1] == mark(0)
    account.chunk("a", 100, 1, mark(1))
    account.begin_again_from(mark(100))
    assert account.saved()[1] == mark(0)
    account.settle("a")
    account.begin_again_from(mark(101))
    assert account.saved()[1] == mark(1), "what lies after the ledger's end would leave a hole"


def test_a_stream_that_failed_has_ended_once_its_chunks_are_settled() -> None:
    account = Account(Ledger(stream="radio"))
    account.chunk("a", 100, 1, mark(0))
    account.fail("no such host")
    assert not account.saved()[0].ended
    account.settle("a")
    ledger, _ = account.saved()
    assert ledger.ended and ledger.failed == "no such host" and ledger.adds_up
