"""Alignment: cached keys rotated from the position of their computation to where they stand now.

RoPE turns pair j of a key at position p by the angle p * f_j. Turning it further by shift * f_j
gives the key at p + shift, as long as every f_j is one number for all positions. YaRN's magnitude
factor is inside the cached keys already and does not change, so it plays no part here.

Two pairings of the rotary dimensions (r = rotary_dim, h = head_dim):

    neox     j is paired with j + r/2      [ x0 x1 .. | y0 y1 .. | untouched, r .. h-1 ]
    GPT-J    2j is paired with 2j + 1      [ x0 y0 x1 y1 ..      | untouched, r .. h-1 ]

Shapes: T tokens, H KV heads, D head_dim, F rotary_dim / 2. Values are never touched. Knows neither
vLLM nor a model; layers with another theta get another aligner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raysparsex.errors import UnsupportedModel

Turn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""(keys [T, H, D], table [N, 2F], rows [T]): turns contiguous float32 keys in place, each by the
cosines and sines of its row of the table, as `RopeAligner.apply` does up to rounding."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Angles for some tokens, to be applied to the keys of every layer that shares the aligner."""

    table_T2F: torch.Tensor
    """Cosines, then sines, float32."""
    still_T11: torch.Tensor | None
    """Tokens that do not move, whose keys keep their bits; None if all tokens move."""

    @property
    def cos_T1F(self) -> torch.Tensor:
        return self.table_T2F[:, None, : self.table_T2F.shape[1] // 2]

    @property
    def sin_T1F(self) -> torch.Tensor:
        return self.table_T2F[:, None, self.table_T2F.shape[1] // 2 :]

    def rows(self, count: int) -> torch.Tensor:
        """Which row of the table turns each of so many tokens."""
        rows_T = torch.arange(count, device=self.table_T2F.device)
        return rows_T if len(self.table_T2F) > 1 else torch.zeros_like(rows_T)


class RopeAligner:
    """Rotates keys of one head size and one set of inverse frequencies."""

    def __init__(
        self,
        *,
        rotary_dim: int,
        head_dim: int,
        inv_freq: torch.Tensor,
        is_neox_style: bool,
        fused_turn: Turn | None = None,
    ) -> None:
        """`fused_turn`: what turns keys in one pass, if there is such a thing."""
        if not 0 < rotary_dim <= head_dim or inv_freq.shape != (rotary_dim // 2,):
            raise UnsupportedModel(
                f"RoPE of {rotary_dim} dimensions with {tuple(inv_freq.shape)} frequencies"
                f" does not fit heads of {head_dim} dimensions"
            )
        self._rotary_dim = rotary_dim
        self._head_dim = head_dim
        self._inv_freq_F = inv_freq.to(torch.float32)
        self._is_neox_style = is_neox_style
        self._fused_turn = fused_turn

    def align(self, keys: torch.Tensor, shift: int | torch.Tensor) -> torch.Tensor:
        """Keys [..., T, H, D] rotated by `shift` positions, an int or an integer tensor [T].

        A new tensor of the same dtype (float32, float16 or bfloat16), computed in float32. A token
        whose shift is 0 keeps every bit.
        """
        return self.apply(keys, self.rotation(shift, keys.device))

    def rotation(self, shift: int | torch.Tensor, device: torch.device | str = "cpu") -> Rotation:
        """The angles of `align`, to be computed once and applied to many layers.

        The angle is exact in float64 and reduced to one turn there: in float32 a shift of 100k
        would be wrong by up to 0.004 rad. Sine and cosine of the reduced angle are float32.
        Waits for the device once, if `shift` lies there.
        """
        shift_T = torch.as_tensor(shift, dtype=torch.int64, device=device).reshape(-1)
        angles_TF = shift_T[:, None].double() * self._inv_freq_F.to(device).double()
        angles_TF = angles_TF.remainder(2 * math.pi).float()
        table_T2F = torch.cat((angles_TF.cos(), angles_TF.sin()), dim=1)
        still_T11 = (shift_T == 0)[:, None, None]
        return Rotation(table_T2F, still_T11 if still_T11.any() else None)

    def apply(self, keys: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Keys [..., T, H, D], rotated; a rotation made of one int serves any number of tokens."""
        assert keys.shape[-1] == self._head_dim, (keys.shape, self._head_dim)
        keys_THD = keys.float()
        turned_THD = keys_THD.clone(memory_format=torch.contiguous_format)
        xs_THF, ys_THF = self._pairs(keys_THD)
        new_xs_THF, new_ys_THF = self._pairs(turned_THD)
        # In place: on a CPU, temporaries of this size cost five times the arithmetic.
        new_xs_THF.mul_(rotation.cos_T1F).addcmul_(ys_THF, rotation.sin_T1F, value=-1)
        new_ys_THF.mul_(rotation.cos_T1F).addcmul_(xs_THF, rotation.sin_T1F)
        if rotation.still_T11 is not None:
            # -0.0 * 1 - y * 0 may lose the sign of zero, inf * 0 is no number.
            turned_THD = torch.where(rotation.still_T11, keys_THD, turned_THD)
        return turned_THD.to(keys.dtype)

    def turn(self, keys: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """`apply`, in the place of contiguous keys; returns them. Bit for bit, but for the rounding
        of a fused turn."""
        if keys.dtype != torch.float32:
            return keys.copy_(self.apply(keys, rotation))
        still = None if rotation.still_T11 is None else rotation.still_T11.flatten()
        kept = None if still is None else keys[..., still, :, :]
        if self._fused_turn is not None and keys.dim() == 3:
            self._fused_turn(keys, rotation.table_T2F, rotation.rows(len(keys)))
        else:
            self._turn_pairs(keys, rotation)
        if still is not None and kept is not None:
            keys[..., still, :, :] = kept
        return keys

    def _turn_pairs(self, keys: torch.Tensor, rotation: Rotation) -> None:
        xs_THF, ys_THF = self._pairs(keys)
        old_xs_THF = xs_THF.clone()
        xs_THF.mul_(rotation.cos_T1F).addcmul_(ys_THF, rotation.sin_T1F, value=-1)
        ys_THF.mul_(rotation.cos_T1F).addcmul_(old_xs_THF, rotation.sin_T1F)

    def _pairs(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the two halves of each rotated pair, [..., T, H, F] each."""
        rotary = keys[..., : self._rotary_dim]
        if self._is_neox_style:
            return rotary[..., : self._rotary_dim // 2], rotary[..., self._rotary_dim // 2 :]
        return rotary[..., 0::2], rotary[..., 1::2]


def rotary_dimension(rope_parameters: Mapping[str, Any], head_dim: int) -> int:
    """How many leading dimensions of a head RoPE turns, as in vLLM's `get_rope`."""
    given = rope_parameters.get("rope_dim")
    return int(given or head_dim * rope_parameters.get("partial_rotary_factor", 1.0))


def inverse_frequencies(rope_parameters: Mapping[str, Any], rotary_dim: int) -> torch.Tensor:
    """The float32 [rotary_dim / 2] frequencies f_j of a model whose keys vLLM computed.

    `rope_parameters` is one layer's entry of the model's config. Formulas and their order are those
    of vLLM 0.32 (`model_executor/layers/rotary_embedding`), so the result has its bits (linear: up
    to one rounding, as vLLM divides the position instead). Raises UnsupportedModel for RoPE that is
    not one fixed frequency per pair, for kinds that are not tested, and for missing parameters.
    """
    kind = rope_parameters.get("rope_type", rope_parameters.get("type", "default"))
    _refuse_unsupported(rope_parameters, kind)
    try:
        return _KINDS[kind](rope_parameters, rotary_dim)
    except KeyError as missing:
        raise UnsupportedModel(f"RoPE type '{kind}' lacks its parameter {missing}") from None


def _refuse_unsupported(parameters: Mapping[str, Any], kind: str) -> None:
    if "mrope_section" in parameters:
        raise UnsupportedModel(
            "RoPE with 'mrope_section' (mrope) has more than one position per token"
        )
    if parameters.get("use_fope"):
        raise UnsupportedModel("RoPE with 'use_fope' does not rotate by one angle per pair")
    if any(isinstance(value, Mapping) for value in parameters.values()):
        raise UnsupportedModel(
            f"RoPE parameters are per layer type ({', '.join(parameters)}): one aligner for each"
        )
    if kind not in _KINDS:
        reason = _NOT_LINEAR.get(kind, "is not known to be a fixed rotation per position")
        raise UnsupportedModel(f"RoPE type '{kind}' {reason}; supported: {', '.join(_KINDS)}")


_NOT_LINEAR = {
    "dynamic": "(dynamic NTK) changes its frequencies with the prompt's length",
    "longrope": "changes its frequencies with the prompt's length",
    "su": "(longrope) changes its frequencies with the prompt's length",
    "mrope": "has more than one position per token",
}


def _default(parameters: Mapping[str, Any], rotary_dim: int) -> torch.Tensor:
    base = parameters.get("rope_theta", 10000)
    return 1.0 / _wavelengths(base, rotary_dim)


def _linear(parameters: Mapping[str, Any], rotary_dim: int) -> torch.Tensor:
    factor: float = parameters["factor"]
    return _default(parameters, rotary_dim) / factor


def _llama3(parameters: Mapping[str, Any], rotary_dim: int) -> torch.Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between blended."""
    factor = parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    trained = parameters["original_max_position_embeddings"]
    plain = _default(parameters, rotary_dim)
    wave = 2 * math.pi / plain
    smooth = (trained / wave - low) / (high - low) if low != high else torch.zeros_like(wave)
    blended = (1 - smooth) * plain / factor + smooth * plain
    stretched = torch.where(wave > trained / low, plain / factor, blended)
    return torch.where(wave < trained / high, plain, stretched)


def _yarn(parameters: Mapping[str, Any], rotary_dim: int) -> torch.Tensor:
    """Pairs that turn seldom within the trained length are stretched (arXiv 2309.00071, 3.2)."""
    base: float = parameters.get("rope_theta", 10000)
    factor: float = parameters["factor"]
    trained = parameters["original_max_position_embeddings"]

    def pair_with_turns(turns: float) -> float:
        return rotary_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = pair_with_turns(parameters.get("beta_fast", 32))
    high = pair_with_turns(parameters.get("beta_slow", 1))
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(rotary_dim // 2, dtype=torch.float) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    waves = _wavelengths(base, rotary_dim)
    return 1.0 / (factor * waves) * (1 - kept) + 1.0 / waves * kept


def _wavelengths(base: float, rotary_dim: int) -> torch.Tensor:
    """Positions per radian, for each pair."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float) / rotary_dim
    waves: torch.Tensor = base**exponents
    return waves


_KINDS: dict[str, Callable[[Mapping[str, Any], int], torch.Tensor]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
