"""The search for the largest packet that passes, against paths that are only a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.session.pmtu import Search


def sizes_tried(search: Search, path: int) -> tuple[list[int], Search]:
    """What is asked of a path that takes packets of up to `path` bytes, and the end of it."""
    tried: list[int] = []
    while (size := search.next) is not None:
        assert size not in tried
        tried.append(size)
        search = search.after(size, size <= path)
    return tried, search


@pytest.mark.parametrize(
    ("path", "found", "first"),
    [
        (1500, 1500, [576, 1500]),  # the usual path takes two packets
        (9000, 1500, [576, 1500]),
        (1499, 1499, [576, 1500, 1038]),
        (576, 576, [576, 1500, 1038]),
        (0, None, [576]),  # nobody answers
        (575, None, [576]),
    ],
)
def test_what_is_tried_and_found(path: int, found: int | None, first: list[int]) -> None:
    tried, search = sizes_tried(Search.between(576, 1500), path)
    assert tried[: len(first)] == first
    assert search.found == found


def test_a_device_smaller_than_the_smallest_size_is_tried_as_it_is() -> None:
    assert sizes_tried(Search.between(1280, 1000), 1500) == ([1000], Search(1000, 1000, 1000, 1001))
    assert sizes_tried(Search.between(576, 576), 576)[1].found == 576


def test_nothing_is_found_before_the_end() -> None:
    assert Search.between(576, 1500).after(576, True).found is None


@given(st.integers(68, 65535), st.integers(68, 65535), st.integers(0, 70000))
def test_any_path_is_found_exactly_and_soon(smallest: int, largest: int, path: int) -> None:
    tried, search = sizes_tried(Search.between(smallest, largest), path)
    lowest = min(smallest, largest)
    assert search.found == (min(path, largest) if path >= lowest else None)
    assert all(lowest <= size <= largest for size in tried)
    assert len(tried) <= 2 + (largest - lowest).bit_length()
