"""One sparse prefill for tests: a fake decoder with its prefix in place, foreign values, a task."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch

from raysparsex.config import SelectorName
from raysparsex.sparse.prefill import PieceBound, PrefillTask, SparsePrefill
from raysparsex.sparse.token_select import SELECTORS
from tests.fakes.decoder import VOCABULARY, Call, FakeDecoder, FakeLoader

PREFIX, COUNT, LAYERS = 10, 90, 5
ALL = set(range(PREFIX, PREFIX + COUNT))
REUSED = {*range(15, 40), *range(45, 80)}
NEW = ALL - REUSED
LARGE = 10**9


def prompt(seed: int = 1) -> torch.Tensor:
    return torch.randint(
        VOCABULARY, (PREFIX + COUNT,), generator=torch.Generator().manual_seed(seed)
    )


class Run:
    """A decoder with its prefix in place, a loader with foreign values, and a task."""

    def __init__(
        self,
        *,
        full_layers: int = 2,
        picks: int = 9,
        selector: SelectorName = SelectorName.TWO_STEP,
        most: int = LARGE,
        reused: set[int] = REUSED,
        suspects: set[int] | None = None,
        sought: int = 0,
        learns: bool = False,
    ) -> None:
        self.decoder = FakeDecoder(layers=LAYERS, length=PREFIX + COUNT)
        tokens = prompt()
        self.decoder.prefill(tokens[:PREFIX])
        self.decoder.calls.clear()
        places = torch.tensor(sorted(reused), dtype=torch.long)
        foreign = FakeDecoder(layers=LAYERS, length=PREFIX + COUNT)
        foreign.prefill(torch.cat((prompt(2)[:PREFIX], tokens[PREFIX:])))
        self.loader = FakeLoader(foreign.keys[:, places], foreign.values[:, places])
        mask = torch.tensor([place in reused for place in sorted(ALL)])
        self.task = PrefillTask(
            tokens_T=tokens[PREFIX:],
            first=PREFIX,
            reused_T=mask,
            suspects_R=torch.tensor(
                [suspects is None or place in suspects for place in sorted(reused)],
                dtype=torch.bool,
            ),
            run_offsets_R=torch.arange(len(reused)),
            full_layers=full_layers,
            selector=SELECTORS[selector],
            picks=picks,
            seed=7,
            sought=sought,
            learns=learns,
        )
        self.bound = PieceBound(most)
        self.prefill = SparsePrefill(self.task, self.decoder, self.loader, self.bound)

    def to_the_end(self) -> Run:
        self.work = list(self.prefill.run())
        return self

    def forwarded(self, layer: int) -> list[int]:
        """Positions that a layer computed; of the last layer, only K and V are computed."""
        calls = [call for call in self.decoder.made("forward") if call.layer == layer]
        if layer == LAYERS - 1:
            assert not calls
            calls = self._projected_at_last()
        return [place for call in calls for place in call.positions]

    def _projected_at_last(self) -> list[Call]:
        """Projections of the last layer that were written; for L* at the end, the second ones."""
        log = self.decoder.calls
        written = [
            one
            for one, two in pairwise(log)
            if (one.what, two.what) == ("project", "write")
            and one.layer == LAYERS - 1
            and one.positions == two.positions
        ]
        suspects = int(self.prefill.suspects_R.sum())
        if self.prefill._first_sparse == LAYERS - 1 and self.task.picks < suspects:
            covered = list(accumulate(len(call.positions) for call in written))
            return written[covered.index(len(NEW) + suspects) + 1 :]
        return written

    @property
    def chosen(self) -> set[int]:
        return set(self.forwarded(LAYERS - 1)) - NEW


def exact() -> FakeDecoder:
    decoder = FakeDecoder(layers=LAYERS, length=PREFIX + COUNT)
    decoder.prefill(prompt())
    return decoder
