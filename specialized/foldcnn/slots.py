"""What of a folded network belongs to which slot."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specialized.errors import ModelError
from specialized.foldcnn.layers import Layout
from specialized.foldcnn.tracing import Tracing
from specialized.foldcnn.widths import Channels, Share


@dataclass(frozen=True, slots=True)
class _Tensor:
    """The axes of a tensor, and which of them makes the channels that come out of a layer."""

    axes: Layout
    out: int


class Slots:
    """A folded network seen as f narrow ones side by side, one for each picture of a group.

        weight of an inner layer, f = 2     slot 0   A 0 r      A   what it makes of its own channels
                                            slot 1   0 A r      r   to and from channels that f does not divide
                                                     r r r

    Each slot has an equal share of the channels of every layer. Where the weights between shares are 0, the folded
    network answers as the narrow one does, picture by picture.

    Attributes:
        network: the narrow network, which maps (B, C, H, W) to (B, K). Its weights are new.

    Args:
        model: as for `specialized.fold_cnn`. It is left as it is.
        f: pictures in a group.
        multiple_of: of the folded network's widths.

    Raises:
        ModelError: the model cannot be folded, or is too narrow for f slots.
    """

    def __init__(self, model: nn.Module, f: int, *, multiple_of: int = 1) -> None:
        self._share = Share(f, multiple_of)
        tracing = Tracing(model)
        self._tensors: dict[str, _Tensor] = {}
        for layer, (_, use) in tracing.uses.items():
            for name, axes in use.tensors.items():
                out = axes.index(use.axes[-1]) if use.axes else 0
                self._tensors[_joined(tracing.names[layer], name)] = _Tensor(axes, out)
        for _, bare in tracing.bare.values():
            axes = tuple(axis if isinstance(axis, Channels) else None for axis in bare.axes)
            out = next((place for place, axis in enumerate(axes) if axis), 0)
            self._tensors[_joined(tracing.names[bare.owner], bare.attribute)] = _Tensor(axes, out)
        tracing.resize(self._share)
        self.network = tracing.network

    def fill(self, folded: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Makes a folded network act as f copies of the narrow one.

        What brings the channels of several slots together does so still, and the copies answer a little otherwise:
        convolutions of several groups that are not depthwise, which keep their weights, normalizations over more than
        one channel, means and extremes over channels, and maps that are spread over all channels, such as the gates of
        spatial attention, which become the mean of those of the slots before their sigmoid.

        Args:
            folded: changed in place.
            weights: the state of the narrow network.

        Raises:
            ModelError: the layers of `folded` are not those that `specialized.fold_cnn` makes.
        """
        state = folded.state_dict()
        if strange := sorted(state.keys() ^ weights.keys()):
            has = "more" if strange[0] in state else "fewer"
            raise ModelError(f"{strange[0]}: must be in both networks, as folding by rule makes it, got {has} tensors")
        with torch.no_grad():
            for name, own in weights.items():
                if name in self._tensors:
                    self._fill(name, state[name], own)

    def _fill(self, name: str, folded: Tensor, own: Tensor) -> None:
        share, tensor = self._share, self._tensors[name]
        sizes = [share.whole(axis) if axis else n for axis, n in zip(tensor.axes, own.shape, strict=True)]
        if list(folded.shape) != sizes:
            got = f"one of shape {list(folded.shape)}"
            raise ModelError(f"{name}: must be a tensor of shape {sizes}, as folding by rule makes it, got {got}")
        places = [
            [torch.tensor(share.places(axis, slot)) if axis else torch.arange(n) for slot in range(share.f)]
            for axis, n in zip(tensor.axes, sizes, strict=True)
        ]
        folded.index_fill_(tensor.out, torch.cat(places[tensor.out]), 0)  # what comes from other slots
        shared = [axis is not None and axis.is_fixed() for axis in tensor.axes]
        gathers = shared[tensor.out] and any(axis and not one for axis, one in zip(tensor.axes, shared, strict=True))
        for where in zip(*places, strict=True):
            folded[torch.meshgrid(*where, indexing="ij")] = own / share.f if gathers else own


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))
