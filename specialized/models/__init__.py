"""Architectures by name, and how a named or a user's own one is built and checked.

Importing this module does not load torch, so that naming and listing models stays cheap.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from specialized.errors import ModelError
from specialized.models.table import MODELS, ModelSpec
from specialized.objects import OWN_CODE, close_to, load_object, one_line

if TYPE_CHECKING:
    from torch import nn


__all__ = ["MODELS", "ModelSpec", "build"]


def build(
    architecture: str,
    *,
    args: Mapping[str, object],
    classes: int,
    fold: int,
    input: tuple[int, int],
    multiple_of: int = 1,
) -> "nn.Module":
    """Builds an architecture, folds it and checks with a forward on the CPU that it maps (B, f·3, H, W) to (B, f·K).

    A class with a parameter `fold` folds itself. Any other one that maps (B, 3, H, W) to (B, K) is folded by
    `specialized.fold_cnn`, and one that maps (B, f·3, H, W) to (B, f·K) is taken as it is.

    Args:
        architecture: a name of `MODELS`, or `package.module:Class` of a torch module that vpipe did not write.
        args: keyword arguments of the class, over those of the name. `fold`, `multiple_of`, `classes` and `input` are
            passed as well where the class has parameters of these names and `args` does not set them.
        classes: K, outputs per picture.
        fold: f, pictures in a group.
        input: (H, W) of a picture.
        multiple_of: inner widths become multiples of it.

    Returns:
        The module in evaluation mode, with untrained weights drawn from torch's global generator.

    Raises:
        ModelError: it cannot be imported, constructed or folded, or its output has another shape.
    """
    factory, named = _resolve(architecture)
    from torch import nn

    if not (isinstance(factory, type) and issubclass(factory, nn.Module)):  # a model file may name anything
        raise ModelError(f"{architecture}: must be a subclass of torch.nn.Module, got {factory!r}; name another class")
    offered = {"fold": fold, "multiple_of": multiple_of, "classes": classes, "input": input}
    try:
        accepted = inspect.signature(factory).parameters
        chosen = {k: v for k, v in offered.items() if k in accepted and accepted[k].kind is not _POSITIONAL_ONLY}
        module: object = factory(**{**named, **chosen, **args})
    except OWN_CODE as exc:  # the user's constructor may raise anything
        raise ModelError(
            f"{architecture}: must be constructible with {dict(args)}, got {one_line(exc)}; change its arguments"
        ) from exc
    if not isinstance(module, nn.Module):
        raise ModelError(f"{architecture}: must be a torch.nn.Module, got {type(module).__name__}; name another class")
    module.eval()
    takes = {*chosen, *args}
    rounded = "multiple_of" in takes  # whether someone makes the widths multiples of it
    unfolded = None  # what the class answers to pictures that are not folded
    if "fold" not in takes and (fold > 1 or multiple_of > 1):
        unfolded = _answer(module, (_B, 3, *input))
        if unfolded == (_B, classes):
            from specialized.foldcnn import fold_cnn

            try:
                module = fold_cnn(module, fold, multiple_of=multiple_of)
            except ModelError as exc:
                raise ModelError(f"{architecture}: {exc}") from exc
            rounded = True
    if multiple_of > 1 and not rounded:
        raise ModelError(
            f"{architecture}: must have a parameter multiple_of, got {multiple_of} for a class that folds itself "
            "without one; leave multiple_of out"
        )
    _check(architecture, module, classes=classes, fold=fold, input=input, unfolded=unfolded)
    return module


_B = 2  # a model that flattens its batch away passes with one group
_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY


def _resolve(architecture: str) -> tuple[Callable[..., object], Mapping[str, object]]:
    spec = MODELS.get(architecture)
    if spec is None and ":" not in architecture:
        raise ModelError(
            f"{architecture}: must be a name that `vpipe models` lists, or package.module:Class; "
            f"{close_to(architecture, MODELS) or 'correct the name'}"
        )
    try:
        return load_object(spec.target if spec else architecture), spec.args if spec else {}
    except ImportError as exc:
        advice = "correct the name, or put the module beside the configuration or the model file, or on PYTHONPATH"
        raise ModelError(f"{architecture}: {exc}; {advice}") from exc


def _check(
    architecture: str,
    module: "nn.Module",
    *,
    classes: int,
    fold: int,
    input: tuple[int, int],
    unfolded: tuple[int, ...] | str | None,
) -> None:
    shape, expected = (_B, fold * 3, *input), (_B, fold * classes)
    answer = _answer(module, shape)
    if answer == expected:
        return
    wrong = _wrong(shape, expected, answer)
    if unfolded is not None and unfolded != (_B, classes):
        # What takes pictures that are not folded is to be folded: its own answer is the cause.
        other = f"; if it folds itself, it {wrong}" if isinstance(unfolded, str) else ""
        wrong = _wrong((_B, 3, *input), (_B, classes), unfolded) + other
    raise ModelError(f"{architecture}: {wrong}; change its layers or arguments, or the classes or input")


def _wrong(shape: tuple[int, ...], expected: tuple[int, int], answer: tuple[int, ...] | str) -> str:
    """What must hold and does not, the cause first."""
    if isinstance(answer, tuple) and len(answer) == 2 and answer[0] == expected[0]:
        return f"must give {expected[1]} outputs for input {shape}, one per class and picture, got {answer[1]}"
    return f"must map float32 {shape} to {expected}, got {answer}"


def _answer(module: "nn.Module", shape: tuple[int, ...]) -> tuple[int, ...] | str:
    """The shape of a module's output for zeros of this shape, or what came instead."""
    import torch

    try:
        with torch.inference_mode():
            output = module(torch.zeros(shape))
    except OWN_CODE as exc:  # the user's forward may raise anything
        return one_line(exc)
    return tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
