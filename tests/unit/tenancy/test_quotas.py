"""A tenant's bound on bytes, from the tenants file to the ledger of a node's store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.config")
from deployments.shared_store import settings_for
from deployments.tenants import Tenants, salt_of
from deployments.tenants_config import parse_tenants
from raysparsex.api_keys import key_digest
from raysparsex.config import StoreConfig
from raysparsex.segment.trust_scope import NOBODY, TrustScope, tenant_tag
from raysparsex.store.node_ledger import NodeLedger
from raysparsex.store.part import SharedPart
from raysparsex.vllm_plugin.metadata import Publication, StepOrders
from raysparsex.vllm_plugin.sharing import Sharing
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

TOKEN_BYTES = 8
QUOTA = 1000 * TOKEN_BYTES
FILE = f"""
small: {{keys: [{key_digest("small")}], bytes: {QUOTA}}}
large: {{keys: [{{sha256: {key_digest("large")}, may_publish_public: true}}]}}
none: {{keys: [{key_digest("none")}], bytes: 0}}
"""
TENANTS = Tenants(parse_tenants(FILE, "tenants.yaml"))


class SharingEngine(FakeEngine):
    """An engine whose publications go to a node's store, as a worker hands them over."""

    def __init__(self) -> None:
        super().__init__()
        store = StoreConfig(node_bytes=10 * QUOTA)
        self.ledger: NodeLedger = settings_for("node", store, TENANTS.quotas).ledger()
        self._sharing = Sharing(self, 0, 1)  # type: ignore[arg-type]

    def step(self, scheduled_tokens: int = 0) -> StepOrders:
        orders = super().step(scheduled_tokens)
        for publication in orders.publish:
            self._offer(publication)
        self._sharing.hand_over()
        return orders

    def publish(self, parts: Sequence[SharedPart]) -> bool:
        """As `BackgroundStore.publish`."""
        for part in parts:
            self.ledger.add(part.offer(), 0)
        return True

    def ask(self, key: str, tokens: list[int], scope: TrustScope | None = None, **more: Any) -> Any:
        """A request with this key, as the ingress sends it."""
        tenant = TENANTS.tenant_of(f"Bearer {key}")
        return self.run(tokens, salt=salt_of(tenant, more.pop("cache_salt", None), scope), **more)

    def bytes_of(self, tenant: str) -> int:
        self.ledger.check_integrity()
        return self.ledger.tenant_bytes(tenant_tag(tenant))

    def _offer(self, publication: Publication) -> None:
        for at in publication.segments:
            kv = torch.zeros(1, 2, at.record.token_count, 1, 1)
            assert kv.nbytes == at.record.token_count * TOKEN_BYTES
            self._sharing.offer(at.record, kv, publication.tenant, publication.request)


@pytest.fixture
def engine() -> SharingEngine:
    return SharingEngine()


def test_a_tenants_bytes_are_counted_as_its_own_in_every_scope(engine: SharingEngine) -> None:
    engine.ask("small", random_tokens(300, seed=1))
    engine.ask("small", random_tokens(200, seed=2), cache_salt="a graph")
    assert engine.bytes_of("small") == 500 * TOKEN_BYTES
    assert engine.bytes_of("large") == 0


def test_a_tenant_gives_up_its_own_before_it_takes_more_than_its_quota(
    engine: SharingEngine,
) -> None:
    engine.ask("large", random_tokens(2000, seed=1))
    for seed in range(2, 8):
        engine.ask("small", random_tokens(400, seed=seed))
        assert engine.bytes_of("small") <= QUOTA
    assert engine.bytes_of("small") > 0.9 * QUOTA
    assert engine.bytes_of("large") == 2000 * TOKEN_BYTES


def test_a_tenant_without_a_bound_may_fill_the_store_but_for_the_others_quotas(
    engine: SharingEngine,
) -> None:
    for seed in range(8):
        engine.ask("large", random_tokens(2000, seed=seed))
    assert engine.bytes_of("large") > 9 * QUOTA
    engine.ask("small", random_tokens(400, seed=9))
    assert engine.bytes_of("small") == 400 * TOKEN_BYTES


def test_a_tenant_with_no_bytes_leaves_nothing_in_the_store(engine: SharingEngine) -> None:
    engine.ask("none", random_tokens(400))
    assert engine.bytes_of("none") == engine.ledger.held_bytes == 0


def test_public_segments_are_nobodys_whoever_warmed_them(engine: SharingEngine) -> None:
    engine.ask("large", random_tokens(300), TrustScope.PUBLIC, reuse="exact")
    assert engine.bytes_of("large") == 0
    assert engine.ledger.tenant_bytes(NOBODY) == 300 * TOKEN_BYTES


def test_answers_are_counted_like_prompts(engine: SharingEngine) -> None:
    request = engine.add(random_tokens(100), salt=salt_of(TENANTS.tenant_of("Bearer small"), None))
    engine.admit(request)
    engine.compute(request)
    engine.step(1)
    assert engine.bytes_of("small") == 100 * TOKEN_BYTES
    engine.compute(request, output=random_tokens(201, seed=1))
    engine.finish(request)
    engine.settle()
    assert engine.bytes_of("small") == 300 * TOKEN_BYTES
