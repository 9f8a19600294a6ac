"""Who finds whose segments: scopes of one tenant, of another, and the public one."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from raysparsex.segment.trust_scope import PUBLIC_SALT, TrustScope, trust_salt
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]
ACME = trust_salt("acme", None, TrustScope.TENANT)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.assert_nothing_held()


def test_what_was_warmed_public_is_found_by_every_tenant(engine: FakeEngine) -> None:
    engine.run([*random_tokens(21), *DOCUMENT], salt=PUBLIC_SALT)
    for tenant in ("acme", "globex"):
        salt = trust_salt(tenant, None, TrustScope.TENANT)
        assert engine.run(PROMPT, salt=salt).reused_tokens > 350


def test_a_tenants_document_is_found_by_no_other_and_not_by_public_requests(
    engine: FakeEngine,
) -> None:
    engine.run([*random_tokens(21), *DOCUMENT], salt=ACME)
    for other in (trust_salt("globex", None, TrustScope.TENANT), PUBLIC_SALT, None):
        held = engine.run(PROMPT, salt=other, publish=False)
        assert held.reused_tokens == 0
        assert held.prefix_tokens == 0


def test_a_tenants_own_copy_comes_first(engine: FakeEngine) -> None:
    engine.run([*random_tokens(21), *DOCUMENT], salt=PUBLIC_SALT)
    engine.run([*random_tokens(90, seed=9), *DOCUMENT], salt=ACME, reuse="exact")
    request = engine.add(PROMPT, salt=ACME)
    engine.admit(request)
    plan = engine.half._tracked[request.request_id].plan
    assert plan is not None
    bases = {span.base_position - span.start for span in plan.reused}
    assert bases == {90 - 37}
    engine.step()
    engine.load_ends(request)
    engine.compute(request)
    engine.finish(request)


def test_a_public_request_is_exact_and_its_answer_stays_private(engine: FakeEngine) -> None:
    engine.run([*random_tokens(21), *DOCUMENT], salt=PUBLIC_SALT)
    held = engine.half.ledger.segment_count
    request = engine.add(random_tokens(200, seed=5), salt=PUBLIC_SALT, reuse="sparse")
    engine.admit(request)
    engine.step()
    engine.compute(request, output=random_tokens(300, seed=6))
    report = engine.finish(request)
    engine.step()
    assert report.mode == "exact"
    segments = engine.half.ledger.segment_count - held
    tokens = [record.token_count for record in engine.half.ledger._records.values()][-segments:]
    assert sum(tokens) == 200


def test_ten_thousand_probes_of_other_tenants_find_nothing(engine: FakeEngine) -> None:
    engine.run([*random_tokens(21), *DOCUMENT], salt=ACME)
    rng = Random(7)
    find = engine.half.ledger.find
    planner = engine.half._planner
    hits = 0
    for number in range(10_000):
        names = (rng.choice(["acme", f"acme{number}", f"t{number}", ""]), f"salt {rng.random()}")
        salt = trust_salt(*names, TrustScope.GRAPH)
        start = rng.randrange(len(DOCUMENT) - 64)
        request = engine.add(DOCUMENT[start : start + 64], salt=salt)
        tracked = engine.half._tracked[request.request_id]
        hits += sum(find(one) is not None for one in planner.segments(tracked).ids)
        hits += engine.half.matched_tokens(request, 0)
        engine.finish(request, "FINISHED_ABORTED")
    assert hits == 0
