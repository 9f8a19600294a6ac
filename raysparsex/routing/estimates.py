"""Running estimates of how fast things are, from what is observed, with a prior before that.

Old observations fade by their number, not by time, so no clock is needed. Knows no replicas.
"""

from __future__ import annotations

import numpy as np

from raysparsex.registry.answers import Source

_KEPT = 0.95
"""Weight of all that was seen before, at each observation: the last twenty count most."""


class LinearTime:
    """seconds = latency + bytes x seconds per byte, by fading least squares; neither is negative.

    The prior stands for two observations, one without bytes and one of `typical` bytes.
    """

    def __init__(self, latency: float, seconds_per_byte: float, typical: float = 1e8) -> None:
        self._scale = typical
        far = latency + typical * seconds_per_byte
        # Sums over observations of 1, x, y, x*x, x*y with x in units of `typical`, which keeps them
        # alike in size.
        self._sums = np.array([2.0, 1.0, latency + far, 1.0, far])
        self._fitted: tuple[float, float] | None = None
        """Latency and slope. Decisions ask far more often than transfers end."""

    def observe(self, size: int, seconds: float) -> None:
        """One transfer of `size` bytes took so long."""
        x = size / self._scale
        self._sums = self._sums * _KEPT + np.array([1.0, x, seconds, x * x, x * seconds])
        self._fitted = None

    @property
    def latency(self) -> float:
        return self._fit()[0]

    @property
    def seconds_per_byte(self) -> float:
        return self._fit()[1] / self._scale

    def _fit(self) -> tuple[float, float]:
        if self._fitted is None:
            self._fitted = self._solved()
        return self._fitted

    def _solved(self) -> tuple[float, float]:
        n, x, y, xx, xy = self._sums.tolist()
        spread = n * xx - x * x
        if spread <= 1e-6 * n * xx:
            # All of one size: what they took is told, not how it splits.
            return 0.0, y / x if x else 0.0
        slope = (n * xy - x * y) / spread
        start = (y - slope * x) / n
        if slope < 0:
            return max(y / n, 0.0), 0.0
        if start < 0:
            return 0.0, max(xy / xx, 0.0)
        return start, slope


DEFAULT_TRANSFER = {
    Source.NODE: (0.0005, 1 / 8e9),
    Source.REMOTE: (0.003, 1 / 1e9),
    Source.DISK: (0.01, 1 / 0.5e9),
    Source.REMOTE_DISK: (0.015, 1 / 0.4e9),
}
"""Latency and seconds per byte before anything was measured: shared memory, a network of 10 Gbit/s,
a common SSD, both."""


class TransferTimes:
    """How long each source takes to deliver bytes to a replica's memory."""

    def __init__(self) -> None:
        self._times = {source: LinearTime(*prior) for source, prior in DEFAULT_TRANSFER.items()}

    def observe(self, source: Source, size: int, seconds: float) -> None:
        """One transfer; several segments at once are one."""
        assert source in self._times, f"nothing is transferred from {source.name}"
        self._times[source].observe(size, seconds)

    def __getitem__(self, source: Source) -> LinearTime:
        return self._times[source]

    def seconds(self, source: Source, size: int) -> float:
        """Expected time of one transfer."""
        time = self._times[source]
        return time.latency + size * time.seconds_per_byte
