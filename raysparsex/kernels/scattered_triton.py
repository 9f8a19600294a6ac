"""The device side of `scattered.py`: one Triton kernel. Imported when it is first launched.

A program computes one tile: some neighbouring queries of one request, and all query heads that
share one key/value head, as the rows of one matrix. Each row has a position of its own and attends
to the keys up to it:

    keys         0 ............ lowest ............ highest | .....
    rows         every row sees these | a mask says who   | never read
                 `_attend`, unmasked  | `_attend`, masked |

Positions need not be sorted to be right; they should be to be fast, as the masked part is as long
as the tile's positions are spread. Softmax is online, in float32 and to the base of two.
"""

# Parameters of a kernel have types of Triton's own, which it finds at the launch.
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scattered_attention(
    out_ptr,  # [T, H, D]
    query_ptr,  # [T, H, D]
    key_ptr,  # [B, S, G, D]
    value_ptr,  # [B, S, G, D]
    position_ptr,  # [T] int32
    start_ptr,  # [R + 1] int32: first query of each request, and the end
    block_ptr,  # [R, W] int32: blocks of each request
    tile_ptr,  # [N, 2] int32: request and first query of each tile
    scale,  # of the softmax, times log2(e)
    out_stride_t,
    out_stride_h,
    query_stride_t,
    query_stride_h,
    key_stride_b,
    key_stride_s,
    key_stride_g,
    value_stride_b,
    value_stride_s,
    value_stride_g,
    block_stride_r,
    GROUP: tl.constexpr,  # query heads per key/value head
    SLOTS: tl.constexpr,  # S
    SIZE: tl.constexpr,  # D
    SIZE_PADDED: tl.constexpr,  # the next power of two
    TILE_TOKENS: tl.constexpr,  # TILE_ROWS // GROUP
    TILE_ROWS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    WIDEN: tl.constexpr,  # multiply in float32: for the interpreter, see `_attend`
):
    """One tile of queries and one key/value head; grid [N, G]. Shapes as in `scattered.py`."""
    request = tl.load(tile_ptr + 2 * tl.program_id(0))
    first = tl.load(tile_ptr + 2 * tl.program_id(0) + 1)
    kv_head = tl.program_id(1)
    stop = tl.minimum(tl.load(start_ptr + request + 1), first + TILE_TOKENS)

    row = tl.arange(0, TILE_ROWS)
    token = first + row // GROUP
    head = kv_head * GROUP + row % GROUP
    there = token < stop  # also false for rows left over when GROUP does not divide TILE_ROWS
    position = tl.load(position_ptr + token, mask=there, other=0)
    lowest = tl.min(tl.where(there, position, 0x7FFFFFFF))
    highest = tl.max(position)

    dim = tl.arange(0, SIZE_PADDED)
    wide = token.to(tl.int64)[:, None]
    kept = there[:, None] & (dim < SIZE)[None, :]
    query_at = wide * query_stride_t + head[:, None] * query_stride_h + dim[None, :]
    query = tl.load(query_ptr + query_at, mask=kept, other=0.0)

    total = tl.zeros([TILE_ROWS, SIZE_PADDED], tl.float32)
    peak = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    norm = tl.zeros([TILE_ROWS], tl.float32)
    blocks = block_ptr + request.to(tl.int64) * block_stride_r
    keys = key_ptr + kv_head * key_stride_g
    values = value_ptr + kv_head * value_stride_g

    seen_by_all = (lowest + 1) // TILE_KEYS * TILE_KEYS
    for begin in range(0, seen_by_all, TILE_KEYS):
        total, peak, norm = _attend(
            total, peak, norm, query, position, begin, highest, blocks, keys, values, scale,
            key_stride_b, key_stride_s, value_stride_b, value_stride_s,
            SLOTS, SIZE, SIZE_PADDED, TILE_KEYS, WIDEN, False,
        )  # fmt: skip
    for begin in range(seen_by_all, highest + 1, TILE_KEYS):
        total, peak, norm = _attend(
            total, peak, norm, query, position, begin, highest, blocks, keys, values, scale,
            key_stride_b, key_stride_s, value_stride_b, value_stride_s,
            SLOTS, SIZE, SIZE_PADDED, TILE_KEYS, WIDEN, True,
        )  # fmt: skip

    out_at = wide * out_stride_t + head[:, None] * out_stride_h + dim[None, :]
    result = total / norm[:, None]
    tl.store(out_ptr + out_at, result.to(out_ptr.dtype.element_ty), mask=kept)


@triton.jit
def _attend(
    total,
    peak,
    norm,
    query,
    position,
    begin,
    highest,
    blocks,
    keys,
    values,
    scale,
    key_stride_b,
    key_stride_s,
    value_stride_b,
    value_stride_s,
    SLOTS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    WIDEN: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Let the rows attend to keys [begin, begin + TILE_KEYS) as well.

    Key 0 is in the first tile and every row sees it, so `peak` is finite behind that tile.
    """
    key = begin + tl.arange(0, TILE_KEYS)
    dim = tl.arange(0, SIZE_PADDED)
    # Behind the highest position there may be no block, or a slot that holds anything, even NaN.
    held = key <= highest
    if SLOTS % TILE_KEYS == 0:
        # The whole tile is in one block. Its table entry exists, as `begin` is at most `highest`.
        block = tl.load(blocks + begin // SLOTS).to(tl.int64)
    elif MASKED:
        block = tl.load(blocks + key // SLOTS, mask=held, other=0).to(tl.int64)[:, None]
    else:
        block = tl.load(blocks + key // SLOTS).to(tl.int64)[:, None]
    slot = (key % SLOTS)[:, None]
    key_at = keys + block * key_stride_b + slot * key_stride_s + dim[None, :]
    value_at = values + block * value_stride_b + slot * value_stride_s + dim[None, :]
    if MASKED:
        read = held[:, None] & (dim < SIZE)[None, :]
        k = tl.load(key_at, mask=read, other=0.0)
        v = tl.load(value_at, mask=read, other=0.0)
    elif SIZE == SIZE_PADDED:
        k = tl.load(key_at)
        v = tl.load(value_at)
    else:
        read = (dim < SIZE)[None, :]
        k = tl.load(key_at, mask=read, other=0.0)
        v = tl.load(value_at, mask=read, other=0.0)

    # Triton's interpreter keeps bfloat16 in integers and would multiply those. Products of two
    # numbers of 16 bits are exact in float32, so widening them changes no result.
    if WIDEN:
        query, k = query.to(tl.float32), k.to(tl.float32)
    # "ieee" matters to float32 only, which would else be rounded to 10 bits.
    score = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
    if MASKED:
        score = tl.where(key[None, :] <= position[:, None], score, float("-inf"))
    risen = tl.maximum(peak, tl.max(score, 1))
    weight = tl.exp2(score - risen[:, None])
    fade = tl.exp2(peak - risen)
    norm = norm * fade + tl.sum(weight, 1)
    weight = weight.to(v.dtype)
    if WIDEN:
        weight, v = weight.to(tl.float32), v.to(tl.float32)
    total = tl.dot(weight, v, total * fade[:, None], input_precision="ieee")
    return total, risen, norm
