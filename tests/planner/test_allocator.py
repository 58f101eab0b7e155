"""llama.cpp's allocator: the peak for one size of copied experts tells that for others."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from planner.engines.llamacpp_allocator import Graph, furthest_end, peak_around, peak_bytes, steps_of

OPEN = 0
"""A choice of tensor that has the open size."""
Choices = list[tuple[int, int, bool]]


def graph_of(choices: Choices, size: int) -> tuple[Graph, list[int]]:
    """A graph from choices of (bytes or ``OPEN``, how far back the source is, whether it is overwritten)."""
    graph, opened = Graph(), []
    for number, (chosen, back, over) in enumerate(choices):
        sources = (max(number - back, 0),) if number else ()
        if chosen == OPEN:
            opened.append(graph.add(size, *sources))
        elif over and sources and graph.bytes[sources[0]] == chosen:
            graph.change(chosen, *sources)
        else:
            graph.add(chosen, *sources)
    return graph, opened


def choices() -> st.SearchStrategy[Choices]:
    tensor = st.tuples(st.sampled_from([OPEN, 1, 2, 3, 5, 8, 40]), st.integers(1, 12), st.booleans())
    return st.lists(tensor, min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(choices(), st.integers(1, 60), st.lists(st.integers(1, 60), max_size=8), st.integers(0, 20))
@example([(OPEN, 1, False), (3, 1, False), (OPEN, 2, False), (3, 1, False), (1, 3, False)], 3, [1, 2, 3, 4, 5], 0)
def test_a_peak_holds_for_every_size_that_it_names(made: Choices, size: int, others: list[int], start: int) -> None:
    graph, opened = graph_of(made, size)
    steps = steps_of(graph)
    peak = peak_around(steps, graph.bytes, start, opened, size)
    assert peak.low <= size <= peak.high
    for other in (size, *others, peak.low, peak.high):
        if max(peak.low, 1) <= other <= min(peak.high, 1 << 40):
            sizes = [other if number in opened else own for number, own in enumerate(graph.bytes)]
            assert peak.bytes_for(other) == furthest_end(steps, sizes, start)


def test_what_is_copied_takes_the_place_of_what_was_freed() -> None:
    def peak(size: int) -> int:
        graph = Graph()
        first = graph.add(1000)
        second = graph.add(100, first)
        graph.use(graph.add(size, second), second)
        return peak_bytes(graph, 1)

    assert [peak(size) for size in (10, 1000, 1001)] == [1100, 1100, 2101]
    assert peak(3000) == 4100
