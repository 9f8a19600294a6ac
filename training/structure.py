"""The structured start: a network that matches, copies and looks back before it has learned.

Without it the task does not train in minutes on two cores.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model import Attention, Size, TinyLlama, frequencies


@torch.no_grad()
def structure(model: TinyLlama, twins: list[tuple[int, int]], seed: int) -> None:
    """Start from a network that already matches equal tokens, copies, and sees the tokens before.

    Queries equal keys per group (a token finds itself), the output projection undoes the values
    (what is found is copied), the head is the embedding scaled (what is copied is said). Two heads
    of layer 0 look at the previous token and at the third before. `twins` are pairs of ids for one
    word with and without a space: they start alike.
    """
    torch.manual_seed(seed)
    size = model.size
    common = F.normalize(torch.randn(size.hidden_size), dim=0)
    embedding = _embedding(size, common, twins)
    model.model.embed_tokens.weight.copy_(embedding)
    model.lm_head.weight.copy_(HEAD_SCALE * embedding)
    for layer in model.model.blocks():
        _match_and_copy(layer.self_attn, size)
        nn.init.normal_(layer.mlp.gate_proj.weight, std=size.hidden_size**-0.5)
        nn.init.normal_(layer.mlp.up_proj.weight, std=size.hidden_size**-0.5)
        nn.init.normal_(layer.mlp.down_proj.weight, std=0.1 * size.intermediate_size**-0.5)
    _look_back(model.model.blocks()[0].self_attn, size, common, distances=(1, 3))


HEAD_SCALE = 0.5
EMBEDDING_STD = 0.25
LOOK_BACK = 6.0


def _embedding(size: Size, common: Tensor, twins: list[tuple[int, int]]) -> Tensor:
    """Random rows with a common component, which the look-back heads use as a constant."""
    rows = torch.randn(size.vocab_size, size.hidden_size)
    for one, other in twins:
        rows[other] = 0.9 * rows[one] + 0.43 * rows[other]
    scaled: Tensor = EMBEDDING_STD * (rows + 0.45 * size.hidden_size**0.5 * common)
    return scaled


def _match_and_copy(attention: Attention, size: Size) -> None:
    groups = size.num_attention_heads // size.num_key_value_heads
    slow = torch.linspace(0.5, 1.3, size.head_dim // 2).repeat(2)[
        :, None
    ]  # match by the slowly turning pairs
    for group in range(size.num_key_value_heads):
        rows = slice(group * size.head_dim, (group + 1) * size.head_dim)
        key = slow * _orthonormal(size.head_dim, size.hidden_size)
        value = _orthonormal(size.head_dim, size.hidden_size)
        attention.k_proj.weight[rows] = key
        attention.v_proj.weight[rows] = value
        for head in range(group * groups, (group + 1) * groups):
            block = slice(head * size.head_dim, (head + 1) * size.head_dim)
            attention.q_proj.weight[block] = key
            attention.o_proj.weight[:, block] = 0.5 * value.T


def _look_back(
    attention: Attention, size: Size, common: Tensor, distances: tuple[int, int]
) -> None:
    """Heads of group 0 attend to the token `distance` before: constant vectors whose rotations
    meet there.

    The fastest pairs carry it; with amplitude a the logit is a * sum_i cos(f_i (j - distance)).
    """
    pairs = 6
    speed = frequencies(size)[:pairs]
    half, D = size.head_dim // 2, size.head_dim
    normed = 0.41 * math.sqrt(size.hidden_size)  # length along `common` after the first norm
    length = math.sqrt(LOOK_BACK * math.sqrt(D)) / normed
    key = torch.zeros(D)
    key[:pairs] = length
    attention.k_proj.weight[:D] = torch.outer(key, common)
    for head, distance in enumerate(distances):
        query = torch.zeros(D)
        query[:pairs] = length * torch.cos(-speed * distance)
        query[half : half + pairs] = length * torch.sin(-speed * distance)
        attention.q_proj.weight[head * D : (head + 1) * D] = torch.outer(query, common)


def _orthonormal(rows: int, columns: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns))
