"""Trains raysparsex-tiny from scratch and writes the artifact.

    nice -n 10 python -m training.train --tokens 12e6

Resumable: the same command goes on from the last checkpoint in --work. The artifact is written at
every checkpoint whose accuracy on held-out questions is the best so far.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm  # type: ignore[import-untyped]

from training import artifact, tokenizer
from training.batches import Batcher
from training.curriculum import Curriculum
from training.evaluate import quick_accuracy
from training.losses import Outcome, Resolver, Weights, losses
from training.model import TinyLlama

WARM_UP_STEPS = 30
CLIP = 1.0


@dataclass(slots=True)
class Progress:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Owns model, optimisers, data and progress."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = Path(options.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.tokenizer = _tokenizer(Path(options.out))
        self.rng = Random(options.seed)
        self.model = artifact.fresh(self.tokenizer, options.seed)
        self.resolver = Resolver(self.model.size.hidden_size)
        self.optimisers = _optimisers(self.model, self.resolver, options.lr)
        self.curriculum = Curriculum(self.rng)
        self.batcher = Batcher(self.tokenizer, self.rng, options.batch, options.skipping)
        self.progress = Progress()
        self._resume()

    def run(self) -> None:
        bar = tqdm(
            total=int(self.options.tokens), initial=self.progress.tokens, unit="tok", mininterval=20
        )
        saved = evaluated = time.time()
        while self.progress.tokens < self.options.tokens:
            started = time.time()
            outcome, tokens = self.step()
            self.progress.seconds += time.time() - started
            bar.update(tokens)
            if time.time() - saved > self.options.save_every:
                self.checkpoint()
                saved = time.time()
            if time.time() - evaluated > self.options.eval_every:
                self.evaluate(outcome)
                evaluated = time.time()
        self.checkpoint()
        self.evaluate(outcome)

    def step(self) -> tuple[Outcome, int]:
        self.batcher.skipping = self.options.skipping * min(1.0, self.curriculum.stage / 2)
        batch = self.batcher.next(self.curriculum.draw(), pool=self.options.pool)
        self._set_rate()
        with torch.autocast("cpu", torch.bfloat16):
            outcome = losses(self.model, self.resolver, batch, Weights())
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self.curriculum.note(outcome.answers_right):
            self.batcher.forget()
        self.progress.step += 1
        self.progress.tokens += batch.tokens
        return outcome, batch.tokens

    def _set_rate(self) -> None:
        """Warm up, stay, then fall linearly over the last part."""
        done = self.progress.tokens / self.options.tokens
        fall = min(1.0, (1.0 - done) / self.options.decay)
        rate = (
            self.options.lr * min(1.0, (self.progress.step + 1) / WARM_UP_STEPS) * max(fall, 0.02)
        )
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate

    def evaluate(self, outcome: Outcome) -> None:
        """Held-out accuracy; the best model so far becomes the artifact."""
        scores = quick_accuracy(self.model, self.tokenizer)
        mean = sum(scores.values()) / len(scores)
        report = {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds),
            "stage": self.curriculum.stage,
            "train": round(self.curriculum.right, 3),
            "values": round(outcome.values_right, 3),
            "loss": {name: round(value, 3) for name, value in outcome.parts.items()},
            "held_out": {name: round(value, 3) for name, value in scores.items()},
        }
        self.progress.curve.append(report)
        tqdm.write(json.dumps(report))
        if mean >= self.progress.best:
            self.progress.best = mean
            artifact.write(self.model, self.tokenizer, Path(self.options.out))

    def checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "resolver": self.resolver.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": self.progress,
            "stage": (self.curriculum.stage, self.curriculum.right),
            "random": self.rng.getstate(),
        }
        torch.save(state, self.work / "staged.pt")
        (self.work / "staged.pt").replace(self.work / "checkpoint.pt")

    def _resume(self) -> None:
        path = self.work / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.resolver.load_state_dict(state["resolver"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = state["progress"]
        self.curriculum.stage, self.curriculum.right = state["stage"]
        self.rng.setstate(state["random"])


def _tokenizer(directory: Path) -> Tokenizer:
    """The artifact's tokenizer stays as it is; without one it is built."""
    path = directory / "tokenizer.json"
    return Tokenizer.from_file(str(path)) if path.exists() else tokenizer.build()


def _optimisers(model: TinyLlama, resolver: Resolver, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in (*model.parameters(), *resolver.parameters()) if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--tokens", type=float, default=12e6, help="training tokens in total (default: 12e6)"
    )
    parser.add_argument("--out", default=str(artifact.DIRECTORY), help="where the artifact goes")
    parser.add_argument(
        "--work", default="/tmp/training/run", help="checkpoints; an existing one is resumed"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data (default: 0)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: 2e-3)")
    parser.add_argument(
        "--decay", type=float, default=0.7, help="last share of the tokens over which lr falls"
    )
    parser.add_argument("--batch", type=int, default=8192, help="tokens per step (default: 8192)")
    parser.add_argument(
        "--pool", type=int, default=240, help="samples drawn at once and sorted by length"
    )
    parser.add_argument(
        "--skipping", type=float, default=0.5, help="share of samples with skipped positions"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    parser.add_argument(
        "--eval-every", type=float, default=60, help="seconds between held-out evaluations"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    Trainer(options).run()


if __name__ == "__main__":
    main()
