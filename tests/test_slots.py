"""A folded network that starts as f copies of one slot answers, picture by picture, as that one does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.architectures import DenseNet, Inception, MobileNet, ResNet, SqueezeNet, Vgg
from specialized.errors import ModelError
from specialized.foldcnn import Slots, fold_cnn
from specialized.models import MODELS, build
from tests.nets import Net

EXACT: dict[str, Callable[[], nn.Module]] = {
    "mobilenet": lambda: MobileNet(5),
    "squeezenet": lambda: SqueezeNet(5),
    "densenet": lambda: DenseNet(5),
    "vgg": lambda: Vgg(5),
    "resnet": lambda: ResNet(5),
    "senet": lambda: ResNet(5, squeeze=True),
    "inception": lambda: Inception(5),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2),
        nn.PReLU(12),
        nn.ConvTranspose2d(12, 10, 2, stride=2),
        nn.GELU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(40, 5),
    ),
}


@pytest.fixture(autouse=True)
def _settled() -> None:
    torch.manual_seed(0)


def lively(network: nn.Module) -> nn.Module:
    """Weights, biases and running statistics such that every channel matters."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor) / 3)
    return network.eval()


def answers(folded: nn.Module, narrow: nn.Module, f: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Logits of both for the same pictures, (groups, f, K)."""
    pictures = torch.randn(3, f, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        one = narrow.double()(pictures.flatten(0, 1))
        return folded.double().eval()(pictures.flatten(1, 2)).view(3, f, -1), one.view(3, f, -1)


@pytest.mark.parametrize("name", ["coral", "roundabout", "squad-count", "timer3", "coral-compound", "resnet18"])
@pytest.mark.parametrize("f", [1, 2, 3, 8])
def test_a_folded_family_acts_as_copies_of_one_slot(name: str, f: int) -> None:
    spec = MODELS[name]
    single, folded = (build(name, args={}, classes=spec.classes, fold=fold, input=spec.input) for fold in (1, f))
    slots = Slots(single, f)
    slots.fill(folded, lively(slots.network).state_dict())
    torch.testing.assert_close(*answers(folded, slots.network, f, spec.input))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("f", "multiple_of"), [(2, 1), (3, 1), (4, 1), (4, 8), (5, 1)])
def test_any_folded_network_acts_as_copies_of_one_slot(name: str, f: int, multiple_of: int) -> None:
    model = EXACT[name]()
    folded, slots = fold_cnn(model, f, multiple_of=multiple_of), Slots(model, f, multiple_of=multiple_of)
    slots.fill(folded, lively(slots.network).state_dict())
    torch.testing.assert_close(*answers(folded, slots.network, f, (32, 32)))


def test_what_no_slot_has_keeps_the_weights_it_had_and_all_weights_can_learn() -> None:
    single, folded = (build("coral", args={}, classes=2, fold=fold, input=(50, 50)) for fold in (1, 8))
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    slots = Slots(single, 8)  # 45 channels: 5 for each slot, and 5 more
    slots.fill(folded, slots.network.state_dict())
    first, second = (folded.state_dict()[f"features.{n}.weight"] for n in (0, 2))
    assert torch.equal(first[40:], before["features.0.weight"][40:])
    assert torch.equal(second[40:], before["features.2.weight"][40:])
    assert not second[:40, 40:].any()
    folded(torch.randn(4, 24, 50, 50)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in folded.parameters())


def test_constants_of_a_network_are_shared_out_too() -> None:
    model = Net(
        lambda self, x: self.head(torch.relu(self.first(x - self.mean) * self.gain).mean((2, 3))),
        first=nn.Conv2d(3, 5, 3),  # 10 when folded: 2 for each slot, and 2 more
        head=nn.Linear(5, 5),
        mean=torch.rand(1, 3, 1, 1),
        gain=nn.Parameter(torch.ones(1, 5, 1, 1)),
    )
    folded, slots = fold_cnn(model, 4), Slots(model, 4)
    before = folded.gain.detach().clone()
    slots.fill(folded, lively(slots.network).state_dict())
    torch.testing.assert_close(*answers(folded, slots.network, 4, (9, 9)))
    assert torch.equal(folded.gain[:, 8:].float(), before[:, 8:])


def test_a_map_over_all_channels_is_the_mean_of_what_the_slots_make_of_their_pictures() -> None:
    model = Net(
        lambda self, x: self.head((self.first(x) * self.gate(self.first(x)).sigmoid()).mean((2, 3))),
        first=nn.Conv2d(3, 8, 3),
        gate=nn.Conv2d(8, 1, 1),
        head=nn.Linear(8, 5),
    )
    folded, slots = fold_cnn(model, 4), Slots(model, 4)
    slots.fill(folded, lively(slots.network).state_dict())
    picture = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    one = slots.network.double()(picture)
    torch.testing.assert_close(folded.double().eval()(picture.repeat(1, 4, 1, 1)), one.repeat(1, 4))


def test_grouped_convolutions_keep_their_own_start() -> None:
    model = ResNet(5, groups=4)
    folded, slots = fold_cnn(model, 4), Slots(model, 4)
    grouped = [n for n, m in folded.named_modules() if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    before = {name: folded.get_submodule(name).weight.clone() for name in grouped}
    slots.fill(folded, slots.network.state_dict())
    assert grouped
    assert all(torch.equal(folded.get_submodule(name).weight, before[name]) for name in grouped)


def test_a_network_too_narrow_to_be_shared_is_refused_by_the_name_of_its_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5))
    with pytest.raises(ModelError, match=r"^0 \(Conv2d\): must leave channels for each of the 8 slots, got 5 in all"):
        Slots(model, 8)


def test_a_network_folded_otherwise_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    by_hand = nn.Sequential(nn.Conv2d(12, 20, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 20))
    slots = Slots(model, 4)
    with pytest.raises(ModelError, match=r"must be a tensor of shape \[16, 12, 3, 3\], as folding by rule makes it"):
        slots.fill(by_hand, slots.network.state_dict())
    with pytest.raises(ModelError, match=r"^4\.bias: must be in both networks, .* got more"):
        slots.fill(nn.Sequential(*fold_cnn(model, 4), nn.BatchNorm1d(20, affine=True)), slots.network.state_dict())
