"""Package folders: what stands on top of the repository is installed inside `raysparsex`.

`agents` and `deployments` stay on top (`serve run deployments:app`), but as installed names they
would collide with other packages, so the wheel holds `raysparsex.agents` and so on.
"""

from pathlib import Path

from setuptools import find_packages, setup

ON_TOP = [name for name in ("agents", "deployments") if Path(name, "__init__.py").exists()]


def packages() -> list[str]:
    found = find_packages(include=["raysparsex", "raysparsex.*"])
    for name in ON_TOP:
        found += [f"raysparsex.{package}" for package in find_packages(include=[name, f"{name}.*"])]
    return found


setup(
    packages=packages(),
    package_dir={"raysparsex": "raysparsex", **{f"raysparsex.{name}": name for name in ON_TOP}},
)
