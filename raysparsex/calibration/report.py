"""A profile in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raysparsex.calibration.lookup import BESIDE_MODEL, Found, Unfit
from raysparsex.calibration.profile import Profile


def described(profile: Profile) -> Iterator[str]:
    """What was chosen, how far it drifts, what it costs."""
    chosen, measured, target = profile.correction, profile.measured, profile.target
    if profile.is_exact:
        yield "correction     none: everything is recomputed, requests are served exactly"
    else:
        yield (
            f"correction     {chosen.selector}, budget {chosen.budget:g},"
            f" {chosen.full_layers} of {profile.model.layers} layers full,"
            f" suspects {chosen.suspects:g}"
        )
    yield f"drift          KL {measured.kl:.4f}{_bound('below', measured.kl_high)}" + (
        f", target {target.max_kl:g}"
    )
    yield f"               top-1 {measured.top1:.4f}{_bound('above', measured.top1_low)}" + (
        f", target {target.min_top1:g}"
    )
    yield (
        f"compute        {measured.compute_share_first:.0%} of a full prefill at a segment's first"
        f" reuse, {measured.compute_share_learned:.0%} later"
    )
    yield f"measured on    {measured.prompts} prompts, {measured.positions} answer tokens"
    bounds = profile.range
    yield (
        f"good for       prompts of up to {bounds.max_prompt_tokens} tokens,"
        f" {bounds.max_reused_share:.0%} reused, depth {bounds.max_depth}"
    )
    if profile.note:
        yield f"note           {profile.note}"


def how_it_is_found(path: Path, found: Found | Unfit | None) -> str:
    """What a server of the same model does, from what a lookup answered."""
    if isinstance(found, Found) and _same(found.source, path):
        return "found by       every server of this model that runs with the same dtype, by itself"
    mend = f"set reuse.profile to this file, or copy it into the model's folder as {BESIDE_MODEL}"
    if found is None:
        return f"found by       nobody yet: {mend}"
    return f"found by       nobody yet, as {found.source} comes first: remove that, or {mend}"


def _bound(word: str, value: float | None) -> str:
    return "" if value is None else f" ({word} {value:.4f})"


def _same(one: Path, other: Path) -> bool:
    return one.expanduser().resolve() == other.expanduser().resolve()
