"""The user's own module takes the shapes of its condensed file, and gives its weights back."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_condense as oc
from onnx_condense.errors import InputError, VerificationError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnx_condense.torch import load_state_dict, shrink, state_of, written_back  # noqa: E402


class Network(nn.Module):
    """Convolutions of all kinds, normalization, a classifier; `flat` is the width that forward writes down."""

    def __init__(self, flat: int | None = None) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.point, self.slope = nn.Conv2d(8, 12, 1), nn.PReLU(12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.hidden, self.last = nn.Linear(6 * 16, 10), nn.Linear(10, 4)
        self.flat = flat

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm2(self.depthwise(torch.relu(self.norm1(self.first(x))))))
        x = torch.relu(self.up(self.slope(self.point(x))))
        x = x.reshape(-1, self.flat) if self.flat else x.flatten(1)
        return self.last(torch.relu(self.hidden(x)))


def condensing(module: Any, seed: int = 0) -> Any:
    """The module with statistics of its own, and half of each hidden layer's rows near the other half."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - (0 if tensor.ndim < 2 else 0.5))
        for layer in ("first", "depthwise", "point", "hidden"):
            rows = getattr(module, layer).weight
            rows[len(rows) // 2 :] = rows[: len(rows) // 2] * 1.5
        for layer in ("point", "hidden"):
            getattr(module, layer).bias[:] = 0
        for name in ("weight", "bias", "running_mean", "running_var"):
            for norm in (module.norm1, module.norm2):
                values = getattr(norm, name)
                values[4:] = values[:4] * (2.25 if name == "running_var" else 1.5 if name == "running_mean" else 1)
        module.slope.weight[6:] = module.slope.weight[:6]
    return module.eval()


def export(module: Any, x: Any, folding: bool = False) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        given = {"dynamo": False, "input_names": ["x"], "opset_version": 17}
        torch.onnx.export(module, (x,), file, **given, **({} if folding else kept))
    return onnx.load_from_string(file.getvalue())


IMAGES = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
CHECKS = np.random.default_rng(1).standard_normal((5, 1, 3, 2, 2)).astype(np.float32)


def condensed(module: Any, threshold: float = 0.95, x: Any = None) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    original = export(module, torch.from_numpy(IMAGES) if x is None else x)
    return original, oc.condense(original, oc.Options(threshold=threshold, align=1)).model


def same(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Whether two models have the same nodes and the same initializers."""
    one, other = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (a, b))
    assert one.keys() == other.keys()
    return a.graph.node == b.graph.node and all(np.array_equal(one[name], other[name]) for name in one)


def differs(module: Any, model: onnx.ModelProto) -> float:
    from onnx_condense.model.runtime import run, session

    active, worst = session(model), 0.0
    for x in CHECKS:
        with torch.no_grad():
            got, wanted = module(torch.from_numpy(x)).numpy(), run(active, None, {"x": x})[0]
        worst = max(worst, float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)))
    return worst


def test_a_module_takes_the_shapes_of_its_file() -> None:
    module = condensing(Network())
    original, small_file = condensed(module)
    small = shrink(copy.deepcopy(module), small_file, original=original)
    assert (small.first.out_channels, small.depthwise.groups, small.point.in_channels) == (4, 4, 4)
    assert small.norm1.num_features == small.norm2.num_features == 4
    assert (small.slope.num_parameters, small.hidden.out_features, small.last.in_features) == (6, 5, 5)
    assert differs(small, small_file) < 1e-5


def test_a_layer_gets_the_bias_that_its_file_has() -> None:
    module = condensing(Network())
    with torch.no_grad():
        module.first.weight[:4] += 0.2 * torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    original, small_file = condensed(module, 0.7)
    small = shrink(module, small_file, original=original)
    assert small.depthwise.bias is not None or small.first.bias is not None or small.point.bias is not None
    assert differs(small, small_file) < 1e-5


def test_training_goes_on_and_comes_back() -> None:
    module = condensing(Network())
    original, small_file = condensed(module)
    small = shrink(module, small_file, original=original)
    assert same(written_back(small, small_file), small_file)
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(torch.from_numpy(np.concatenate(CHECKS))).square().mean().backward()
    optimizer.step()
    small.eval()
    back = written_back(small, small_file)
    assert [n.output for n in back.graph.node] == [n.output for n in small_file.graph.node]
    assert differs(small, back) < 1e-5 < differs(small, small_file)


def test_a_state_dict_of_a_shrunken_module_loads() -> None:
    module = condensing(Network())
    original, small_file = condensed(module)
    small = shrink(module, small_file, original=original)
    again = load_state_dict(Network().eval(), small.state_dict())
    x = torch.from_numpy(CHECKS[0])
    assert torch.equal(again(x), small(x))


class Tokens(nn.Module):
    """Linear layers of tensors of rank 3, which exporters write as MatMul with transposed weights of other names."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.last(torch.relu(self.hidden(x)))


@pytest.mark.parametrize("folding", [True, False])
def test_renamed_weights_are_found(folding: bool) -> None:
    module, x = Tokens().eval(), torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.hidden.weight[4:], module.hidden.bias[4:] = 2 * module.hidden.weight[:4], 2 * module.hidden.bias[:4]
    original = export(module, x, folding)
    assert ("hidden.weight" in {t.name for t in original.graph.initializer}) != folding
    small_file = oc.condense(original, oc.Options(lossless=True, align=1)).model
    with pytest.raises(InputError, match=r"hidden\.weight is not in the condensed file: .* original="):
        shrink(copy.deepcopy(module), small_file)
    state = state_of(small_file, module, original)
    small = shrink(module, small_file, original=original)
    assert small.hidden.out_features == 4
    assert same(written_back(small, small_file), small_file)
    assert same(written_back(copy.deepcopy(small), small_file, state), small_file)


def test_a_width_in_forward_is_named() -> None:
    module = condensing(Network(flat=96))
    with torch.no_grad():  # what the flattened tensor holds shrinks
        module.up.weight[:, 3:], module.up.bias[3:] = module.up.weight[:, :3], module.up.bias[:3]
    original, small_file = condensed(module)
    with pytest.raises(VerificationError, match=r"after up, which gave \[1, 3, 4, 4\].*view\(-1, 512\)"):
        shrink(module, small_file, original=original)


def test_another_forward_is_no_match() -> None:
    module = condensing(Network())
    original, small_file = condensed(module)
    module.norm2.eps = 1.0
    with pytest.raises(VerificationError, match="is not the file's"):
        shrink(module, small_file, original=original)


def test_a_layer_of_an_unknown_kind_is_refused() -> None:
    class Own(nn.Linear):
        pass

    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8, 6, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x, self.weight)

    module = nn.Sequential(Strange(), nn.ReLU(), Own(8, 3)).eval()
    with torch.no_grad():
        module[0].weight[4:] = module[0].weight[:4]
    original, small_file = condensed(module, 0.99, torch.rand(2, 6))
    with pytest.raises(InputError, match=r"0 \(Strange\) is smaller in the file"):
        shrink(module, small_file, original=original)


def test_a_layer_that_is_two_in_the_file_is_named() -> None:
    """Weights that are exactly of a low rank become a pair of factors, which no width of a module expresses."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 3)).eval()
    with torch.no_grad():
        rows, columns = torch.rand(32, 2, generator=generator) - 0.5, torch.rand(2, 24, generator=generator) - 0.5
        module[0].weight[:] = rows @ columns
    original = export(module, torch.rand(2, 24))
    made = {
        only: oc.condense(original, oc.Options(lossless=True, align=1, widths_only=only)).model
        for only in (False, True)
    }
    with pytest.raises(InputError, match=r"^0 is a pair of factors in the file, two layers: .* --widths-only"):
        shrink(copy.deepcopy(module), made[False])
    assert shrink(copy.deepcopy(module), made[True])[0].out_features == 32


def test_batchnorm_folded_by_the_exporter_is_said(tmp_path: Path) -> None:
    module = condensing(Network())
    file = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.from_numpy(IMAGES),), str(file), dynamo=False, opset_version=17)
    with pytest.raises(InputError, match=r"is not in the condensed file: export with .* BatchNormalization kept"):
        shrink(module, file)
