"""Compiles the kernel for GPUs that need not be there, and prints what the compiler made of it.

A program of its own, as the interpreter's twin `interpreted.py` is: here it has to be off.
"""

from __future__ import annotations

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from raysparsex.kernels.scattered_triton import scattered_attention
from raysparsex.kernels.tiling import TILINGS, Tiling, padded

GROUP, SIZE, SLOTS = 4, 128, 16
CAPABILITIES = {"A100": 80, "H100": 90}
POINTERS = {
    "position_ptr": "*i32",
    "start_ptr": "*i32",
    "block_ptr": "*i32",
    "tile_ptr": "*i32",
    **dict.fromkeys(("out_ptr", "query_ptr", "key_ptr", "value_ptr"), "*bf16"),
}


def compiled(capability: int, tiling: Tiling) -> dict[str, Any]:
    """Shared memory and matrix instructions of the kernel for bfloat16."""
    constants = {
        "GROUP": GROUP,
        "SLOTS": SLOTS,
        "SIZE": SIZE,
        "SIZE_PADDED": padded(SIZE),
        "TILE_TOKENS": tiling.tokens(GROUP),
        "TILE_ROWS": tiling.rows,
        "TILE_KEYS": tiling.keys,
        "WIDEN": False,
    }
    names = scattered_attention.arg_names
    kinds = {**dict.fromkeys(constants, "constexpr"), **POINTERS, "scale": "fp32"}
    signature = {name: kinds.get(name, "i32") for name in names}
    aligned = [["tt.divisibility", 16]]  # as tensors and their strides are at a launch
    attributes = {
        (place,): aligned
        for place, name in enumerate(names)
        if name != "scale" and name not in constants
    }
    made = triton.compile(
        ASTSource(scattered_attention, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiling.warps, "num_stages": tiling.stages},
    )
    code = made.asm["ptx"]
    return {
        "shared": made.metadata.shared,
        "allowed": tiling.shared_bytes(SIZE, 2),
        "matrix": code.count("mma.sync") + code.count("wgmma.mma_async"),
        "ahead": code.count("cp.async"),
    }


if __name__ == "__main__":
    print(json.dumps({name: compiled(c, TILINGS[0]) for name, c in CAPABILITIES.items()}))
