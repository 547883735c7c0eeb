"""The ledger: exact whatever the order of acks, movable to a restart at any moment."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Ledger
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.delivery.ledger import StreamLedger, new_ledger
from services.fetcher.events import ResumePoint

ENTRIES = st.lists(
    st.tuples(st.sampled_from(["chunk", "gap", "short", "lost"]), st.integers(0, 100_000)), min_size=1, max_size=30
)


def mark(sample: int) -> ResumePoint:
    return ResumePoint(0, 0, sample)


def chunk(number: int, covers: int, windows: int = 1) -> InFlightChunk:
    header = ChunkHeader(
        stream="radio", epoch=0, first_sample=number, windows=windows, hop=33_000, received_at=1.0, observed_at=1.0
    )
    return InFlightChunk(Chunk(header, np.zeros(0, np.int16), ""), covers, mark(number), False)


@given(entries=ENTRIES, data=st.data())
def test_it_adds_up_at_every_moment_and_is_exact_at_the_end(
    entries: list[tuple[str, int]], data: st.DataObject
) -> None:
    account = StreamLedger(Ledger(stream="radio"))
    expected = {"classified": 0, "gap": 0, "short": 0, "lost": 0}
    open_chunks = []
    for i, (place, samples) in enumerate(entries):
        if place == "chunk":
            account.chunk(chunk(i, samples))
            open_chunks.append((f"radio/0/{i}/1", samples))
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
    for one, samples in data.draw(st.permutations(open_chunks)):
        assert account.saved()[0].adds_up and not account.saved()[0].ended
        cause = data.draw(st.sampled_from(["", "stale", "dead"]))
        assert account.settle(one, cause) == samples
        assert account.settle(one) == 0, "a duplicate ack counts for nothing"
        expected["lost" if cause else "classified"] += samples
    ledger, _ = account.saved()
    assert ledger.adds_up and ledger.ended and ledger.in_flight == 0
    assert {place: getattr(ledger, place) for place in expected} == expected
    assert ledger.timeline == sum(samples for _, samples in entries)
    assert sum(ledger.causes.values()) == ledger.gap + ledger.lost


def test_it_moves_only_over_what_is_settled_without_a_hole() -> None:
    account = StreamLedger(Ledger(stream="radio"))
    for i in range(3):
        account.chunk(chunk(i, 100, 2))
    account.settle("radio/0/1/2")
    account.settle("radio/0/2/2")
    ledger, resume = account.saved()
    assert (ledger.timeline, ledger.in_flight, ledger.windows, resume) == (0, 300, 0, None)
    account.settle("radio/0/0/2")
    ledger, resume = account.saved()
    assert (ledger.timeline, ledger.in_flight, ledger.windows, resume) == (300, 0, 6, mark(2))


def test_a_restart_goes_on_where_the_saved_ledger_ended() -> None:
    account = StreamLedger(Ledger(stream="radio"))
    account.chunk(chunk(0, 100))
    account.settle("radio/0/0/1")
    again = StreamLedger(*account.saved())
    again.gap(50, "http-404")
    ledger, resume = again.saved()
    assert (ledger.timeline, ledger.classified, ledger.gap, resume) == (150, 100, 50, mark(0))


def test_a_new_place_to_begin_again_is_taken_only_where_nothing_before_it_is_open() -> None:
    account = StreamLedger(Ledger(stream="radio"))
    account.begin_again_from(mark(0))
    assert account.saved()[1] == mark(0)
    account.chunk(chunk(1, 100))
    account.begin_again_from(mark(100))
    assert account.saved()[1] == mark(0)
    account.settle("radio/0/1/1")
    account.begin_again_from(mark(101))
    assert account.saved()[1] == mark(1), "what lies after the ledger's end would leave a hole"


def test_a_stream_that_is_left_failed_has_ended_once_its_chunks_are_settled() -> None:
    account = StreamLedger(Ledger(stream="radio"))
    account.chunk(chunk(0, 100))
    account.failing("no such host")
    account.end()
    assert not account.saved()[0].ended
    account.settle("radio/0/0/1")
    ledger, _ = account.saved()
    assert ledger.ended and ledger.failed == "no such host" and ledger.adds_up


def test_a_stream_that_ended_can_go_on_from_behind_its_end() -> None:
    account = StreamLedger(Ledger(stream="radio"))
    account.chunk(chunk(0, 100))
    account.end(mark(100))
    assert account.saved()[1] is None, "its last chunk may have to be heard again"
    account.settle("radio/0/0/1")
    assert account.saved()[0].ended and account.saved()[1] == mark(100)
    account.go_on()
    account.gap(50, "expired")
    ledger, resume = account.saved()
    assert (ledger.timeline, ledger.ended, resume) == (150, False, mark(100))


def test_each_timeline_has_an_identity_of_its_own() -> None:
    assert len({new_ledger("radio").timeline_id for _ in range(100)}) == 100
