"""What cannot be folded is refused in one line that says why."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from specialized.errors import ModelError
from specialized.foldcnn import fold_cnn
from tests.nets import DropPath, Net, headed, pooled


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        return self.lstm(y.flatten(2).transpose(1, 2))[0][:, -1]


class SamePadded(Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Auxiliary(nn.Module):
    """Returns a second answer while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.aux = Conv2d(3, 8, 3), Linear(8, 5), Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.conv(x).mean((2, 3))
        return (self.fc(y), self.aux(y)) if self.training else self.fc(y)


def tied() -> nn.Module:
    model = pooled(lambda s, y: s.b(s.a(y)), a=Conv2d(8, 8, 1), b=Conv2d(8, 8, 1))
    model.b.weight = model.a.weight
    return model


def otherwise_flattened(s: nn.Module, x: Tensor) -> Tensor:
    few, many = F.adaptive_avg_pool2d(s.few(x), 4), F.adaptive_avg_pool2d(s.many(x), 2)
    return s.out(s.shared(few.flatten(1)) + s.shared(many.flatten(1)))


def shuffled(s: nn.Module, y: Tensor) -> Tensor:
    b, c, h, w = y.size()
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, -1, h, w)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LSTM head": (lambda: headed(lambda s, y: s.r(y), r=Recurrent()), r"r\.lstm \(LSTM\): .*a pass over a sequence"),
    "hard-coded reshape": (
        lambda: headed(lambda s, y: y.view(-1, 2048), 2048),
        r"Net: .*the fixed number 2048 in a reshape; write x\.flatten\(1\)",
    ),
    "layer shared by maps that are flattened otherwise": (
        lambda: Net(
            otherwise_flattened,
            few=Conv2d(3, 8, 3),
            many=Conv2d(3, 32, 3),
            shared=Linear(128, 6),
            out=Linear(6, 5),
        ),
        r"shared \(Linear\): must line up channels that were flattened alike",
    ),
    "picture as a gate": (
        lambda: Net(lambda s, x: s.out(x * s.conv(x)).mean((2, 3)), conv=Conv2d(1, 8, 1), out=Conv2d(8, 5, 1)),
        "Net: must not use channels of the pictures as a map that is spread",
    ),
    "functional convolution": (
        lambda: Net(lambda s, x: F.conv2d(x, s.w).mean((2, 3)), w=nn.Parameter(torch.ones(5, 3, 3, 3))),
        r"Net: .*conv2d\(\) with w: a function with weights of its own; make it a layer",
    ),
    "layer with a forward of its own": (
        lambda: nn.Sequential(SamePadded(3, 5, 3), nn.AdaptiveAvgPool2d(1)),
        r"0 \(SamePadded\): .*conv2d\(\) with 0\.weight and 0\.bias",
    ),
    "softmax over classes": (
        lambda: nn.Sequential(Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1)),
        r"3 \(Softmax\): must keep the pictures of a group apart, got a softmax",
    ),
    "log_softmax over classes": (
        lambda: Net(lambda s, x: F.log_softmax(s.c(x).mean((2, 3)), 1), c=Conv2d(3, 5, 3)),
        "Net: must keep the pictures of a group apart, got a softmax",
    ),
    "gray from colours": (
        lambda: Net(lambda s, x: s.c(x.mean(1, keepdim=True)).mean((2, 3)), c=Conv2d(1, 5, 3)),
        "Net: must keep the pictures of a group apart, got a sum or mean",
    ),
    "one gate for all answers": (
        lambda: Net(
            lambda s, x: s.fc(s.c(x).mean((2, 3))) * s.gate(s.c(x).mean((2, 3))).sigmoid(),
            c=Conv2d(3, 8, 3),
            fc=Linear(8, 5),
            gate=Linear(8, 1),
        ),
        r"Net: must keep .* apart, got one value or map spread .* as wide as what it meets",
    ),
    "dueling heads": (
        lambda: Net(
            lambda s, x: s.value(s.c(x).mean((2, 3))) + s.advantage(s.c(x).mean((2, 3))),
            c=Conv2d(3, 8, 3),
            value=Linear(8, 1),
            advantage=Linear(8, 5),
        ),
        "Net: must keep the pictures of a group apart, got one value or map spread",
    ),
    "one mask for all colours": (
        lambda: Net(
            lambda s, x: s.c(x * s.mask(x).sigmoid().expand_as(x)).mean((2, 3)),
            mask=Conv2d(3, 1, 3, padding=1),
            c=Conv2d(3, 5, 3),
        ),
        "Net: must keep the pictures of a group apart, got one value or map spread",
    ),
    "stochastic depth of the pictures": (
        lambda: Net(lambda s, x: s.c(s.drop(x)).mean((2, 3)), drop=DropPath(old=False), c=Conv2d(3, 5, 3)),
        r"drop \(DropPath\): must keep the pictures of a group apart, got one value or map spread",
    ),
    "stochastic depth of the answers": (
        lambda: Net(lambda s, x: s.drop(s.c(x).mean((2, 3))), drop=DropPath(old=True), c=Conv2d(3, 5, 3)),
        r"drop \(DropPath\): must keep the pictures of a group apart, got one value or map spread",
    ),
    "noise of one value per picture": (
        lambda: Net(
            lambda s, x: s.c(x + torch.randn((x.size(0), 1, 1, 1), device=x.device)).mean((2, 3)), c=Conv2d(3, 5, 3)
        ),
        "Net: must keep the pictures of a group apart, got one value or map spread",
    ),
    "one mask for all answers, before they are known as such": (
        lambda: Net(
            lambda s, x: (s.logits(s.c(x)) * s.mask(s.c(x)).sigmoid()).mean((2, 3)),
            c=Conv2d(3, 8, 3),
            logits=Conv2d(8, 5, 1),
            mask=Conv2d(8, 1, 1),
        ),
        "Net: must keep the pictures of a group apart, got one value or map spread",
    ),
    "one mean for all answers": (
        lambda: Net(
            lambda s, x: s.fc(s.c(x).mean((2, 3))) - s.c(x).mean((1, 2, 3)).unsqueeze(1),
            c=Conv2d(3, 8, 3),
            fc=Linear(8, 5),
        ),
        "Net: must keep the pictures of a group apart, got one value or map spread",
    ),
    "norm over colours": (
        lambda: Net(lambda s, x: s.c(s.n(x)).mean((2, 3)), n=nn.GroupNorm(1, 3), c=Conv2d(3, 5, 3)),
        r"n \(GroupNorm\): must keep the pictures of a group apart, got a normalisation",
    ),
    "colours by number": (
        lambda: Net(lambda s, x: s.c(x[:, [2, 1, 0]]).mean((2, 3)), c=Conv2d(3, 5, 3)),
        "Net: must not choose among batch or channels by number",
    ),
    "data-dependent": (
        lambda: pooled(lambda s, y: y if y.abs().amax((2, 3)) > 1 else -y),
        "Net: .*a decision that depends on a tensor's values",
    ),
    "decided by a mean over all": (
        lambda: pooled(lambda s, y: y if y.mean() > 0 else -y),
        r"Net: must do .* a decision that depends on a tensor's values; make it in __init__, or .* by torch\.where",
    ),
    "decided by a maximum over all, against a threshold of its own": (
        lambda: pooled(lambda s, y: y if s.least < y.abs().max() / y.shape[2] else -y, least=torch.tensor([0.5])),
        "Net: must do the same for every input, got a decision that depends on a tensor's values",
    ),
    "decided by a mean as a number": (
        lambda: pooled(lambda s, y: y if float(y.mean()) > 0 else -y),
        "Net: must leave values to torch, got one turned into a number of Python",
    ),
    "decided by an item": (
        lambda: pooled(lambda s, y: y if y.mean().item() > 0 else -y),
        r"item\(\): a result that depends on a tensor's values; leave it out, or decide in __init__",
    ),
    "mean over all": (
        lambda: pooled(lambda s, y: y - y.mean()),
        r"Net: must name the axes that are reduced, got none; write x\.mean\(\(2, 3\)\)",
    ),
    "mean over all as a gate, by way of a weight of its own": (
        lambda: pooled(lambda s, y: y * torch.sigmoid(s.gain * y.mean()), gain=nn.Parameter(torch.ones(1))),
        "Net: must name the axes that are reduced, got none",
    ),
    "mean over all as a size or fill": (
        lambda: pooled(lambda s, y: y + y.new_full((y.size(0), 1, 1, 1), y.std())),
        "Net: must name the axes that are reduced, got none",
    ),
    "any()": (lambda: pooled(lambda s, y: y if (y > 1).any() else -y), r"any\(\): a result that depends on a tensor's"),
    "size-dependent": (lambda: pooled(lambda s, y: y if y.shape[2] > 8 else -y), "a decision that depends on a size"),
    "width-dependent": (lambda: pooled(lambda s, y: y if y.size(1) == 8 else -y), "a decision that depends on a size"),
    "attention": (
        lambda: headed(lambda s, y: (y.flatten(2) @ y.flatten(2).transpose(1, 2)).mean(2)),
        r"matmul\(\): a product of activations",
    ),
    "multi-head attention": (
        lambda: headed(lambda s, y: s.m(*[y.flatten(2).transpose(1, 2)] * 3)[0].mean(1), m=nn.MultiheadAttention(8, 2)),
        r"m \(MultiheadAttention\): .*a product of activations",
    ),
    "pixel shuffle": (lambda: pooled(lambda s, y: s.p(y), 2, p=nn.PixelShuffle(2)), r"p \(PixelShuffle\): .*positions"),
    "channel shuffle": (lambda: pooled(shuffled), "Net: must take sizes .* the fixed number 2"),
    "split by numbers": (lambda: pooled(lambda s, y: torch.split(y, 4, 1)[0], 4), r"split\(\): .*use chunk"),
    "padded channels": (
        lambda: pooled(lambda s, y: F.pad(y, (0, 0, 0, 0, 2, 2)), 12),
        "Net: must not pad channels",
    ),
    "joined heads": (
        lambda: Net(
            lambda s, x: torch.cat([s.a(s.c(x).mean((2, 3))), s.b(s.c(x).mean((2, 3)))], 1),
            c=Conv2d(3, 8, 3),
            a=Linear(8, 2),
            b=Linear(8, 3),
        ),
        "Net: must end in one layer that makes all answers, got 2 that are joined",
    ),
    "answer of training": (Auxiliary, "Auxiliary: must return one tensor, got tuple"),
    "layer out of use": (lambda: pooled(lambda s, y: y, old=Linear(8, 5)), r"old \(Linear\): must be used by forward"),
    "learned positions": (
        lambda: pooled(lambda s, y: y + s.pos, pos=nn.Parameter(torch.zeros(1, 8, 16, 16))),
        r"Net: .*along the channels alone, got pos of shape \(1, 8, 16, 16\)",
    ),
    "learned inner values": (
        lambda: pooled(lambda s, y: y + s.shift, shift=nn.Parameter(torch.arange(8.0).view(1, 8, 1, 1))),
        "shift: must be one value or lie along the channels of pictures",
    ),
    "tensor made in forward": (
        lambda: pooled(lambda s, y: y - torch.arange(8.0).view(1, 8, 1, 1)),
        r"Net: must take tensors as they are stored, got one of shape \(1, 8, 1, 1\)",
    ),
    "len()": (lambda: headed(lambda s, y: y.view(len(y), -1), 2048), r"must not take len\(\) .*write x\.size\(0\)"),
    "int()": (lambda: pooled(lambda s, y: F.interpolate(y, size=int(y.shape[2]))), "must leave sizes to torch"),
    "loop over the batch": (lambda: headed(lambda s, y: sum(one for one in y)), "must keep the batch, got a loop"),
    "mean over the batch": (lambda: headed(lambda s, y: y.mean((0, 2, 3))), "must keep the batch, got it reduced"),
    "tied weights": (tied, r"b \(Conv2d\): must have weights of its own, got the weight of a \(Conv2d\)"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(5, 3), nn.AdaptiveAvgPool2d(1)),
        r"0 \(LazyConv2d\): must have its shape",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(Conv2d(3, 5, 3)), nn.AdaptiveAvgPool2d(1)),
        r"0 \(ParametrizedConv2d\): must have weight and bias alone",
    ),
    "indices": (
        lambda: pooled(lambda s, y: s.p(y)[0], p=nn.MaxPool2d(2, return_indices=True)),
        r"p \(MaxPool2d\): .*ind",
    ),
    "no convolution": (
        lambda: nn.Sequential(nn.Flatten(), Linear(768, 5)),
        r"1 \(Linear\): must tell channels from pos",
    ),
    "layers that do not fit": (
        lambda: nn.Sequential(Conv2d(3, 8, 3), Conv2d(9, 5, 3)),
        r"1 \(Conv2d\): must be given the 9 channels it is made for, got 8",
    ),
    "what raises": (
        lambda: pooled(lambda s, y: y / (1 - 1) if 1 // 0 else y),
        "Net: must run on any input, got ZeroDiv",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_folded_is_refused_in_one_line_by_name(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as raised:
        fold_cnn(make(), 4)
    assert "\n" not in str(raised.value)


def test_groups_that_divide_a_concatenation_before_folding_alone_are_refused() -> None:
    model = Net(
        lambda s, x: s.grouped(torch.cat([s.a(x), s.b(x)], 1)).mean((2, 3)),
        a=Conv2d(3, 5, 1),
        b=Conv2d(3, 3, 1),
        grouped=Conv2d(8, 4, 1, groups=4),
    )
    assert fold_cnn(model, 4)(torch.randn(2, 12, 8, 8)).shape == (2, 16)
    with pytest.raises(
        ModelError, match=r"grouped \(Conv2d\): must have widths that its 4 groups divide, got 11 and 8"
    ):
        fold_cnn(model, 2)
