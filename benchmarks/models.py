"""The small models of the zoo at each f: every engine in every dtype, each at the better of a few batches.

    python -m benchmarks.models                      20 minutes on two cores; goes on where it was stopped
    python -m benchmarks.models --only coral
    python -m benchmarks.models --engines torch,compile      torch.compile takes up to a minute per model and f

Pictures go in as bytes and scores come out, as in a run (`specialized.forward.engine_loop`); no decoding, all cores.
What the first ratios are over is the fastest engine, dtype and batch at f = 1. Below 1 folding loses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from benchmarks.facts import facts
from benchmarks.measuring import Failed, Figures, Result, medians, result
from benchmarks.part import chosen, options, run_part, say

if TYPE_CHECKING:
    from torch import nn

    from specialized.engines import Dtype, EngineName
    from specialized.modelfile import ModelCard
    from specialized.subjects import Subject
    from specialized.timing import Arm

FOLDS = (1, 2, 3, 4, 8, 16)
BATCHES = {"cpu": (64, 256), "cuda": (256, 1024, 4096)}  # pictures
EIGHT_BITS = "8 bits"  # a quantized model
DTYPES: Mapping[str, Sequence[str]] = {"cpu": ("bfloat16", "float32"), "cuda": ("float16", "bfloat16", "float32")}
DTYPES_OF: Mapping[str, Sequence[str]] = {"onnx": ("float32",), "openvino": (EIGHT_BITS, "bfloat16", "float32")}
ENGINES = ("torch", "openvino", "onnx")
SECONDS = 0.15  # of a measurement; a trial takes a third

Key = tuple[str, str, int]  # engine, dtype, f


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
@click.option("--engines", default=",".join(ENGINES), show_default=True, metavar="NAME,...", help="Those to measure.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where.")
def main(rounds: int, only: str, again: bool, out: Path, engines: str, device: str) -> None:
    from specialized.subjects import subjects

    names = engines.split(",")
    measure = partial(measured, engines=names, device=device, rounds=rounds)
    cases = chosen({subject.name: partial(measure, subject) for subject in subjects([], FOLDS)}, only)
    settings = {"rounds": rounds, "folds": FOLDS, "engines": names, "device": device}
    run_part("models", cases, origin=facts(["openvino", "onnxruntime"]), settings=settings, out=out, again=again)


def measured(subject: Subject, *, engines: Sequence[str], device: str, rounds: int) -> Result:
    """Tries the batches of every engine, dtype and f of a model, then measures the best of each in alternation."""
    from specialized.errors import ModelError
    from specialized.timing import alternate, fastest

    arms, left_out = [], {}
    for key in keys(engines, device):
        try:
            arms.append(fastest(_arms(subject, key, device), SECONDS / 3))
        except ModelError as exc:  # not installed, or this device does not compute in this dtype
            left_out[named(key)] = str(exc)
    found, failed = alternate(arms, rounds=rounds, seconds=SECONDS, say=lambda line: say(f"{subject.name}: {line}"))
    left_out |= {named(key): why for key, why in failed.items()}
    if not found:
        raise Failed(f"{subject.name}: nothing runs it: {'; '.join(left_out.values())}")
    return case({key: [{"images_per_s": rate} for rate in series.rates] for key, series in found.items()}, left_out)


def keys(engines: Sequence[str], device: str) -> Iterator[Key]:
    for engine in engines:
        for dtype in DTYPES_OF.get(engine, DTYPES[device]):
            yield from ((engine, dtype, f) for f in FOLDS)


def _arms(subject: Subject, key: Key, device: str) -> Iterator[Arm[Key]]:
    """An engine at each batch that it takes.

    Raises:
        ModelError: it takes none.
    """
    from specialized.engines import open_engine
    from specialized.errors import ModelError
    from specialized.forward import engine_loop
    from specialized.timing import Arm

    name, dtype, f = key
    card, module = quantized_to_noise(subject, f) if dtype == EIGHT_BITS else subject.build(f)
    found, refused = False, None
    for pictures in BATCHES[device]:
        try:
            engine = open_engine(
                card,
                module,
                device=device,
                batch=pictures,
                dtype="auto" if dtype == EIGHT_BITS else cast("Dtype", dtype),
                engine=cast("EngineName", name),
                in_parts=False,
            )
        except ModelError as exc:
            refused = exc
            continue
        found = True
        yield Arm(key, engine.groups * f, engine_loop(engine))
    if refused is not None and not found:
        raise refused


def quantized_to_noise(subject: Subject, f: int) -> tuple[ModelCard, nn.Module]:
    """A model in 8 bits, whose speed does not depend on the ranges."""
    import numpy as np

    from specialized.examples import Examples
    from specialized.quantize import quantized, ranges_of

    card, module = subject.build(f)
    pictures = np.random.default_rng(0).integers(0, 256, (8 * f, *card.input, 3), dtype=np.uint8)
    labels = np.zeros(8 * f, np.int64)
    ranges = ranges_of(card, module, Examples(pictures, labels, ((0, 8 * f),)))
    return replace(card, ranges=dict(ranges)), quantized(module, ranges)


def case(rounds: Mapping[Key, Sequence[Figures]], left_out: Mapping[str, str]) -> Result:
    """What was found of one model: the fastest of each f over that of f = 1, then each engine by itself."""
    fastest: dict[int, Key] = {}
    for key in sorted(rounds, key=lambda key: medians(rounds[key])["images_per_s"]):
        fastest[key[2]] = key
    folded = [(f, key) for f, key in sorted(fastest.items()) if f > 1 and 1 in fastest]
    pairs = [(f"f = {f} / f = 1, fastest of each", key, fastest[1]) for f, key in folded]
    pairs += [(f"f = {f} / f = 1, {e} {d}", (e, d, f), (e, d, 1)) for e, d, f in rounds if f > 1]
    return result(
        {named(key): of for key, of in rounds.items()},
        figure="images_per_s",
        ratios=[(name, named(over), named(under), "images_per_s") for name, over, under in pairs],
        left_out=left_out,
        drawn=[named(key) for _, key in sorted(fastest.items())],
    )


def named(key: Key) -> str:
    engine, dtype, f = key
    return f"{engine} {dtype}, f = {f}"


if __name__ == "__main__":
    main()
