"""Recovery: a rewritten network learns to answer as the original did, as a rule without labels."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import UsageError
from compress.evidence.distortion import OutputKind
from compress.evidence.store import EvidenceStore
from compress.execute.memory import keeping_freed
from compress.execute.torch_threads import threads_of_torch
from compress.passes.recover.pool import Batch, Pool

if TYPE_CHECKING:
    import torch

    from compress.execute.differentiable import TorchModel

Array = npt.NDArray[Any]
Teacher = Callable[[Batch], Mapping[str, Array]]

HELD_BACK, MOST_HELD_BACK = 0.1, 512
"""Share of the samples that are judged on instead of trained on, and their number at most."""

CHECKS = 6
"""How often the held-back samples are looked at."""

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""

MOST_RESTARTS = 3
"""After a loss that is not finite: from the best state so far, at half the learning rate."""

CHECKPOINT_SECONDS = 20.0
TIMED_STEPS = 5
"""Steps (after the first) from which the number of all steps is foretold."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained.

    Attributes:
        seconds: at the most; None: `epochs` alone decides.
        epochs: passes over the samples, at the most.
        fewest_steps: that are planned however few samples there are.
        batch: samples a step.
        rate: highest learning rate (AdamW), reached after the warm-up and left along a cosine.
        patience: checks without improvement on held-back samples after which training stops.
        hint_weight: of the intermediate layers in the loss at the beginning; it fades to zero.
        label_weight: of the right classes in the loss, where the pool has labels.
        frozen: initialisers that are not trained.
        seed: of order and split.
    """

    seconds: float | None = 300.0
    epochs: float = 20.0
    fewest_steps: int = 0
    batch: int = 64
    rate: float = 1e-3
    patience: int = 3
    hint_weight: float = 0.5
    label_weight: float = 0.1
    frozen: frozenset[str] = frozenset()
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Recovered:
    """A trained network and how it got there.

    Attributes:
        model: the state that was best on the held-back samples.
        before, after: distortion there (mean relative squared error of outputs) of the network as
            it came and as it is returned; `after` is never larger.
        steps: that were made, of how many were planned.
        seconds: spent, earlier interrupted attempts included.
    """

    model: ir.Model
    before: float
    after: float
    steps: int
    planned: int
    seconds: float


def recover(
    student: ir.Model,
    teacher: Teacher,
    pool: Pool,
    kinds: Mapping[str, OutputKind],
    schedule: Schedule,
    *,
    store: EvidenceStore,
    key: Sequence[object],
    hints: Mapping[str, str] | None = None,
    threads: int = 1,
    advance: Callable[[float], None] = lambda share: None,
) -> Recovered:
    """Trains a copy of `student` to give the teacher's outputs.

    Knowledge distillation (Hinton et al., 2015) with the outputs themselves as targets (squared
    error relative to each slice's variance: the project's distortion; divergence where outputs are
    probabilities) and, at first, with intermediate layers as hints (FitNets; TED). Labels are not
    needed; if the pool has them, the cross-entropy of the first output is a share of the loss.
    A run that is interrupted goes on from its last checkpoint; one that ended is found again.

    Args:
        student: canonical; all of its float initialisers are trained but those that are frozen.
        teacher: the original's outputs, and values that hints name, for a batch.
        kinds: what the outputs mean.
        key: what student, teacher and samples are, for the store.
        hints: value of the student -> value of the teacher that it should equal.
        threads: of torch.
        advance: told the share of the way that is done.

    Raises:
        ModelError: the student holds an operator that torch does not run here.
    """
    settings = dataclasses.asdict(schedule) | {"frozen": sorted(schedule.frozen)}
    name = store.key("recovery", *key, settings, dict(hints or {}))
    run = _Run(student, teacher, pool, kinds, schedule, dict(hints or {}), threads)
    found = store.get_arrays(name)
    if found is None:
        found = run.train(store, name, advance)
        store.put_arrays(name, found)
    return run.result(found)


class _Run:
    """One training: its data, its network, its state."""

    def __init__(
        self,
        student: ir.Model,
        teacher: Teacher,
        pool: Pool,
        kinds: Mapping[str, OutputKind],
        schedule: Schedule,
        hints: Mapping[str, str],
        threads: int,
    ) -> None:
        self.student, self.teacher, self.schedule, self.hints = student, teacher, schedule, hints
        self.kinds = {k: v for k, v in kinds.items() if v is not OutputKind.IGNORED}
        share = min(HELD_BACK, MOST_HELD_BACK / len(pool))
        self.training, self.held = pool.split(share, schedule.seed)
        self.pool, self.threads = pool, threads

    # --- state, as arrays -------------------------------------------------------------------------

    def result(self, arrays: Mapping[str, Array]) -> Recovered:
        before, after, steps, planned, seconds = (float(x) for x in arrays["figures"])
        model = self.student.clone()
        for name, array in arrays.items():
            if name.startswith("best:"):
                value = model.graph.initializers[name.removeprefix("best:")]
                value.const_value = ir.tensor(array, name=value.name)
        return Recovered(model, before, after, int(steps), int(planned), seconds)

    # --- training ---------------------------------------------------------------------------------

    def train(
        self, store: EvidenceStore, key: str, advance: Callable[[float], None]
    ) -> dict[str, Array]:
        with threads_of_torch(self.threads):
            import torch

            from compress.execute.differentiable import TorchModel

            module = TorchModel(self.student, trainable=self._trainable())
            module.to(memory_format=torch.channels_last)
            with keeping_freed():
                return self._loop(module, store, key, advance)

    def _trainable(self) -> list[str]:
        return [n for n in trainable(self.student) if n not in self.schedule.frozen]

    def _loop(
        self,
        module: TorchModel,
        store: EvidenceStore,
        key: str,
        advance: Callable[[float], None],
    ) -> dict[str, Array]:
        import torch

        names = self._trainable()
        parameters = {name: module.parameter(name) for name in names}
        optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": 1e-4},
                {"params": [p for p in parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.schedule.rate,
        )
        scales = self._scales()
        before = self._held_loss(module, scales)
        state = _State(best=before, initial=before, weights=_copy(parameters))
        state.load(store.get_arrays(_checkpoint(key)), parameters, optimiser)
        started = time.monotonic() - state.seconds
        saved = time.monotonic()
        draws = self.training.draws(self.schedule.batch, self.schedule.seed, start=state.step)
        if not state.planned:
            wanted = self.schedule.epochs * self.training.steps(self.schedule.batch)
            state.planned = max(1, math.ceil(wanted), self.schedule.fewest_steps)
        clock: list[float] = []
        while state.step < state.planned and names:
            tick = time.monotonic()
            rate = self.schedule.rate * state.damping * _cosine(state.step / state.planned)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = self._loss(module, next(draws), scales, state.step / state.planned)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), 5.0)
            if not (math.isfinite(float(loss.detach())) and math.isfinite(float(norm))):
                if not state.restart(parameters, optimiser):
                    break
                continue
            optimiser.step()
            state.step += 1
            clock.append(time.monotonic() - tick)
            state.seconds = time.monotonic() - started
            self._foretell(state, clock)
            if state.step % max(1, state.planned // CHECKS) == 0 or state.step == state.planned:
                held = self._held_loss(module, scales)
                if not state.judge(held, parameters) and state.stale >= self.schedule.patience:
                    break
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                store.put_arrays(_checkpoint(key), state.arrays(parameters, optimiser))
                saved = time.monotonic()
            advance(state.step / state.planned)
        state.seconds = time.monotonic() - started
        advance(1.0)
        figures = np.array([before, state.best, state.step, state.planned, state.seconds])
        return {f"best:{name}": array for name, array in state.weights.items()} | {
            "figures": figures
        }

    def _foretell(self, state: _State, clock: list[float]) -> None:
        """Plans as many steps as fit into the time, once it is known what one takes."""
        limit = self.schedule.seconds
        if limit is None:
            return
        if len(clock) == TIMED_STEPS + 1:
            fitting = int((limit - state.seconds) / float(np.median(clock[1:]))) + state.step
            state.planned = max(state.step, min(state.planned, fitting))
        elif state.seconds > limit:
            state.planned = state.step

    def _scales(self) -> dict[str, Array]:
        """Variance of every slice of the outputs and hints that the held-back samples have."""
        first: dict[str, list[Array]] = {}
        for batch in self.held.batches(self.schedule.batch):
            found = self.teacher(batch)
            for name in (*self.kinds, *self.hints.values()):
                first.setdefault(name, []).append(_rows(np.asarray(found[name], np.float64)))
        return {name: _variance(parts) for name, parts in first.items()}

    def _loss(
        self, module: TorchModel, batch: Batch, scales: Mapping[str, Array], done: float
    ) -> torch.Tensor:
        import torch

        wanted = self.teacher(batch)
        weight = self.schedule.hint_weight * max(0.0, 1.0 - 2.0 * done) if self.hints else 0.0
        names = [*self.kinds, *(self.hints if weight else ())]
        found = module(as_tensors(self.pool.feeds(batch)), outputs=names)
        total = torch.zeros(())
        for name, kind in self.kinds.items():
            total = total + _distance(found[name], wanted[name], kind, scales[name])
        total = total / max(1, len(self.kinds))
        if self.pool.labels is not None:
            name, kind = next(iter(self.kinds.items()))
            right = self.pool.labels[batch.numbers]
            share = self.schedule.label_weight
            total = (1 - share) * total + share * _cross_entropy(found[name], right, name, kind)
        if weight:
            parts = [
                _distance(found[own], wanted[other], OutputKind.VALUES, scales[other])
                for own, other in self.hints.items()
            ]
            total = total + weight * sum(parts, torch.zeros(())) / len(parts)
        return total

    def _held_loss(self, module: TorchModel, scales: Mapping[str, Array]) -> float:
        import torch

        losses, counts = [], []
        with torch.no_grad():
            for batch in self.held.batches(self.schedule.batch):
                losses.append(float(self._loss(module, batch, scales, 1.0)))
                counts.append(len(batch))
        found = float(np.average(losses, weights=counts))
        return found if math.isfinite(found) else math.inf


@dataclasses.dataclass(eq=False)
class _State:
    """Where a training stands."""

    best: float
    initial: float
    weights: dict[str, Array]
    step: int = 0
    planned: int = 0
    seconds: float = 0.0
    stale: int = 0
    damping: float = 1.0
    restarts: int = 0

    def judge(self, held: float, parameters: Mapping[str, torch.nn.Parameter]) -> bool:
        """Takes note of a loss on held-back samples; whether it is the best so far."""
        if held < self.best:
            self.best, self.stale, self.weights = held, 0, _copy(parameters)
            return True
        self.stale += 1
        return False

    def restart(
        self, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> bool:
        """Back to the best weights at half the rate; False after too many such."""
        _assign(parameters, self.weights)
        optimiser.state.clear()
        self.restarts += 1
        self.damping /= 2
        return self.restarts <= MOST_RESTARTS

    def arrays(
        self, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> dict[str, Array]:
        """All of it, for a checkpoint."""
        result = {f"best:{k}": v for k, v in self.weights.items()}
        result |= {f"now:{k}": v for k, v in _copy(parameters).items()}
        for name, parameter in parameters.items():
            moments = optimiser.state.get(parameter, {})
            result |= {f"{k}:{name}": np.asarray(v.numpy()).copy() for k, v in moments.items()}
        numbers = (self.best, self.initial, self.step, self.planned, self.seconds, self.stale)
        result["state"] = np.array([*numbers, self.damping, self.restarts], np.float64)
        return result

    def load(
        self,
        arrays: Mapping[str, Array] | None,
        parameters: Mapping[str, torch.nn.Parameter],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        """Goes on where a checkpoint stopped."""
        import torch

        if arrays is None:
            return
        self.weights = {name: arrays[f"best:{name}"] for name in parameters}
        _assign(parameters, {name: arrays[f"now:{name}"] for name in parameters})
        for name, parameter in parameters.items():
            if f"exp_avg:{name}" in arrays:
                optimiser.state[parameter] = {
                    k: torch.from_numpy(arrays[f"{k}:{name}"].copy())
                    for k in ("step", "exp_avg", "exp_avg_sq")
                }
        numbers = [float(x) for x in arrays["state"]]
        self.best, self.initial, self.seconds, self.damping = (numbers[i] for i in (0, 1, 4, 6))
        self.step, self.planned, self.stale, self.restarts = (int(numbers[i]) for i in (2, 3, 5, 7))


def trainable(model: ir.Model) -> list[str]:
    """Names of the float initialisers that are read, but for single numbers."""
    return [
        str(name)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and len(value.const_value.shape)
        and value.uses()
    ]


def _checkpoint(key: str) -> str:
    return f"checkpoint-{key.rpartition('-')[2]}"


def _cosine(done: float) -> float:
    if done < WARM_UP:
        return (done + 1e-3) / (WARM_UP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _rows(array: Array) -> Array:
    """(rows, slices): features on the last axis; the second one of feature maps."""
    if array.ndim < 2:
        return array.reshape(-1, 1)
    moved = np.moveaxis(array, 1, -1) if array.ndim > 3 else array
    return moved.reshape(-1, moved.shape[-1])


def _variance(parts: Sequence[Array]) -> Array:
    """Of each slice, with a floor: slices that hardly vary must not decide."""
    if len({part.shape[1] for part in parts}) > 1:
        parts = [part.reshape(-1, 1) for part in parts]
    rows = np.concatenate(parts)
    variance = np.var(rows, axis=0) if len(rows) > 1 else np.square(rows).mean(axis=0)
    floor = max(0.01 * float(variance.mean()), 1e-12)
    return np.asarray(np.maximum(variance, floor), np.float32)


def _distance(found: torch.Tensor, wanted: Array, kind: OutputKind, scale: Array) -> torch.Tensor:
    import torch

    target = torch.from_numpy(np.ascontiguousarray(wanted, np.float32))
    if kind is OutputKind.PROBABILITIES:
        p, q = target.clamp_min(1e-8), found.clamp_min(1e-8)
        return (p * (p.log() - q.log())).sum(-1).mean()
    difference = (found - target).square()
    if difference.ndim > 3:
        difference = difference.movedim(1, -1)
    if difference.ndim < 2:
        difference = difference.reshape(-1, 1)
    return (difference / torch.from_numpy(scale)).mean()


def _cross_entropy(
    found: torch.Tensor, right: npt.NDArray[np.int64], name: str, kind: OutputKind
) -> torch.Tensor:
    import torch

    rows = found.reshape(-1, found.shape[-1]) if found.ndim > 1 else found.reshape(1, -1)
    if len(rows) != len(right) or int(right.max()) >= rows.shape[-1]:
        raise UsageError(
            f"output {name} of shape {tuple(found.shape)} does not rate the classes of the labels "
            f"(up to {int(right.max())}): leave --labels out"
        )
    target = torch.from_numpy(right)
    if kind is OutputKind.PROBABILITIES:
        return torch.nn.functional.nll_loss(rows.clamp_min(1e-8).log(), target)
    return torch.nn.functional.cross_entropy(rows, target)


def as_tensors(feeds: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """What a network is fed, as torch has it fastest."""
    import torch

    result = {}
    for name, array in feeds.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if tensor.ndim == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        result[name] = tensor
    return result


def _copy(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(p.detach().numpy()).copy() for name, p in parameters.items()}


def _assign(parameters: Mapping[str, torch.nn.Parameter], weights: Mapping[str, Array]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(weights[name]))
