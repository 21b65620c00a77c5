"""Fourth stage: select, build, verify, measure, correct, and ship the best that was measured."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from compress.backends.trials import Trial, Workshop
from compress.execute.session import kernel_times
from compress.hardware.timing import RESTARTS, Speedup, speedup
from compress.passes.base import Budget, Option
from compress.passes.frontiers import trade_offs
from compress.passes.quantize.bias_correction import CorrectBiases, mean_errors
from compress.passes.quantize.insitu import corrections, layer_times
from compress.passes.search import fastest_acceptable, most_faithful_within
from compress.passes.select import Problem, Selection, evaluate_choice
from compress.progress import Progress
from compress.stages.gather import Evidence, scaled_by_form, with_latencies
from compress.stages.subject import Subject

ROUNDS = 3
"""How often the selection is made anew with latencies corrected to what was measured."""

TOLERATED_MISMATCH = 0.10
"""Evidence is corrected if predicted and measured speed-up over float differ by a larger share."""

PROFILE_RUNS = 20

GIVEN, FLOAT = "as given", "float, simplified"


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What the search ended with.

    Attributes:
        given, shipped: trials; the same one if nothing better was found.
        trials: all, in the order in which they were built.
        selection: of the shipped trial, None for float and the model as given.
        problem: with the latencies as last corrected.
        frontier: of that problem, fastest first.
        met: whether the shipped trial is within the budget.
        sentence: what was shipped and why.
    """

    given: Trial
    shipped: Trial
    trials: tuple[Trial, ...]
    selection: Selection | None
    problem: Problem
    frontier: tuple[Selection, ...]
    met: bool
    sentence: str


def search(
    subject: Subject,
    evidence: Evidence,
    workshop: Workshop,
    budget: Budget,
    progress: Progress,
    *,
    objective: str = "latency",
    deadline: float | None = None,
    given: Trial | None = None,
    prefix: str = "",
) -> Outcome:
    """Runs the rounds; every trial that is shipped was evaluated and timed as the file it is.

    Args:
        given: the model as given, where an earlier search made a trial of it.
        prefix: of the trials' names, where one search follows another.
    """
    given = given or workshop.adopt(GIVEN, subject.given_model, subject.given.path)
    plain = workshop.build(f"{prefix}{FLOAT}", subject.model)
    with progress.step("evaluating the model as given", 2) as advance:
        reference = workshop.judge(given)
        advance()
        workshop.judge(plain)
        advance()
    lowest = budget.lowest_quality(reference)
    state = _Search(evidence, workshop, budget, lowest, progress, prefix)
    state.trials = {(): plain}
    problem = _calibrated(evidence, workshop, evidence.problem, plain)
    points: list[Selection] = []
    for round_number in range(ROUNDS):
        points = trade_offs(
            problem, max_bytes=_weight_limit(budget, problem, plain), objective=objective
        )
        best = state.best(problem, points, given)
        if best is None:
            break
        state.time([given, plain, best])
        late = deadline is not None and time.monotonic() > deadline
        if late or round_number == ROUNDS - 1 or not _mismatch(best, plain, problem):
            break
        corrected = _corrected(problem, evidence, workshop, best, plain)
        if corrected == problem:
            break
        problem = corrected
    others = [t for t in state.trials.values() if t.timing is not None and t is not plain]
    state.time([given, plain, *others])
    return _decide(given, plain, state, budget, lowest, problem, points, objective)


class _Search:
    """Trials by the options they are made of, so that none is built or evaluated twice."""

    def __init__(
        self,
        evidence: Evidence,
        workshop: Workshop,
        budget: Budget,
        lowest: float | None,
        progress: Progress,
        prefix: str,
    ) -> None:
        self.evidence = evidence
        self.prefix = prefix
        self.workshop = workshop
        self.budget = budget
        self.lowest = lowest
        self.progress = progress
        self.trials: dict[tuple[str, ...], Trial] = {}

    def time(self, trials: Sequence[Trial]) -> None:
        """Times trials together; the first is the baseline of ratios."""
        with self.progress.step("timing candidates against float", RESTARTS) as advance:
            self.workshop.time(list(dict.fromkeys(trials)), advance)

    def best(self, problem: Problem, points: Sequence[Selection], given: Trial) -> Trial | None:
        """The candidate of the frontier that serves the budget best, evaluated.

        With a bound on quality that is the fastest (or smallest) one within it; with a bound on
        latency alone the most faithful one that meets it.
        """
        order = [s for s in points if _signature(problem, s)]
        steps = max(1, int(np.ceil(np.log2(len(order) + 1)))) + 1
        plain = self.trials[()]
        if self.lowest is None and self.budget.bounds_latency:
            self.time([given, plain])
            assert given.timing is not None
            assert plain.timing is not None
            limit_ms = self.budget.latency_limit_ms(float(np.median(given.timing.medians())))
            assert limit_ms is not None
            float_ms = float(np.median(plain.timing.medians()))
            everything = [i for i, o in enumerate(problem.options) if o.form == "float"]
            scale = evaluate_choice(problem, everything)[0] / float_ms

            def fast_enough(selection: Selection) -> bool:
                trial = self._trial(problem, selection)
                self.workshop.judge(trial)
                self.time([given, plain, trial])
                return trial.timing is not None and (
                    float(np.median(trial.timing.medians())) <= limit_ms
                )

            if float_ms <= limit_ms:
                return None
            found = most_faithful_within(order, limit_ms * scale, fast_enough)
            # nothing meets it: what comes nearest is still worth having
            found = found or (order[0] if order else None)
            if found is None:
                return None
            self.workshop.judge(self._trial(problem, found))
            return self.trials[_signature(problem, found)]
        with self.progress.step("trying candidates", steps) as advance:
            found = fastest_acceptable(order, lambda s: self._acceptable(problem, s, advance))
        return None if found is None else self.trials[_signature(problem, found)]

    def _acceptable(
        self, problem: Problem, selection: Selection, advance: Callable[[], None]
    ) -> bool:
        trial = self._trial(problem, selection)
        quality = self.workshop.judge(trial)
        advance()
        return self.lowest is None or quality >= self.lowest

    def _corrected(self, name: str, model: ir.Model, chosen: Mapping[str, Option]) -> Trial:
        """The candidate with its biases corrected, if that brings its outputs nearer."""
        plain = self.workshop.build(name, model)
        plain.fidelity = self.workshop.fidelity(plain)
        technique = self.evidence.technique
        layers = [x for x in self.evidence.layers if x.weight is not None]
        layers = [x for x in layers if chosen[x.name].form != "float"]
        sizes = {name: 4 * int(np.prod(shape)) for name, shape in self.evidence.shapes.items()}
        key = self.workshop.store.key(
            "mean_errors",
            technique.model_key,
            technique.reference.fingerprint,
            plain.artifact.sha256,
        )
        errors = self.workshop.store.get_arrays(key)
        if errors is None:
            errors = mean_errors(technique.model, model, layers, technique.reference.samples, sizes)
            self.workshop.store.put_arrays(key, errors)
        corrected = model.clone()
        if not CorrectBiases(errors).run(corrected):
            return plain
        trial = self.workshop.build(f"{name}-corrected", corrected)
        trial.fidelity = self.workshop.fidelity(trial)
        return trial if trial.fidelity.distortion < plain.fidelity.distortion else plain

    def _trial(self, problem: Problem, selection: Selection) -> Trial:
        signature = _signature(problem, selection)
        trial = self.trials.get(signature)
        if trial is None:
            chosen = chosen_options(problem, selection)
            model = self.evidence.technique.apply(self.evidence.technique.model, chosen)
            trial = self._corrected(f"{self.prefix}candidate-{len(self.trials)}", model, chosen)
            trial.forms = dict(Counter(o.form for o in chosen.values()))
            self.trials[signature] = trial
        trial.chosen = selection.chosen
        trial.predicted_us = selection.latency_us
        trial.predicted_distortion = selection.distortion
        return trial


def chosen_options(problem: Problem, selection: Selection) -> dict[str, Option]:
    """Layer name -> the option that covers it."""
    return {
        layer: problem.options[index]
        for index in selection.chosen
        for layer in problem.options[index].layers
    }


def _signature(problem: Problem, selection: Selection) -> tuple[str, ...]:
    """The choice without its float part: empty if everything stays float."""
    return tuple(
        f"{'+'.join(o.layers)}={o.label}"
        for o in (problem.options[i] for i in selection.chosen)
        if o.form != "float"
    )


def _weight_limit(budget: Budget, problem: Problem, plain: Trial) -> float:
    """The bound on the options' bytes that keeps the whole file within `max_bytes`."""
    if budget.max_bytes is None:
        return float("inf")
    weights = sum(o.bytes for o in problem.options if o.form == "float")
    overhead = plain.artifact.size_bytes - weights
    return float(budget.max_bytes - max(0, overhead))


def _calibrated(evidence: Evidence, workshop: Workshop, problem: Problem, plain: Trial) -> Problem:
    """The problem with what no option covers counted in, from the float network's own profile."""
    total = _profile(workshop, plain, evidence)[1]
    covered = sum(o.latency_us for o in problem.options if o.form == "float")
    return dataclasses.replace(problem, fixed_us=max(0.0, total - covered))


def _profile(
    workshop: Workshop, trial: Trial, evidence: Evidence
) -> tuple[dict[str, float], float]:
    """Layer times of a trial in place; kept as evidence."""
    shapes = {k: list(v.shape) for k, v in workshop.feeds.items()}
    key = workshop.store.key("profile", trial.artifact.sha256, shapes, workshop.host)
    known = workshop.store.get(key)
    if not isinstance(known, list):
        known = [
            list(t) for t in kernel_times(trial.artifact.path, workshop.feeds, runs=PROFILE_RUNS)
        ]
        workshop.store.put(key, known)
    return layer_times(evidence.layers, [(str(n), str(k), float(t)) for n, k, t in known])


def _mismatch(best: Trial, plain: Trial, problem: Problem) -> bool:
    """Whether the promised speed-up over float was missed or exceeded by too much."""
    if best.timing is None or plain.timing is None or not best.predicted_us:
        return False
    everything = [i for i, o in enumerate(problem.options) if o.form == "float"]
    promised = evaluate_choice(problem, everything)[0] / best.predicted_us
    measured = speedup(plain.timing, best.timing).median
    return abs(measured / promised - 1.0) > TOLERATED_MISMATCH


def _corrected(
    problem: Problem, evidence: Evidence, workshop: Workshop, best: Trial, plain: Trial
) -> Problem:
    """Latencies as they were in the float network and in the candidate, where traceable."""
    smooth = frozenset(layer.name for layer in evidence.layers if layer.smooth)
    float_times, float_total = _profile(workshop, plain, evidence)
    best_times, _ = _profile(workshop, best, evidence)
    forms = {
        layer: problem.options[i].form for i in best.chosen for layer in problem.options[i].layers
    }
    measured = corrections(float_times, {}, smooth) | corrections(best_times, forms, smooth)
    measured = scaled_by_form(problem, measured) | measured
    covered = sum(
        measured.get((o.layers[0], "float"), o.latency_us)
        for o in problem.options
        if o.form == "float"
    )
    return with_latencies(problem, measured, max(0.0, float_total - covered))


def _decide(
    given: Trial,
    plain: Trial,
    state: _Search,
    budget: Budget,
    lowest: float | None,
    problem: Problem,
    points: Sequence[Selection],
    objective: str,
) -> Outcome:
    """Ships the best trial that was measured within the budget; explains every other one."""
    assert given.timing is not None
    limit_ms = budget.latency_limit_ms(float(np.median(given.timing.medians())))
    best = given
    for trial in [plain, *(t for t in state.trials.values() if t is not plain)]:
        if trial.timing is None:
            continue
        if lowest is not None and (trial.quality is None or trial.quality < lowest):
            continue
        if _better(trial, best, budget, objective, None if lowest is not None else limit_ms):
            best = trial
    for trial in (given, *state.trials.values()):
        trial.verdict = _verdict(trial, best, given, lowest)
    met, reasons = _within(best, budget, limit_ms)
    selection = next(
        (s for s in points if s.chosen == best.chosen and best.chosen), None
    ) or _as_selection(problem, best)
    return Outcome(
        given,
        best,
        (given, *state.trials.values()),
        selection,
        problem,
        tuple(points),
        met,
        _sentence(best, given, plain, reasons, state.evidence.integers),
    )


def best_outcome(
    first: Outcome,
    second: Outcome,
    workshop: Workshop,
    budget: Budget,
    lowest: float | None,
    objective: str,
) -> Outcome:
    """The outcome whose model should be shipped: both timed together with the model as given."""
    given = first.given
    workshop.time(list(dict.fromkeys([given, first.shipped, second.shipped])))
    assert given.timing is not None
    limit_ms = budget.latency_limit_ms(float(np.median(given.timing.medians())))
    trial, best = second.shipped, first.shipped
    poor = lowest is not None and (trial.quality or -np.inf) < lowest
    limit = None if lowest is not None else limit_ms
    if trial is given or poor or not _better(trial, best, budget, objective, limit):
        if trial is not given:
            trial.verdict = f"the best with these layers; {_verdict(trial, best, given, lowest)}"
        return first
    best.verdict = "the best before these layers were changed; " + _verdict(
        best, trial, given, lowest
    )
    return second


def _as_selection(problem: Problem, trial: Trial) -> Selection | None:
    if not trial.chosen:
        return None
    latency, size, distortion = evaluate_choice(problem, trial.chosen)
    return Selection(trial.chosen, latency, size, distortion, 0.0, "feasible", 0.0)


def _better(
    trial: Trial, best: Trial, budget: Budget, objective: str, limit_ms: float | None
) -> bool:
    """Whether `trial` should be shipped instead of `best`: measured, paired by process.

    Args:
        limit_ms: where only latency is bounded: quality decides among those that meet it.
    """
    assert trial.timing is not None
    assert best.timing is not None
    if limit_ms is not None and objective == "latency":
        meets, best_meets = (
            float(np.median(t.timing.medians())) <= limit_ms for t in (trial, best) if t.timing
        )
        if meets and best_meets:
            return (trial.quality or 0.0) > (best.quality or 0.0)
        if meets != best_meets:
            return meets
    if budget.max_bytes is not None:
        fits, best_fits = (t.artifact.size_bytes <= budget.max_bytes for t in (trial, best))
        if fits != best_fits:
            return fits
    if objective == "size":
        slower = speedup(best.timing, trial.timing).median < 1.0
        return trial.artifact.size_bytes < best.artifact.size_bytes and not slower
    return speedup(best.timing, trial.timing).median > 1.0


def _within(best: Trial, budget: Budget, limit_ms: float | None) -> tuple[bool, list[str]]:
    """Whether the shipped trial meets latency and size; what it misses, in words."""
    missed = []
    assert best.timing is not None
    latency = float(np.median(best.timing.medians()))
    if limit_ms is not None and latency > limit_ms:
        missed.append(f"{latency:.3g} ms is over the latency budget of {limit_ms:.3g} ms")
    if budget.max_bytes is not None and best.artifact.size_bytes > budget.max_bytes:
        missed.append(
            f"{best.artifact.size_bytes} bytes are over the size budget of {budget.max_bytes}"
        )
    return not missed, missed


def _verdict(trial: Trial, best: Trial, given: Trial, lowest: float | None) -> str:
    if trial is best:
        return "shipped: the fastest that was measured within the budget"
    if trial is given:
        return "the baseline"
    if lowest is not None and trial.quality is not None and trial.quality < lowest:
        return f"quality {trial.quality:.4g} is below the {lowest:.4g} that was asked for"
    if trial.timing is None or best.timing is None:
        return "good enough, but a faster candidate was as well: not timed"
    ratio = speedup(best.timing, trial.timing).median
    return f"runs at {ratio:.2f}x of what was shipped"


def _sentence(
    best: Trial, given: Trial, plain: Trial, missed: Sequence[str], integers: bool
) -> str:
    """What was shipped and why; `integers`: whether integer forms were tried at all."""
    assert best.timing is not None
    assert given.timing is not None
    gain: Speedup = speedup(given.timing, best.timing)
    if best is given:
        text = (
            "Shipped the model as given: no form that was measured is faster on this machine "
            "within the budget."
        )
    elif best is plain:
        why = (
            "no integer form that was measured is faster within the budget"
            if integers
            else "quantize was not among the techniques"
        )
        text = f"Shipped the simplified float model, {gain.median:.2f}x as fast as given: {why}."
    else:
        integer = sum(n for form, n in best.forms.items() if form != "float")
        text = (
            f"Shipped a model with {integer} layers in integer form, {gain.median:.2f}x as fast "
            "as given."
        )
    if missed:
        text += " Budget not met: " + "; ".join(missed) + "."
    return text
