"""Which images share a batch: none waits long for another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from strait.apps.jobs import ImageRequest, batches
from strait.decoding.config import DecodingConfig

STEPS = st.integers(1, 64)


@given(st.lists(st.tuples(STEPS, STEPS, st.sampled_from([0.0, 0.5, 2.0])), min_size=1, max_size=40), st.integers(1, 9))
def test_no_row_takes_part_in_twice_its_own_passes(rows: list[tuple[int, int, float]], size: int) -> None:
    requests = [
        ImageRequest(0, 0, index, DecodingConfig((top, bottom), guidance=guidance))
        for index, (top, bottom, guidance) in enumerate(rows)
    ]
    groups = list(batches(requests, size))
    assert sorted(place for places in groups for place in places) == list(range(len(rows)))
    for places in groups:
        assert len(places) <= size
        together = sum(max(rows[place][level] for place in places) for level in range(2))
        assert all(together < 2 * sum(rows[place][:2]) for place in places)
        assert len({rows[place][2] != 0 for place in places}) == 1


def test_like_steps_fill_one_batch() -> None:
    requests = [ImageRequest(0, seed, 0, DecodingConfig((9 + seed % 8, 5 + seed % 4))) for seed in range(32)]
    assert [len(places) for places in batches(requests, 32)] == [32]
