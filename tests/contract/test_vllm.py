"""What the connector and its scheduler half rely on in vLLM, checked without running an engine."""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import SamplingParams
from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher
from vllm.v1.core.sched import scheduler as scheduler_module
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from raysparsex.config import ReuseSettings
from raysparsex.vllm_plugin import connector as connector_module
from raysparsex.vllm_plugin.compat import TESTED_VLLM
from raysparsex.vllm_plugin.connector import ManagedBlocks, RaySparseXConnector
from raysparsex.vllm_plugin.metadata import StepOrders
from raysparsex.vllm_plugin.register import CONNECTOR
from tests.contract.sources import in_order, parameters, source_of
from tests.fakes.engine import FakeBlocks, FakeRequest
from tests.fakes.segments import random_tokens

BASE = base.KVConnectorBase_V1


def test_this_is_the_version_that_the_plugin_is_tested_with() -> None:
    import vllm

    assert vllm.__version__.startswith(TESTED_VLLM)


# ---- the connector's interface ------------------------------------------------------------------

OVERRIDDEN = [
    name
    for name, member in vars(RaySparseXConnector).items()
    if hasattr(BASE, name) and not name.startswith("__") and not name.startswith("_abc")
]


def test_all_abstract_methods_are_implemented() -> None:
    assert not RaySparseXConnector.__abstractmethods__
    assert BASE.__abstractmethods__ <= set(OVERRIDDEN)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_takes_what_vllm_passes(name: str) -> None:
    theirs, ours = inspect.getattr_static(BASE, name), vars(RaySparseXConnector)[name]
    assert type(theirs) is type(ours), "method, property or classmethod on both sides"
    if not isinstance(theirs, property):
        assert parameters(getattr(RaySparseXConnector, name)) == parameters(getattr(BASE, name))


@pytest.mark.parametrize(
    "name",
    [
        "on_new_request",
        "bind_kv_cache_manager",
        "update_connector_output",
        "request_finished",
        "get_transfer_results",
        "register_kv_caches",
        "reset_cache",
        "get_kv_connector_stats",
        "build_kv_connector_stats",
        "build_prom_metrics",
        "requires_kv_delivery",
        "shutdown",
    ],
)
def test_a_hook_that_we_need_is_one_of_vllms(name: str) -> None:
    assert hasattr(BASE, name)
    assert name in OVERRIDDEN


def test_the_constructor_is_called_with_three_things() -> None:
    assert parameters(BASE.__init__) == ["vllm_config", "role", "kv_cache_config"]
    assert parameters(RaySparseXConnector.__init__) == parameters(BASE.__init__)


def test_all_groups_come_in_one_call() -> None:
    assert issubclass(RaySparseXConnector, base.SupportsHMA)
    theirs = base.SupportsHMA.request_finished_all_groups
    ours = RaySparseXConnector.request_finished_all_groups
    assert parameters(ours) == parameters(theirs) == ["request", "block_ids"]


def test_orders_are_metadata_of_vllms_kind() -> None:
    assert isinstance(StepOrders(), base.KVConnectorMetadata)


def test_results_name_failed_prefills_apart_from_ended_ones() -> None:
    names = {field.name for field in fields(base.KVConnectorTransferResults)}
    assert names >= {"finished_sending", "finished_recving", "failed_recving"}


def test_settings_reach_the_connector_as_its_extra_config() -> None:
    from vllm.config import KVTransferConfig

    names = {field.name for field in fields(KVTransferConfig)}
    assert names >= {"kv_connector", "kv_role", "kv_load_failure_policy"}
    config = KVTransferConfig(kv_connector=CONNECTOR, kv_role="kv_both")
    assert config.kv_connector_extra_config == {}
    assert ReuseSettings.model_validate(config.kv_connector_extra_config) == ReuseSettings()


# ---- the scheduler ------------------------------------------------------------------------------


def test_the_failure_policy_is_read_after_the_connector_was_created() -> None:
    in_order(
        source_of(Scheduler.__init__),
        "KVConnectorFactory.create_connector(",
        "kv_transfer_config.kv_load_failure_policy",
        "self.recompute_kv_load_failures =",
        ".bind_kv_cache_manager(self.kv_cache_manager)",
    )


def test_the_block_manager_is_bound_before_any_request_can_come() -> None:
    text = source_of(Scheduler.__init__)
    in_order(text, "self.kv_cache_manager = KVCacheManager(", ".bind_kv_cache_manager(")
    in_order(source_of(Scheduler.add_request), "self.requests[", ".on_new_request(request)")


def test_hashes_may_be_changed_when_a_request_arrives() -> None:
    """It is only queued then: the prefix cache is asked when it is scheduled."""
    text = source_of(Scheduler.add_request)
    assert "get_computed_blocks" not in text
    in_order(
        source_of(Scheduler.schedule),
        "_get_local_prefix_cache_hit(request)",
        "get_num_new_matched_tokens(",
        "request.skip_reading_prefix_cache",  # overrules us: see `SchedulerHalf.allocated`
        "allocate_slots(",
        "update_state_after_alloc(",
        "WAITING_FOR_REMOTE_KVS",
        "_build_kv_connector_meta(",
    )


def test_computed_tokens_of_a_step_are_counted_after_its_orders() -> None:
    """`_queue_computed_prompts` takes what is counted for computed in an earlier step."""
    in_order(source_of(Scheduler.schedule), "_build_kv_connector_meta(", "_update_after_schedule(")
    assert "num_computed_tokens += num_scheduled_token" in source_of(
        Scheduler._update_after_schedule
    )


def test_a_failed_prefill_starts_again_from_nothing_and_asks_again() -> None:
    assert "request.num_computed_tokens = 0" in source_of(Scheduler._handle_failed_recving)
    assert "self.kv_cache_manager.free(request)" in source_of(
        Scheduler._update_waiting_for_remote_kv
    )
    in_order(
        source_of(Scheduler.update_from_output),
        "_handle_failed_recving(",
        "_update_from_kv_xfer_finished(",
    )


def test_a_preempted_request_has_nothing_computed() -> None:
    text = source_of(Scheduler._preempt_request)
    in_order(text, "request.num_computed_tokens = 0", "request.num_preemptions += 1")


def test_blocks_are_kept_while_the_connector_wants_them() -> None:
    in_order(
        source_of(Scheduler._free_request), "_connector_finished(request)", "delay_free_blocks"
    )
    text = source_of(Scheduler._update_from_kv_xfer_finished)
    in_order(text, "update_connector_output(", "finished_recving", "finished_sending")


def test_finished_requests_awaiting_release_keep_the_engine_stepping() -> None:
    assert "self.requests" in source_of(Scheduler.has_finished_requests)


def test_a_request_has_what_the_fake_has() -> None:
    real = request_of(random_tokens(50))
    fake = FakeRequest("r", random_tokens(50), None)
    for name in vars(fake):
        if not name.startswith("_"):
            assert hasattr(real, name), name
    assert hasattr(real, "num_tokens")
    assert RequestStatus.FINISHED_ABORTED.name == "FINISHED_ABORTED"


def request_of(tokens: list[int], salt: str | None = None, **extra: Any) -> Request:
    from vllm.v1.core.kv_cache_utils import init_none_hash

    def hashed(value: Any) -> bytes:
        import hashlib
        import pickle

        return hashlib.sha256(pickle.dumps(value)).digest()

    init_none_hash(hashed)
    return Request(
        request_id="r",
        prompt_token_ids=tokens,
        sampling_params=SamplingParams(max_tokens=5, extra_args=extra or None),
        pooling_params=None,
        cache_salt=salt,
        block_hasher=get_request_block_hasher(16, hashed),
    )


def test_a_salt_put_in_afterwards_gives_the_hashes_of_one_that_was_there() -> None:
    tokens = random_tokens(100)
    request, salted = request_of(tokens), request_of(tokens, salt="secret:")
    assert len(request.block_hashes) == 6
    assert not set(request.block_hashes) & set(salted.block_hashes)
    request.cache_salt = "secret:"
    request.block_hashes.clear()
    request.update_block_hashes()
    assert request.block_hashes == salted.block_hashes


def test_parameters_of_a_request_arrive_as_they_were_sent() -> None:
    request = request_of([1, 2, 3], kv_transfer_params={"reuse": "exact"})
    assert request.kv_transfer_params == {"reuse": "exact"}
    assert request_of([1, 2, 3]).kv_transfer_params is None


def test_cached_tokens_can_be_corrected() -> None:
    request = request_of(random_tokens(100))
    assert request.prefill_stats is not None
    names = ["num_prompt_tokens", "num_local_cached_tokens", "num_external_cached_tokens"]
    assert parameters(request.prefill_stats.set) == names
    request.prefill_stats.set(
        num_prompt_tokens=100, num_local_cached_tokens=16, num_external_cached_tokens=40
    )
    assert request.prefill_stats.num_cached_tokens == 56


def test_blocks_are_looked_into_by_vllms_public_names() -> None:
    assert "request_id" in parameters(KVCacheManager.get_block_ids)
    assert parameters(BlockPool.get_cached_block) == ["block_hash", "kv_cache_group_ids"]
    assert callable(KVCacheBlocks.get_block_ids)
    pool = BlockPool(num_gpu_blocks=8, enable_caching=True, hash_block_size=16)
    blocks = ManagedBlocks(type("Manager", (), {"block_pool": pool})())
    assert (blocks.count, blocks.free) == (8, 7)
    assert blocks.is_cached(b"nothing") is False


def test_the_fake_blocks_answer_as_the_real_ones_do() -> None:
    names = {name for name in vars(ManagedBlocks) if not name.startswith("_")}
    assert names <= {name for name in dir(FakeBlocks) if not name.startswith("_")}


def test_the_scheduler_says_which_requests_it_scheduled() -> None:
    from vllm.v1.core.sched.output import SchedulerOutput

    names = {field.name for field in fields(SchedulerOutput)}
    assert "total_num_scheduled_tokens" in names


def test_a_stop_string_ends_a_request_by_abort() -> None:
    """Why reports travel beside the answer: `ReuseCounters.reports`."""
    from vllm.v1.engine.output_processor import OutputProcessor

    assert "reqs_to_abort" in source_of(OutputProcessor.process_outputs)


# ---- every name ---------------------------------------------------------------------------------


def test_the_fake_engine_and_the_connector_speak_to_the_same_half() -> None:
    """A change of `SchedulerHalf`'s signatures must reach both."""
    from raysparsex.vllm_plugin.scheduler_half import SchedulerHalf

    assert parameters(SchedulerHalf.matched_tokens) == ["request", "prefix_tokens"]
    assert parameters(SchedulerHalf.allocated) == ["request", "blocks", "produced_tokens"]
    assert parameters(SchedulerHalf.orders) == ["scheduled_tokens"]
    assert "self.scheduler.orders(" in inspect.getsource(connector_module)
    assert scheduler_module.RequestStatus is RequestStatus
    assert version("ray").startswith("2.60.")
