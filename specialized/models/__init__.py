"""Architectures by name, and how a named or a user's own one is built and checked.

Importing this module does not load torch, so that naming and listing models stays cheap.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from specialized.errors import ModelError
from specialized.models.table import MODELS, ModelSpec
from specialized.objects import close_to, load_object, one_line

if TYPE_CHECKING:
    from torch import nn


__all__ = ["MODELS", "ModelSpec", "build"]


def build(
    architecture: str, *, args: Mapping[str, object], classes: int, fold: int, input: tuple[int, int]
) -> "nn.Module":
    """Builds an architecture and checks with one forward on the CPU that it maps (B, f·3, H, W) to (B, f·K).

    Args:
        architecture: a name of `MODELS`, or `package.module:Class` of a torch module that vpipe did not write.
        args: keyword arguments of the class, over those of the name. `fold`, `classes` and `input` are passed as well
            where the class has parameters of these names and `args` does not set them.
        classes: K, outputs per picture.
        fold: f, pictures in a group.
        input: (H, W) of a picture.

    Returns:
        The module in evaluation mode, with untrained weights drawn from torch's global generator.

    Raises:
        ModelError: it cannot be imported or constructed, or its output has another shape.
    """
    factory, named = _resolve(architecture)
    from torch import nn

    if not (isinstance(factory, type) and issubclass(factory, nn.Module)):  # a model file may name anything
        raise ModelError(f"{architecture}: must be a subclass of torch.nn.Module, got {factory!r}; name another class")
    offered = {"fold": fold, "classes": classes, "input": input}
    try:
        accepted = inspect.signature(factory).parameters
        chosen = {k: v for k, v in offered.items() if k in accepted and accepted[k].kind is not _POSITIONAL_ONLY}
        module = factory(**{**named, **chosen, **args})
    except Exception as exc:  # the user's constructor may raise anything
        raise ModelError(
            f"{architecture}: must be constructible with {dict(args)}, got {one_line(exc)}; change its arguments"
        ) from exc
    return _checked(architecture, module, classes=classes, fold=fold, input=input)


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
        raise ModelError(f"{architecture}: {exc}; correct the name, or put its folder on PYTHONPATH") from exc


def _checked(architecture: str, module: object, *, classes: int, fold: int, input: tuple[int, int]) -> "nn.Module":
    import torch
    from torch import nn

    if not isinstance(module, nn.Module):
        raise ModelError(f"{architecture}: must be a torch.nn.Module, got {type(module).__name__}; name another class")
    module.eval()
    b = 2  # a model that flattens its batch away passes with one group
    shape = (b, fold * 3, *input)
    try:
        with torch.inference_mode():
            output = module(torch.zeros(shape))
    except Exception as exc:  # the user's forward may raise anything
        raise ModelError(
            f"{architecture}: must accept float32 {shape}, (groups, fold·3, H, W), got {one_line(exc)}; "
            "change its arguments, fold or input"
        ) from exc
    got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if got != (b, fold * classes):
        raise ModelError(
            f"{architecture}: output for input {shape} must have shape {(b, fold * classes)}, (groups, fold·classes), "
            f"got {got}; change its last layer, fold or classes"
        )
    return module
