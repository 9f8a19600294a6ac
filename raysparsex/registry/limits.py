"""How much one registry may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raysparsex.registry.events import TenantTag


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one registry."""

    segments: int = 1 << 20
    leases: int = 1 << 16
    tenant_bytes: int | None = None
    """Quota of tenants without one of their own: bytes of KV, all copies. None: unlimited."""
    quotas: Mapping[TenantTag, int] = field(default_factory=dict)
