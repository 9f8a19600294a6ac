"""Wiring: settings, Ray Serve deployments and the foreground command.

`serve run deployments:app` builds the application from the environment and the settings file.
Importing this package loads neither ray nor vllm; asking it for `app` does.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .build import build_app
    from .settings import load_settings

    return build_app(load_settings())
