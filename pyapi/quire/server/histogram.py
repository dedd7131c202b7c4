"""Histograms that cost a fraction of a microsecond to add to, folded when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Any

from prometheus_client.core import HistogramMetricFamily


class Histogram:
    """How many values were at most each edge, and their sum.

    Thread safety: add() from one thread; family() from any.
    """

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        # One more than edges: what is above the last. Summed up only in family(), so that add() touches one of them.
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, or `times` equal ones."""
        self._counts[bisect_left(self._edges, value)] += times
        self._sum += value * times

    def family(self, name: str, documentation: str, labels: dict[str, str]) -> Any:
        """As prometheus_client shows it."""
        family = HistogramMetricFamily(name, documentation, labels=list(labels))
        bounds = [*(str(float(edge)) for edge in self._edges), "+Inf"]
        family.add_metric(list(labels.values()), list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        return family


def steps_of_1_2_5(largest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to `largest`: edges for counts of tokens."""
    edges: list[float] = []
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power > largest:
                return tuple(edges)
            edges.append(factor * power)
        power *= 10
