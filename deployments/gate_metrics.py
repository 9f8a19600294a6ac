"""What the gate does, in numbers: as Ray metrics, and as facts of the engine.

A tenant's salt is never shown, only a digest of it; and only tenants that were caught have one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.util import metrics

from raysparsex.gate.evidence import Check
from raysparsex.gate.gate import Change, Reason
from raysparsex.gate.levels import Level

MOST_LABELS = 100
"""of tenants; those that come later share one"""
OTHER_TENANTS = "other"
KL_BOUNDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
RESULTS = ("agree", "differ")
KINDS = ("check", "probe")


def digest(tenant: str) -> str:
    """A tenant as it is shown; the same in every replica, so that an operator can compute it."""
    if not tenant:
        return "none"
    return hashlib.blake2b(tenant.encode(), digest_size=4, person=b"raysparsex-gate").hexdigest()


class GateMetrics:
    """Counts since the start of this replica; `source` makes Ray's metrics."""

    def __init__(self, source: Any = metrics) -> None:
        self._checks: Counter[str] = Counter()
        self._probes: Counter[str] = Counter()
        self._trips: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        self._recoveries = 0
        self._labels: dict[str, str] = {}
        self._level_gauge = _gauge(source, "level", "0 normal, 1 cautious, 2 exact", "tenant")
        self._checks_counter = _counter(
            source, "checks", "Answers compared with a full prefill", "kind", "result"
        )
        self._kl_histogram = source.Histogram(
            "raysparsex_gate_kl",
            description="Mean KL divergence of a check, in nats",
            boundaries=KL_BOUNDS,
            tag_keys=("kind",),
        )
        self._trips_counter = _counter(source, "trips", "Levels raised", "reason")
        self._recoveries_counter = _counter(source, "recoveries", "Levels lowered again")
        self._dropped_counter = _counter(source, "dropped", "Checks not made", "reason")
        self._changed_counter = _counter(
            source, "changed_requests", "Requests served with more care than they asked for", "to"
        )
        self.tell_levels({})

    def checked(self, kind: str, agrees: bool, check: Check) -> None:
        """A check or a probe came back."""
        result = RESULTS[not agrees]
        (self._checks if kind == "check" else self._probes)[result] += 1
        self._checks_counter.inc(tags={"kind": kind, "result": result})
        self._kl_histogram.observe(check.kl, tags={"kind": kind})

    def dropped(self, reason: str) -> None:
        """A check was not made."""
        self._dropped[reason] += 1
        self._dropped_counter.inc(tags={"reason": reason})

    def changed_request(self, to: str) -> None:
        """A request is served otherwise than it asked: cautious, exact, or off for a probe."""
        self._changed[to] += 1
        self._changed_counter.inc(tags={"to": to})

    def changed_level(self, tenant: str, change: Change, raised: Mapping[str, Level]) -> None:
        """A tenant is at another level; `raised` are all that are not at the normal one."""
        if change.reason is Reason.RECOVERY:
            self._recoveries += 1
            self._recoveries_counter.inc()
        else:
            self._trips[str(change.reason)] += 1
            self._trips_counter.inc(tags={"reason": str(change.reason)})
        if len(self._labels) < MOST_LABELS:
            self._labels.setdefault(tenant, digest(tenant))
        self.tell_levels(raised)

    def tell_levels(self, raised: Mapping[str, Level]) -> None:
        """Set the gauges. Ray forgets one that is not set for 20 seconds: to be called again."""
        shown = {digest(""): 0, **dict.fromkeys(self._labels.values(), 0), **self.levels(raised)}
        for label, level in shown.items():
            self._level_gauge.set(level, tags={"tenant": label})

    def levels(self, raised: Mapping[str, Level]) -> dict[str, int]:
        """Raised levels by label; of the tenants that share one, the highest."""
        found: dict[str, int] = {}
        for tenant, level in raised.items():
            label = self._label(tenant)
            found[label] = max(int(level), found.get(label, 0))
        return found

    def facts(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {
            "checks": dict(self._checks),
            "probes": dict(self._probes),
            "trips": dict(self._trips),
            "recoveries": self._recoveries,
            "dropped": dict(self._dropped),
            "changed_requests": dict(self._changed),
        }

    def _label(self, tenant: str) -> str:
        return self._labels.get(tenant, OTHER_TENANTS)


def _gauge(source: Any, name: str, text: str, *tags: str) -> Any:
    return source.Gauge(f"raysparsex_gate_{name}", description=text, tag_keys=tags)


def _counter(source: Any, name: str, text: str, *tags: str) -> Any:
    return source.Counter(f"raysparsex_gate_{name}", description=text, tag_keys=tags)
