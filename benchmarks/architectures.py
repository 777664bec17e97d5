"""Small CNNs as people write them, none of which knows of folding: what `specialized.fold_cnn` is tried on.

Each maps (B, 3, H, W) to (B, classes), for pictures of about 32x32 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MobileNet(nn.Module):
    """Inverted residuals with depthwise convolutions, after MobileNetV2."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)
        )
        self.blocks = nn.Sequential(
            InvertedResidual(width, width, stride=1),
            InvertedResidual(width, 2 * width, stride=2),
            InvertedResidual(2 * width, 2 * width, stride=1),
        )
        self.head = nn.Conv2d(2 * width, 4 * width, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(4 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.head(self.blocks(self.stem(x))))
        return self.classifier(x.mean([2, 3]))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int, expand: int = 4) -> None:
        super().__init__()
        inner = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class SqueezeNet(nn.Module):
    """Fire modules; the last layer is a convolution, pooled over the whole map."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            Fire(width, width, 2 * width),
            Fire(4 * width, width, 2 * width),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(4 * width, width, 2 * width),
        )
        self.classifier = nn.Sequential(nn.Conv2d(4 * width, classes, 1), nn.AdaptiveAvgPool2d((1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


class DenseNet(nn.Module):
    """Layers that see all maps before them."""

    def __init__(self, classes: int, growth: int = 12, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
        width = 2 * growth
        blocks: list[nn.Module] = []
        for last in (False, True):
            blocks.append(DenseBlock(width, growth, layers))
            width += layers * growth
            if not last:
                blocks.append(Transition(width, width // 2))
                width //= 2
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.norm(x))
        x = F.avg_pool2d(x, x.size()[2:])
        return self.classifier(x.view(x.size(0), -1))


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + k * growth),
                nn.ReLU(),
                nn.Conv2d(inputs + k * growth, growth, 3, padding=1, bias=False),
            )
            for k in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(2, 2)
        )


class Vgg(nn.Module):
    """Plain convolutions with batch normalisation, and a dense head."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in (width, 2 * width, 4 * width):
            for _ in range(2):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(4 * width * 3 * 3, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, start_dim=1))


class ResNet(nn.Module):
    """Bottlenecks with shortcuts. Grouped convolutions make it a ResNeXt, `squeeze` an SE-ResNet."""

    def __init__(self, classes: int, width: int = 16, groups: int = 1, squeeze: bool = False) -> None:
        super().__init__()
        self.inputs = width
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(width, 2, 1, groups, squeeze)
        self.layer2 = self._stage(2 * width, 2, 2, groups, squeeze)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inputs, classes)

    def _stage(self, width: int, blocks: int, stride: int, groups: int, squeeze: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for block in range(blocks):
            layers.append(Bottleneck(self.inputs, width, stride if block == 0 else 1, groups, squeeze))
            self.inputs = 4 * width
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = self.avgpool(x)
        x = x.reshape(x.shape[0], -1)
        return self.fc(x)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, groups: int, squeeze: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcite(outputs) if squeeze else nn.Identity()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        out += identity
        return F.relu(out)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Inception(nn.Module):
    """Branches with filters of several sizes, joined."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = BasicConv(3, 2 * width, 3, stride=2, padding=1)
        self.mixed1 = Mixed(2 * width, width)
        self.mixed2 = Mixed(4 * width, width)
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixed2(F.max_pool2d(self.mixed1(self.stem(x)), kernel_size=3, stride=2))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.fc(self.dropout(x).flatten(1))


class BasicConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv(inputs, width, 1)
        self.branch3x3 = nn.Sequential(BasicConv(inputs, width // 2, 1), BasicConv(width // 2, width, 3, padding=1))
        self.branch5x5 = nn.Sequential(BasicConv(inputs, width // 2, 1), BasicConv(width // 2, width, 5, padding=2))
        self.branch_pool = BasicConv(inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(pooled)], 1)
