"""The gate: which level each tenant is served at, which requests are checked, and what checks do.

    decide      the level of a request, and whether it is checked or probed
    observe     a check or a probe came back
    observe_integrity_failure

A check compares what a request got with a full prefill. A probe serves it exactly, and compares
that with what the level below would have given: the way back.

A state machine without clock or I/O. A tenant is any string; only those with evidence are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from raysparsex.gate.evidence import Check, DriftTarget, Evidence
from raysparsex.gate.levels import Level

LEAST_PROBES = 0.05
"""Share of requests that look for the way back, however few are checked otherwise."""
MOST_PROBES = 0.5
"""What is probed is not published, and a probe needs something published to reuse."""
MOST_TENANTS = 1024
LONGEST_WAY_BACK = 2
"""Probes asked for at most, in windows; each relapse doubles the half window of the first time."""


class Reason(StrEnum):
    """Why a level changed."""

    DRIFT = "drift"
    INTEGRITY = "integrity"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one sparse request."""

    level: Level
    check: bool = False
    """compare its answer with that of a full prefill"""
    probe: bool = False
    """serve it exactly, and compare with the answer that the level below would give"""
    cause: Reason | None = None
    """of a level above normal"""


@dataclass(frozen=True, slots=True)
class Change:
    """A tenant is at another level now."""

    level: Level
    reason: Reason


@dataclass(slots=True)
class _Tenant:
    own: Evidence
    """of the level it is at"""
    below: Evidence
    """of the level below"""
    level: Level = Level.NORMAL
    cause: Reason | None = None
    relapses: int = 0
    recovered: bool = False


@dataclass(slots=True)
class Gate:
    """Decides for one model; see the module's docstring."""

    target: DriftTarget
    share: float
    """of sparse requests that are checked"""
    window: int
    """checks that a decision looks back on"""
    draw: Callable[[], float]
    """a random number from 0 to 1"""
    most_tenants: int = MOST_TENANTS
    forgotten: int = 0
    """tenants that were at a raised level when room had to be made"""
    _tenants: OrderedDict[str, _Tenant] = field(default_factory=OrderedDict)

    @property
    def raised(self) -> Mapping[str, Level]:
        """Tenants that are not at the normal level."""
        return {name: t.level for name, t in self._tenants.items() if t.level is not Level.NORMAL}

    def __len__(self) -> int:
        return len(self._tenants)

    def level_of(self, tenant: str) -> Level:
        """The level that a tenant is served at."""
        known = self._tenants.get(tenant)
        return known.level if known else Level.NORMAL

    def decide(self, tenant: str) -> Decision:
        """What happens to a sparse request of this tenant."""
        known, chance = self._tenants.get(tenant), self.draw()
        if known is None or known.level is Level.NORMAL:
            return Decision(Level.NORMAL, check=chance < self.share)
        self._tenants.move_to_end(tenant)
        attended = max(self.share, LEAST_PROBES)
        # At the level between, both questions are open: does it hold, and is it needed?
        halved = known.level is Level.CAUTIOUS and self.share > 0
        probed = min(attended / 2 if halved else attended, MOST_PROBES)
        check = halved and probed <= chance < attended
        return Decision(known.level, check=check, probe=chance < probed, cause=known.cause)

    def observe(self, tenant: str, tested: Level, check: Check) -> Change | None:
        """A comparison came back; `tested` is the level of the reuse that was compared.

        Late answers about a level that the tenant has left count where they still say something.
        """
        known = self._known(tenant)
        if tested is known.level and tested is not Level.EXACT:
            known.own.add(check)
            if known.own.shows_drift:
                return self._raise(known, known.level.above, Reason.DRIFT)
            if known.level is Level.NORMAL and known.own.is_clean:
                known.relapses = 0
        elif known.level is not Level.NORMAL and tested is known.level.below:
            known.below.add(check)
            if known.below.is_clean:
                return self._lower(known)
        return None

    def observe_integrity_failure(self, tenant: str) -> Change | None:
        """Stored values were not what they should be: nothing is trusted until probes are clean."""
        known = self._known(tenant)
        was_exact = known.level is Level.EXACT
        change = self._raise(known, Level.EXACT, Reason.INTEGRITY)
        return None if was_exact else change

    def _raise(self, known: _Tenant, level: Level, reason: Reason) -> Change:
        if known.recovered and reason is Reason.DRIFT:
            known.relapses += 1
        known.cause = reason
        self._enter(known, level)
        return Change(level, reason)

    def _lower(self, known: _Tenant) -> Change:
        known.recovered = True
        self._enter(known, known.level.below)
        return Change(known.level, Reason.RECOVERY)

    def _enter(self, known: _Tenant, level: Level) -> None:
        """What was seen at other levels says nothing about this one."""
        probes = min(self.window // 2 << known.relapses, LONGEST_WAY_BACK * self.window)
        known.level = level
        known.own = Evidence(self.target, self.window)
        known.below = Evidence(self.target, probes)

    def _known(self, tenant: str) -> _Tenant:
        known = self._tenants.get(tenant)
        if known is None:
            nothing = Evidence(self.target, self.window)
            known = self._tenants[tenant] = _Tenant(own=nothing, below=nothing)
            self._forget_one()
        self._tenants.move_to_end(tenant)
        return known

    def _forget_one(self) -> None:
        """Make room: the calm one quiet for longest; a raised one only where no other is calm."""
        if len(self._tenants) <= self.most_tenants:
            return
        names = list(self._tenants)[:-1]  # the last one is why there is no room
        calm = (name for name in names if self._tenants[name].level is Level.NORMAL)
        forgotten = next(calm, None)
        if forgotten is None:
            self.forgotten += 1
        del self._tenants[forgotten or names[0]]
