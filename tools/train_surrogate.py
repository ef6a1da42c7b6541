"""Train a hydrogen/air combustion surrogate MLP in the condensing regime and export it to ONNX.

    pip install . --group train && python tools/train_surrogate.py [--seed 0] [--out models/surrogate_h2.onnx]

Cantera integrates constant-pressure ignitions with its h2o2.yaml mechanism. From states sampled along these
trajectories the network predicts the change over one microsecond. Inputs: T, ln p and the Box-Cox transformed
mass fractions; outputs: the change of T and of the transformed mass fractions. Both are standardized outside
of the graph; the file's metadata has their names, means and deviations. Test states come from ignitions of
their own, never seen in training.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass

import cantera as ct
import numpy as np
import numpy.typing as npt
from _training import (
    FitSettings,
    Split,
    fit,
    initialize_small,
    make_deterministic,
    parse_arguments,
    save_model,
)
from torch import as_tensor, float32, nn

Array = npt.NDArray[np.float64]

MECHANISM = "h2o2.yaml"
TIME_STEP = 1e-6
DURATION = 1.5e-3
TRAIN_IGNITIONS, TEST_IGNITIONS, STATES_PER_IGNITION = 900, 100, 50
TEST_SAMPLES = 4000
BOX_COX_EXPONENT = 0.1
WIDTHS = (256, 256, 128)
GAMMA = 2.0
SETTINGS = FitSettings(optimizer="adam", steps=18000, batch_size=1024, learning_rate=2e-3)


@dataclass(frozen=True)
class Scaling:
    """Names, means and deviations of the columns of a table."""

    names: tuple[str, ...]
    mean: Array
    std: Array

    @classmethod
    def of(cls, names: tuple[str, ...], table: Array) -> "Scaling":
        return cls(names, table.mean(axis=0), table.std(axis=0))

    def apply(self, table: Array) -> Array:
        return (table - self.mean) / self.std

    def to_json(self) -> str:
        return json.dumps({"names": self.names, "mean": self.mean.tolist(), "std": self.std.tolist()})


def ignite(rng: np.random.Generator) -> tuple[Array, Array]:
    """Integrate one random mixture; return states (T, p, mass fractions) and the same one time step later."""
    gas = ct.Solution(MECHANISM)
    pressure = ct.one_atm * np.exp(rng.uniform(np.log(0.5), np.log(5.0)))
    gas.TP = rng.uniform(1050.0, 1800.0), pressure
    gas.set_equivalence_ratio(np.exp(rng.uniform(np.log(0.3), np.log(3.0))), "H2", "O2:1, N2:3.76")
    fresh = gas.TPY
    times = rng.choice(integrator_times(gas), STATES_PER_IGNITION, replace=False)
    gas.TPY = fresh
    network = make_network(gas)
    states = {}
    for time in np.unique([times, times + TIME_STEP]):
        network.advance(time)
        states[time] = np.array([gas.T, pressure, *gas.Y])
    return np.array([states[t] for t in times]), np.array([states[t + TIME_STEP] for t in times])


def make_network(gas: ct.Solution) -> ct.ReactorNet:
    """Return the integrator of a constant-pressure reactor that holds the gas object."""
    network = ct.ReactorNet([ct.IdealGasConstPressureReactor(gas, clone=False)])
    network.rtol, network.atol = 1e-8, 1e-18
    return network


def integrator_times(gas: ct.Solution) -> Array:
    """Return the times that the adaptive integrator visits: dense where the state changes fast."""
    network = make_network(gas)
    network.advance(TIME_STEP)
    times = []
    while network.time < DURATION:
        times.append(network.step())
    return np.array(times)


def box_cox(fractions: Array) -> Array:
    return (np.maximum(fractions, 0.0) ** BOX_COX_EXPONENT - 1.0) / BOX_COX_EXPONENT


def features(states: Array) -> Array:
    return np.column_stack([states[:, 0], np.log(states[:, 1]), box_cox(states[:, 2:])])


def make_data(rng: np.random.Generator) -> tuple[Split, dict[str, str]]:
    """Return the standardized samples and the description of the scaling."""
    ignitions = [ignite(rng) for _ in range(TRAIN_IGNITIONS + TEST_IGNITIONS)]
    before, after = (np.concatenate(states) for states in zip(*ignitions, strict=True))
    inputs, changes = features(before), features(after) - features(before)
    names = np.array(["T", "ln p", *(f"BCT Y({name})" for name in ct.Solution(MECHANISM).species_names)])
    count = TRAIN_IGNITIONS * STATES_PER_IGNITION
    used, changing = inputs[:count].std(axis=0) > 1e-6, changes[:count].std(axis=0) > 1e-6
    inputs, changes = inputs[:, used], changes[:, changing]
    x_scaling = Scaling.of(tuple(names[used]), inputs[:count])
    y_scaling = Scaling.of(tuple(f"change of {name}" for name in names[changing]), changes[:count])
    x, y = x_scaling.apply(inputs), y_scaling.apply(changes)
    test = count + rng.choice(len(x) - count, TEST_SAMPLES, replace=False)
    split = Split(x[:count], y[:count], x[test].astype(np.float32), y[test].astype(np.float32))
    return split, {"input_scaling": x_scaling.to_json(), "output_scaling": y_scaling.to_json()}


def build(inputs: int, outputs: int) -> nn.Sequential:
    """Return the fully connected ReLU network."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    size = inputs
    for index, width in enumerate(WIDTHS, start=1):
        layers[f"linear{index}"] = nn.Linear(size, width)
        layers[f"relu{index}"] = nn.ReLU()
        size = width
    layers["last"] = nn.Linear(size, outputs)
    return nn.Sequential(layers)


def main() -> None:
    """Generate the data, train, export."""
    arguments = parse_arguments(__doc__, "surrogate_h2.onnx")
    make_deterministic(arguments.seed)
    split, metadata = make_data(np.random.default_rng(arguments.seed))
    inputs, targets = (as_tensor(a, dtype=float32) for a in (split.train_inputs, split.train_targets))
    model = build(inputs.shape[1], targets.shape[1])
    initialize_small(model, GAMMA)
    fit(model, inputs, targets, nn.MSELoss(), SETTINGS)
    save_model(model, split, arguments.out, metadata)


if __name__ == "__main__":
    main()
