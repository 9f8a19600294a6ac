"""Bytes that a node's store holds, of all tenants and of each, and how many it may hold. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Budget:
    """Counts; who is to go when something is over, others decide."""

    def __init__(self, most: int, quota: int | None, quotas: Mapping[str, int] | None) -> None:
        """`quota`: of each tenant that `quotas` does not name; unset: the whole budget."""
        self.most = most
        self._quota = most if quota is None else quota
        self._quotas = dict(quotas or {})
        self._by_tenant: Counter[str] = Counter()
        self.held = 0

    def of(self, tenant: str) -> int:
        """Bytes held for a tenant."""
        return self._by_tenant[tenant]

    def bound_of(self, tenant: str) -> int:
        """Bytes that it could hold if nobody else held any."""
        return min(self.most, self._quotas.get(tenant, self._quota))

    def count(self, tenant: str, size: int) -> None:
        """So many come, or go."""
        self.held += size
        self._by_tenant[tenant] += size
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def over_quota(self, tenant: str, size: int) -> int:
        """Bytes that the tenant has to give up before it holds so many more; none if negative."""
        return self._by_tenant[tenant] + size - self._quotas.get(tenant, self._quota)

    def over(self, size: int) -> int:
        """Bytes that have to go before so many more come; none if negative."""
        return self.held + size - self.most

    def check_integrity(self, by_tenant: Counter[str]) -> None:
        """Assert that this is what is held, and within the bounds."""
        assert +by_tenant == +self._by_tenant
        assert self.held == sum(by_tenant.values()) <= self.most
        assert all(self.over_quota(tenant, 0) <= 0 for tenant in by_tenant)
