"""How fast the search is on the largest graph, and its NSGA-II beside pymoo's.

    python benchmarks/search_speed.py [--population 512] [--generations 40]

The full-size SDXL has about 800 weight layers; with 10 options each that is the largest space a user meets.
Sizes and damages are drawn at random, because they cost the same as real ones. Three measurements, all in one
run, in processor time on one thread:

- a generation of our NSGA-II outside the predictor (which answers at once): selection, crossover, mutation,
  repair to the byte budget, sizes, the archive; the predictor is timed afterwards on the batches that it was
  given, because reading the clock costs milliseconds on some machines, and the fastest of three runs counts;
- the same generations of pymoo's NSGA-II (`pip install pymoo`, used here alone) over the same problem:
  integer variables, uniform crossover, mutation of one gene on average, the budget as a constraint;
- a whole search with a Gaussian process on responses of 480 records as predictor.
"""

import argparse
import importlib.util
import time
from typing import Any

import numpy as np
import torch

from qsd.quantizers.options import parse_options
from qsd.ranker.process import Kernel, ResponseProcess
from qsd.search import METHODS, Budget, Posterior, SearchSettings, Space, Task
from qsd.search.evaluator import Evaluator
from qsd.search.methods.evolution import random_choices
from qsd.search.nsga2 import evolve
from qsd.search.posterior import Certain
from qsd.search.repair import Downgrades, repair

TABLE = (
    "uaq-2",
    "uaq-3",
    "uaq-4",
    "uaq-5",
    "uaq-6",
    "kmeans_c-3",
    "kmeans_c-4",
    "kmeans_a-3",
    "kmeans_a-4",
    "uaq-8",
)
MAX_BITS = 3.5
REPEATS = 3


class Responding:
    """A process on random responses, as a ranker has one of a probed store with 480 labels."""

    def __init__(self, space: Space, coordinates: int = 256, spaces: int = 3, labels: int = 480) -> None:
        rng = np.random.default_rng(0)
        shape = (spaces, *space.num_bytes.shape, coordinates)
        alone = torch.from_numpy(rng.normal(size=shape) / np.arange(1, coordinates + 1))
        configs = random_choices(space, labels, 1)
        kernel = Kernel(
            trend=np.full(spaces, 0.3),
            length_mean=np.zeros(spaces),
            length_std=np.ones(spaces),
            form=np.zeros(spaces),
            process=0.5,
            scale=np.full((spaces, coordinates), 1e-4),
            noise=0.03,
        )
        self.process = ResponseProcess(alone, configs, rng.normal(size=labels), kernel)
        self.seconds = 0.0

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        start = time.process_time()
        mean, variance = self.process(configs)
        self.seconds += time.process_time() - start
        return Posterior(mean, variance)


class Damage:
    """Minus the summed damage of configs; remembers the batches, so that they can be timed alone."""

    def __init__(self, damage: np.ndarray) -> None:
        self.damage, self.units = damage, np.arange(len(damage))
        self.batches: list[np.ndarray] = []

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        self.batches.append(configs)
        return self._of(configs)

    def seconds(self) -> float:
        """What predicting all batches takes."""
        start = time.process_time()
        for configs in self.batches:
            self._of(configs)
        return time.process_time() - start

    def _of(self, configs: np.ndarray) -> np.ndarray:
        return -self.damage[self.units, configs].sum(axis=1)


def problem(layers: int) -> tuple[Space, Budget]:
    """Random sizes of `layers` layers with ten options."""
    options = parse_options(list(TABLE))
    rng = np.random.default_rng(0)
    weights = rng.choice([320 * 320, 640 * 640, 1280 * 1280, 1280 * 5120], size=layers)
    bits = np.array([2.2, 3.2, 4.2, 5.2, 6.2, 3.4, 4.6, 3.01, 4.02, 8.2])
    sizes = (weights[:, None] * bits / 8).astype(np.int64) + rng.integers(0, 64, size=(layers, len(options)))
    space = Space.make(sizes, weights, options)
    return space, Budget.make(space.num_bytes, space.num_weights, max_bits=MAX_BITS)


def ours(
    space: Space, budget: Budget, damage: np.ndarray, population: int, generations: int
) -> dict[str, float]:
    """Seconds per generation of our NSGA-II, and the best quality."""
    rng = np.random.default_rng(0)
    downgrades = Downgrades.make(-damage, space.num_bytes)
    quality = Damage(damage)
    evaluator = Evaluator(Certain(quality), 0.5)

    def fit(configs: np.ndarray) -> np.ndarray:
        return repair(configs, space.num_bytes, budget.max_bytes, downgrades, rng)

    seeds = random_choices(space, population, 0)
    evolve(evaluator, seeds, space.num_bytes, fit, rng, population, 1)  # compiles
    times = []
    for _ in range(REPEATS):
        quality.batches.clear()
        start = time.process_time()
        found = evolve(evaluator, seeds, space.num_bytes, fit, rng, population, generations)
        times.append(time.process_time() - start - quality.seconds())
    return {"ms": 1e3 * min(times) / generations, "best": float(quality(found).max())}


def pymoos(
    space: Space, budget: Budget, damage: np.ndarray, population: int, generations: int
) -> dict[str, float]:
    """The same of pymoo's NSGA-II."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PolynomialMutation
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.optimize import minimize

    quality = Damage(damage)

    class Choice(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            highest = space.num_bytes.shape[1] - 1
            super().__init__(n_var=len(damage), n_obj=2, n_ieq_constr=1, xl=0, xu=highest, vtype=int)

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            cost, size = -quality(x), space.num_bytes[quality.units, x].sum(axis=1)
            out["F"] = np.stack([cost, size], axis=1)
            out["G"] = (size - budget.max_bytes)[:, None]

    algorithm = NSGA2(
        pop_size=population,
        sampling=random_choices(space, population, 0).astype(int),
        crossover=UniformCrossover(),
        mutation=PolynomialMutation(prob=1.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    times = []
    for _ in range(REPEATS):
        quality.batches.clear()
        start = time.process_time()
        result = minimize(Choice(), algorithm, ("n_gen", generations), seed=0, verbose=False)
        times.append(time.process_time() - start - quality.seconds())
    best = float("nan") if result.F is None else -float(np.atleast_2d(result.F)[:, 0].min())
    return {"ms": 1e3 * min(times) / generations, "best": best}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--population", type=int, default=512)
    parser.add_argument("--generations", type=int, default=40)
    parser.add_argument("--layers", type=int, default=800)
    parser.add_argument("--skip-search", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space, budget = problem(arguments.layers)
    damage = np.random.default_rng(1).gamma(1.0, size=(arguments.layers, 1)) * np.exp2(
        -np.array([2, 3, 4, 5, 6, 3.3, 4.3, 2.9, 3.9, 8.0])
    )
    counts = (arguments.population, arguments.generations)
    print(
        f"{arguments.layers} layers x {len(TABLE)} options, population {counts[0]}, {counts[1]} generations"
    )
    mine = ours(space, budget, damage, *counts)
    print(f"ours:  {mine['ms']:.2f} ms a generation outside the predictor, best {mine['best']:.2f}")
    if importlib.util.find_spec("pymoo"):
        other = pymoos(space, budget, damage, *counts)
        print(f"pymoo: {other['ms']:.2f} ms, best {other['best']:.2f}; {other['ms'] / mine['ms']:.1f} x ours")
    else:
        print("pymoo is not installed (`pip install pymoo`), so there is nothing beside it")
    if not arguments.skip_search:
        predictor = Responding(space)
        settings = SearchSettings(population=arguments.population, generations=arguments.generations)
        start = time.process_time()
        front = METHODS["evolution"](Task(space, budget, predictor, settings=settings))
        seconds = time.process_time() - start
        print(
            f"whole search over a process on responses: {seconds:.0f} s, of that predicting "
            f"{predictor.seconds:.0f} s ({front.meta.settings['evaluations']} configs)"
        )


if __name__ == "__main__":
    main()
