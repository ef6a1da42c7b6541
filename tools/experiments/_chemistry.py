"""Ignitions of a fuel in air at constant pressure, with Cantera: states, one step later, and ignition delays.

A state is a row of T [K], p [Pa] and the mass fractions of the mechanism's species.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cantera as ct
import numpy as np

Array = np.ndarray[Any, Any]

OXIDIZER = "O2:1, N2:3.76"
EXPONENT = 0.1
"""Of Box-Cox."""

RELATIVE, ABSOLUTE = 1e-8, 1e-18
"""Tolerances of the integrator."""

IGNITED = 400.0
"""Kelvin that a mixture must gain to count as ignited."""


@dataclass(frozen=True)
class Sampling:
    """Which ignitions are integrated, and what is taken of each.

    Attributes:
        mechanism: a file that Cantera reads.
        fuel: a species.
        step: seconds over which the change is learned.
        ignitions: how many.
        states: taken of each: a third where the integrator stops, a third evenly in time to 1.2 times the delay, a
            third evenly from there to 3 times.
        temperatures: of the fresh mixture, drawn evenly [K].
        pressures: drawn evenly in the logarithm [atm].
        ratios: equivalence ratios, drawn evenly in the logarithm.
        seconds: an ignition is followed to three times its delay, at most so long.
        heat: deviation of T, relative, of a perturbed state.
        shift: deviation of the transformed fractions of a perturbed state.
        later: a perturbed state is followed so many steps at most, to a second pair (evenly in the logarithm).
    """

    mechanism: str
    fuel: str = "CH4"
    step: float = 1e-5
    ignitions: int = 120
    states: int = 60
    temperatures: tuple[float, float] = (1300.0, 1800.0)
    pressures: tuple[float, float] = (0.7, 3.0)
    ratios: tuple[float, float] = (0.4, 2.5)
    seconds: float = 0.03
    heat: float = 0.01
    shift: float = 0.1
    later: int = 100


def box_cox(fractions: Array) -> Array:
    """(y^λ - 1) / λ of fractions [...]."""
    return np.asarray((np.maximum(fractions, 0.0) ** EXPONENT - 1.0) / EXPONENT)


def inverse(values: Array) -> Array:
    """Fractions [...] of transformed ones."""
    return np.asarray(np.clip(1.0 + EXPONENT * values, 0.0, 1.0) ** (1 / EXPONENT))


def features(states: Array) -> Array:
    """[n, 2 + species] T, ln p and transformed fractions of states."""
    return np.column_stack([states[:, 0], np.log(states[:, 1]), box_cox(states[:, 2:])])


def states_of(values: Array) -> Array:
    """[n, 2 + species] states of features; fractions add up to one."""
    fractions = inverse(values[:, 2:])
    return np.column_stack([values[:, 0], np.exp(values[:, 1]), fractions / fractions.sum(1, keepdims=True)])


class Kinetics:
    """A mechanism and its integrator."""

    def __init__(self, mechanism: str) -> None:
        self.gas = ct.Solution(mechanism)
        self.names = ("T", "ln p", *(f"BCT Y({name})" for name in self.gas.species_names))

    def fresh(self, temperature: float, pressure: float, ratio: float, fuel: str) -> Array:
        """The state of an unburnt mixture; the pressure in atm."""
        self.gas.TP = temperature, pressure * ct.one_atm
        self.gas.set_equivalence_ratio(ratio, fuel, OXIDIZER)
        return np.array([self.gas.T, self.gas.P, *self.gas.Y])

    def reactor(self, state: Array) -> Any:
        """An integrator that starts at a state."""
        self.gas.TPY = state[0], state[1], state[2:]
        network = ct.ReactorNet([ct.IdealGasConstPressureReactor(self.gas, clone=False)])
        network.rtol, network.atol = RELATIVE, ABSOLUTE
        return network

    def now(self) -> Array:
        """The state that the integrator has come to."""
        return np.array([self.gas.T, self.gas.P, *self.gas.Y])

    def at(self, state: Array, times: Array) -> Array:
        """[times, 2 + species] states at rising times after a state."""
        network, found = self.reactor(state), []
        for time in times:
            network.advance(time)
            found.append(self.now())
        return np.array(found)

    def visited(self, state: Array, seconds: float) -> tuple[Array, float]:
        """(times that the adaptive integrator visits, to three times the delay; the delay)."""
        network, times, heat = self.reactor(state), [0.0], [state[0]]
        fastest, when, end = 0.0, 0.0, seconds
        while times[-1] < end:
            times.append(network.step())
            heat.append(self.gas.T)
            rate = (heat[-1] - heat[-2]) / (times[-1] - times[-2])
            if rate > fastest:
                fastest, when = rate, times[-1]
            end = min(seconds, max(3 * when, 1e-4)) if heat[-1] > state[0] + IGNITED else seconds
        return np.array(times), when


def ignition(kinetics: Kinetics, sampling: Sampling, rng: np.random.Generator) -> tuple[Array, Array]:
    """States [n, 2 + species] of one random ignition, as they are and perturbed, and the same one step later."""
    pressure, ratio = (float(np.exp(rng.uniform(*np.log(span)))) for span in (sampling.pressures, sampling.ratios))
    fresh = kinetics.fresh(rng.uniform(*sampling.temperatures), pressure, ratio, sampling.fuel)
    visited, when = kinetics.visited(fresh, sampling.seconds)
    visited = visited[visited > sampling.step]
    third = sampling.states // 3
    even = [sampling.step + when * rng.uniform(*span, third) for span in ((0.0, 1.2), (1.2, 3.0))]
    times = np.concatenate([rng.choice(visited, sampling.states - 2 * third), *even])
    both, place = np.unique(np.concatenate([times, times + sampling.step]), return_inverse=True)
    found = kinetics.at(fresh, both)
    before, after = found[place[: len(times)]], found[place[len(times) :]]
    pairs = [(before, after), *_neighbours(kinetics, sampling, before, rng)]
    return np.concatenate([first for first, _ in pairs]), np.concatenate([second for _, second in pairs])


def _neighbours(
    kinetics: Kinetics, sampling: Sampling, states: Array, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Pairs around states: each is moved at random, and taken at once and a random while later."""
    moved = features(states)
    moved[:, 0] *= 1 + sampling.heat * rng.standard_normal(len(moved))
    moved[:, 2:] += sampling.shift * rng.standard_normal((len(moved), moved.shape[1] - 2))
    for state in states_of(moved):
        wait = sampling.step * float(np.exp(rng.uniform(np.log(2), np.log(sampling.later))))
        found = kinetics.at(state, np.array([sampling.step, wait, wait + sampling.step]))
        yield np.stack([state, found[1]]), np.stack([found[0], found[2]])


def sample(sampling: Sampling, seed: int) -> tuple[Array, Array, Array]:
    """(states, states one step later, the ignition of each) of all ignitions."""
    kinetics, rng = Kinetics(sampling.mechanism), np.random.default_rng(seed)
    pairs = [ignition(kinetics, sampling, rng) for _ in range(sampling.ignitions)]
    before, after = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return before, after, np.repeat(np.arange(len(pairs)), [len(first) for first, _ in pairs])


def delay(temperatures: Array, step: float) -> Array:
    """[n] times of the steepest rise [s] of temperatures [steps, n], one every `step`."""
    return np.asarray((np.diff(temperatures, axis=0).argmax(0) + 0.5) * step)
