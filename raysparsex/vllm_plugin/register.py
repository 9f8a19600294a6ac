"""Entry point of the group `vllm.general_plugins`: vLLM calls `register` in each of its processes.

Two things are registered: the connector's name, so that `kv_connector` needs no module path, and a
hand-over of the loaded model. vLLM creates the worker's connector after loading the model but does
not give it the model, so `Worker.load_model` is extended, in memory, to leave it here.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

from raysparsex.errors import UnsupportedModel

CONNECTOR = "RaySparseXConnector"

_MARK = "_hands_over_to_raysparsex"

_loaded_model: weakref.ref[Any] | None = None


def register() -> None:
    """Make the connector known to vLLM; calling it again changes nothing."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.v1.worker.gpu_worker import Worker

    if CONNECTOR not in KVConnectorFactory._registry:
        module = "raysparsex.vllm_plugin.connector"
        KVConnectorFactory.register_connector(CONNECTOR, module, CONNECTOR)
    if not getattr(Worker.load_model, _MARK, False):
        Worker.load_model = _handing_over(Worker.load_model)


def loaded_model() -> Any:
    """The model that this process's worker loaded. Raises UnsupportedModel when none was seen."""
    model = _loaded_model() if _loaded_model is not None else None
    if model is None:
        raise UnsupportedModel(
            "RaySparseX did not see vLLM load the model: install raysparsex as a package (so that"
            " vLLM finds its plugin) and leave it in VLLM_PLUGINS if that is set"
        )
    return model


def _handing_over(load_model: Any) -> Any:
    @functools.wraps(load_model)
    def load_and_hand_over(worker: Any, *args: Any, **kwargs: Any) -> None:
        global _loaded_model
        load_model(worker, *args, **kwargs)
        _loaded_model = weakref.ref(worker.model_runner.get_model())

    setattr(load_and_hand_over, _MARK, True)
    return load_and_hand_over
