"""Folding follows a network's own code: what people write folds."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from specialized.foldcnn import fold_cnn
from tests.nets import DropPath, Net, headed, pooled


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = Linear(width, 4 * width), Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Cbam(nn.Module):
    """Attention to channels, then to places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Conv2d(width, width // 4, 1), nn.ReLU(), Conv2d(width // 4, width, 1))
        self.spatial = Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        mean, most = x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]
        return x * self.spatial(torch.cat([mean, most], 1)).sigmoid()


def gated(s: nn.Module, y: Tensor) -> Tensor:
    a, b = y.chunk(2, dim=1)
    return a * torch.sigmoid(b)


def pyramid(s: nn.Module, y: Tensor) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(y, n).flatten(1) for n in (1, 2, 4)], 1)


def unet(s: nn.Module, y: Tensor) -> Tensor:
    inner = F.relu(s.down(F.max_pool2d(y, 2)))
    up = s.up(inner) + F.interpolate(s.narrow(inner), size=y.shape[2:])
    return s.out(torch.cat([up, y], 1))


PIXELS = 16 * 16

FOLDS: dict[str, Callable[[], nn.Module]] = {
    "view(x.size(0), -1)": lambda: headed(lambda s, y: y.view(y.size(0), -1), 8 * PIXELS),
    "reshape(b, c*h*w)": lambda: headed(
        lambda s, y: y.reshape(y.size(0), y.size(1) * y.size(2) * y.size(3)), 8 * PIXELS
    ),
    "torch.flatten, BatchNorm1d": lambda: headed(
        lambda s, y: s.bn(torch.flatten(y, 1)), 8 * PIXELS, bn=nn.BatchNorm1d(8 * PIXELS)
    ),
    "x[:, :, 0, 0]": lambda: headed(lambda s, y: F.adaptive_avg_pool2d(y, 1)[:, :, 0, 0]),
    "x[..., 0, 0]": lambda: headed(lambda s, y: F.adaptive_avg_pool2d(y, 1)[..., 0, 0]),
    "squeeze()": lambda: headed(lambda s, y: F.adaptive_avg_pool2d(y, 1).squeeze()),
    "squeeze(-1).squeeze(-1)": lambda: headed(lambda s, y: s.p(y).squeeze(-1).squeeze(-1), p=nn.AvgPool2d(16)),
    "avg_pool2d(x, x.size()[2:])": lambda: headed(lambda s, y: F.avg_pool2d(y, y.size()[2:]).view(y.size(0), -1)),
    "view(-1, c)": lambda: headed(lambda s, y: F.adaptive_avg_pool2d(y, 1).view(-1, y.size(1))),
    "view(b, c, -1).mean(-1)": lambda: headed(lambda s, y: y.view(y.size(0), y.size(1), -1).mean(-1)),
    "flatten(2).transpose(1, 2)": lambda: headed(lambda s, y: y.flatten(2).transpose(1, 2).mean(dim=1)),
    "sum / (h*w)": lambda: headed(lambda s, y: y.sum((2, 3)) / (y.shape[2] * y.shape[3])),
    "max(dim=)": lambda: headed(lambda s, y: y.flatten(2).max(dim=2).values),
    "torch.min(x, dim=)": lambda: headed(lambda s, y: torch.min(y.flatten(2), dim=2)[0]),
    "amax": lambda: headed(lambda s, y: torch.amax(y, dim=(2, 3))),
    "spatial pyramid": lambda: headed(pyramid, 8 * 21),
    "excite by view(b, -1, 1, 1)": lambda: pooled(
        lambda s, y: y * s.e(y.mean((2, 3))).view(y.shape[0], -1, 1, 1).sigmoid(), e=Linear(8, 8)
    ),
    "excite by [:, :, None, None]": lambda: pooled(
        lambda s, y: y * s.e(y.mean((2, 3)))[:, :, None, None].sigmoid(), e=Linear(8, 8)
    ),
    "excite by unsqueeze": lambda: pooled(
        lambda s, y: y * F.hardsigmoid(s.e(y.mean((2, 3)))).unsqueeze(-1).unsqueeze(-1), e=Linear(8, 8)
    ),
    "stochastic depth": lambda: pooled(lambda s, y: y + s.d(y), d=DropPath(old=False)),
    "stochastic depth by torch.rand": lambda: pooled(lambda s, y: y + s.d(y), d=DropPath(old=True)),
    "noise": lambda: pooled(lambda s, y: y + 0.1 * torch.randn_like(y)),
    "convnext": lambda: pooled(lambda s, y: s.block(y), block=ConvNeXtBlock(8)),
    "attention to channels and places": lambda: pooled(lambda s, y: s.block(y), block=Cbam(8)),
    "gate": lambda: pooled(gated, 4),
    "maxout": lambda: pooled(lambda s, y: torch.max(s.a(y), s.b(y)), a=Conv2d(8, 8, 1), b=Conv2d(8, 8, 1)),
    "sum of a list": lambda: pooled(lambda s, y: sum([s.a(y), y]), a=Conv2d(8, 8, 1)),
    "used twice": lambda: pooled(lambda s, y: s.a(s.a(y)), a=Conv2d(8, 8, 3)),
    "u-net": lambda: pooled(
        unet,
        6,
        down=Conv2d(8, 12, 3, padding=1),
        up=nn.ConvTranspose2d(12, 8, 2, stride=2),
        narrow=Conv2d(12, 8, 1),
        out=Conv2d(16, 6, 3),
    ),
    "upsample": lambda: pooled(
        lambda s, y: s.u(s.a(y)) + y, a=Conv2d(8, 8, 2, stride=2), u=nn.Upsample(scale_factor=2)
    ),
    "padding": lambda: pooled(lambda s, y: F.pad(s.p(y), (1, 1, 1, 1)), p=nn.ReflectionPad2d(1)),
    "depthwise multiplier": lambda: pooled(
        lambda s, y: s.p(s.d(y)), 4, d=Conv2d(8, 16, 3, groups=8), p=Conv2d(16, 4, 1)
    ),
    "depthwise first": lambda: Net(
        lambda s, x: s.fc(s.p(s.d(x)).mean((2, 3))), d=Conv2d(3, 6, 3, groups=3), p=Conv2d(6, 4, 1), fc=Linear(4, 5)
    ),
    "layer norm over maps": lambda: pooled(lambda s, y: s.n(y), n=nn.LayerNorm([8, 16, 16])),
    "group norm and prelu": lambda: pooled(lambda s, y: s.p(s.n(y)), n=nn.GroupNorm(4, 8), p=nn.PReLU(8)),
    "one slope, local response": lambda: pooled(lambda s, y: s.p(s.n(y)), n=nn.LocalResponseNorm(3), p=nn.PReLU()),
    "the picture is reused": lambda: Net(
        lambda s, x: s.fc(torch.cat([x, s.conv(x)], 1).mean((2, 3))), conv=Conv2d(3, 8, 1), fc=Linear(11, 5)
    ),
    "residual on the picture": lambda: Net(
        lambda s, x: s.fc((x + s.conv(x)).mean((2, 3))), conv=Conv2d(3, 3, 1), fc=Linear(3, 5)
    ),
    "decided by equal widths": lambda: pooled(
        lambda s, y: y + s.a(y) if y.shape[1] == s.a(y).shape[1] else s.a(y), a=Conv2d(8, 8, 1)
    ),
    "assert": lambda: pooled(lambda s, y: y if y.dim() == len(y.shape) == 4 else 1 / 0),
    "sigmoid at the end": lambda: Net(
        lambda s, x: torch.sigmoid(s.fc(s.conv(x).mean((2, 3)))), conv=Conv2d(3, 8, 1), fc=Linear(8, 5)
    ),
    "map of answers": lambda: nn.Sequential(Conv2d(3, 8, 3), nn.Dropout2d(0.1), nn.SiLU(), Conv2d(8, 5, 1)),
    "in one dimension": lambda: Net(
        lambda s, x: s.b(F.relu(s.a(x.flatten(2)))).mean(2), a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 5, 3)
    ),
}


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize(("f", "multiple_of"), [(1, 1), (3, 1), (4, 8)])
def test_what_people_write_folds(name: str, f: int, multiple_of: int) -> None:
    model = FOLDS[name]()
    expected = model(torch.randn(2, 3, 16, 16)).shape
    folded = fold_cnn(model, f, multiple_of=multiple_of)
    output = folded(torch.randn(2, 3 * f, 16, 16))
    assert output.shape == (2, 5 * f, *expected[2:])
    output.square().sum().backward()
    assert [key for key, p in folded.named_parameters() if p.grad is None] == []
    assert folded.eval()(torch.randn(2, 3 * f, 16, 16)).shape == output.shape
