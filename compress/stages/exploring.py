"""Structures tried: recovered for a look, the best one in full, and searched like the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import onnx_ir as ir

from compress.backends.trials import Trial
from compress.graph.identity import model_hash
from compress.graph.layers import find_layers
from compress.passes.base import Option
from compress.passes.merge.rewrite import SUFFIX
from compress.passes.merge.technique import Merge
from compress.passes.prune.technique import Prune
from compress.passes.recover.distill import Recovered, Schedule, recover
from compress.passes.recover.original import Original
from compress.passes.search import bisected
from compress.passes.select import Problem, Selection, select
from compress.report import schema
from compress.stages.gather import Evidence, float_only, gather
from compress.stages.run_context import Context
from compress.stages.search import Outcome, best_outcome, search
from compress.stages.subject import Subject

STRUCTURAL = frozenset({"merge", "prune"})
"""Techniques that change layers and not only their numbers: networks are trained anew for them."""

ROUNDS = (0.7, 0.3)
"""Shares of the recovery's time: structures are chosen twice, the second time from what the first
one gave."""

LOOKS = 3
"""Structures that are recovered for a look at their quality."""

RECOVERY_S = 600.0
"""Spent on recovery, all tries together, where no time limit says otherwise."""

SHARE_OF_TRIES = 0.4
"""Of the recovery's time: for all looks together; the rest is for the one that is chosen."""

FEWEST_STEPS = 400
"""Of a recovery with few samples, as far as time allows."""

LOOK_TOLERANCE, LOOK_ALLOWANCE = 4.0, 0.05
"""A look is promising if it loses at most this many times what may be lost in the end, and at most
this share of the quality on top: it trains for a small part of the time."""

ATTEMPTS = 2
"""How often slower structures are looked at where promising ones were not good enough."""


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A choice of structural options: what a selection has besides numeric forms."""

    selection: Selection
    options: tuple[Option, ...]

    @property
    def signature(self) -> tuple[str, ...]:
        return tuple(sorted(f"{o.layers[0]}..{o.layers[-1]}={shape_of(o)}" for o in self.options))


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What the stage hands on: the subject, evidence and outcome that the report speaks of."""

    subject: Subject
    evidence: Evidence
    outcome: Outcome
    recoveries: tuple[schema.Recovery, ...] = ()


def structural(problem: Problem, chosen: Iterable[int]) -> tuple[Option, ...]:
    """The chosen options that change layers and not only their numbers."""
    options = (problem.options[i] for i in chosen)
    return tuple(o for o in options if o.technique in STRUCTURAL and not _keeps_all(o))


def _keeps_all(option: Option) -> bool:
    """A group's width that is the full one."""
    kept, _, full = option.form.partition(" of ")
    return option.technique == "prune" and full.split(" ")[0] == kept


def shape_of(option: Option) -> str:
    return option.form.split(" ")[0]


LIMITS = 16
"""Distortions, evenly spaced in their logarithm, among whose optima structures are looked for."""

GAP = 0.005
"""By how much a structure may miss the optimum: far less than recovery moves it."""

LEAST_GAIN = 0.95
"""Share of the best latency so far, as predicted, from which on a structure is not tried."""


class Choices(Sequence[Structure | None]):
    """Optimal structures, fastest first, each solved for when it is asked for.

    None stands where the optimum has no other layers, or is hardly faster than what there is.
    """

    def __init__(self, problem: Problem, known_us: float) -> None:
        """Takes the joint problem and the latency of the best selection so far."""
        self._problem, self._known_us = problem, known_us
        fastest = select(problem, gap=GAP)
        self._solved: dict[int, Selection] = {0: fastest}
        self._limits: list[float] = []
        if fastest.status == "infeasible" or self._structure(fastest) is None:
            return
        limit = LEAST_GAIN * known_us
        slowest = select(problem, max_latency_us=limit, objective="distortion", gap=GAP)
        high, low = fastest.distortion, max(slowest.distortion, 1e-9)
        steps = LIMITS if high > low else 1
        self._limits = [high * (low / high) ** (i / max(1, steps - 1)) for i in range(steps)]

    def __len__(self) -> int:
        return len(self._limits)

    def __getitem__(self, index: Any) -> Any:
        if index not in self._solved:
            limit = self._limits[index]
            self._solved[index] = select(self._problem, max_distortion=limit, gap=GAP)
        return self._structure(self._solved[index])

    def _structure(self, selection: Selection) -> Structure | None:
        options = structural(self._problem, selection.chosen)
        if not options or selection.latency_us >= LEAST_GAIN * self._known_us:
            return None
        return Structure(selection, options)


class Explorer:
    """Recovers and judges structures, nearest to the budget's edge first."""

    def __init__(
        self,
        context: Context,
        plain: Found,
        merge: Merge | None,
        prune: Prune | None,
        choices: Choices,
        original: Original,
        number: int,
        records: list[schema.Recovery],
    ) -> None:
        self.records = records
        self.context, self.plain, self.merge, self.prune = context, plain, merge, prune
        self.choices, self.original, self.number = choices, original, number
        self.tried: dict[int, Structure] = {}
        self.recovered: dict[tuple[str, ...], Recovered] = {}
        self.trials: dict[tuple[str, ...], Trial] = {}
        quality = self._quality(plain.outcome.given)
        self.lowest = context.budget.lowest_quality(quality)
        self.promising = None
        if self.lowest is not None:
            allowed = quality - self.lowest
            more = min((LOOK_TOLERANCE - 1) * allowed, LOOK_ALLOWANCE * abs(quality))
            self.promising = self.lowest - more

    def explore(self) -> Found | None:
        """The best structure found with its own search, or None."""
        first = 0
        for _ in range(ATTEMPTS):
            order = range(first, len(self.choices))
            bisected(order, lambda i: self._acceptable(i, self.choices[i]), LOOKS)
            # fastest first; if the numbers' forms cost too much on top, the next slower one
            promising = [i for i in sorted(self.tried) if i >= first and self._kept(self.tried[i])]
            for index in promising:
                found = self._finish(self.tried[index])
                if found is not None:
                    return found
            # nothing that was promising was good enough in the end: slower ones are left
            first = max((i for i in self.tried), default=len(self.choices)) + 1
            if self.context.late():
                break
        return None

    def _quality(self, trial: Trial) -> float:
        assert trial.quality is not None
        return trial.quality

    def _kept(self, structure: Structure) -> bool:
        quality = self._quality(self.trials[structure.signature])
        return self.promising is None or quality >= self.promising

    def _acceptable(self, index: int, structure: Structure | None) -> bool | None:
        """Whether its quality is promising; None where there was nothing to try."""
        if structure is None:
            return None
        if structure.signature in self.trials:
            return self._kept(structure)
        self.tried[index] = structure
        share = SHARE_OF_TRIES / LOOKS
        recovered = self._recover(structure, self._student(structure), share, "a first look")
        self.recovered[structure.signature] = recovered
        name = f"structure {self.number}-{len(self.trials) + 1}"
        self._record(name, structure, recovered)
        trial = self.context.workshop.build(name, recovered.model)
        self.context.workshop.judge(trial)
        trial.verdict = f"a first look at other layers, after {recovered.steps} steps of recovery"
        trial.predicted_us = structure.selection.latency_us
        trial.predicted_distortion = structure.selection.distortion
        self.trials[structure.signature] = trial
        return self._kept(structure)

    def _student(self, structure: Structure) -> ir.Model:
        chosen = {name: o for o in structure.options for name in o.layers}
        model = self.plain.subject.model
        # widths first: spans meet full widths only, and find their values by name
        for technique in (self.prune, self.merge):
            model = model if technique is None else technique.apply(model, chosen)
        return model

    def _recover(
        self, structure: Structure, student: ir.Model, share: float, what: str
    ) -> Recovered:
        context = self.context
        seconds = share * ROUNDS[self.number - 1] * context.recovery_seconds(RECOVERY_S)
        merged = sum(o.technique == "merge" for o in structure.options)
        title = (
            f"recovering ({what}): {merged} spans merged, "
            f"{len(structure.options) - merged} groups narrowed"
        )
        with context.progress.step(title, 100) as advance:
            told = 0

            def progress(done: float) -> None:
                nonlocal told
                while told < int(100 * done):
                    told += 1
                    advance()

            return recover(
                student,
                self.original,
                self.original.pool,
                self.plain.subject.kinds,
                Schedule(seconds=seconds, fewest_steps=FEWEST_STEPS, seed=context.seed),
                store=context.store,
                key=[self.plain.subject.key, model_hash(student), self.original.pool.fingerprint],
                threads=context.cores,
                advance=progress,
            )

    def _finish(self, structure: Structure) -> Found | None:
        """Recovers for longer, and searches among the numeric forms of the new network."""
        context, plain = self.context, self.plain
        student = self.recovered[structure.signature].model
        recovered = self._recover(structure, student, 1.0 - SHARE_OF_TRIES, "in full")
        subject = dataclasses.replace(
            plain.subject,
            model=recovered.model,
            key=model_hash(recovered.model),
            rewritten={**plain.subject.rewritten, **_reasons(recovered.model, structure)},
        )
        evidence = gather(
            subject,
            context.calibration,
            context.store,
            context.host,
            context.progress,
            workers=context.cores,
        )
        if "quantize" not in context.techniques:
            evidence = float_only(evidence)
        outcome = search(
            subject,
            evidence,
            context.workshop,
            context.budget,
            context.progress,
            objective=context.objective,
            deadline=context.deadline,
            given=plain.outcome.given,
            prefix=f"structure {self.number} ",
        )
        name = f"structure {self.number} in full"
        self._record(name, structure, recovered)
        chosen = best_outcome(
            plain.outcome,
            outcome,
            context.workshop,
            context.budget,
            self.lowest,
            context.objective,
        )
        if chosen is plain.outcome:
            return None
        self.records[:] = [r.model_copy(update={"shipped": r.name == name}) for r in self.records]
        words = f"{_in_words(structure)}; {recovered.steps} steps of recovery. "
        chosen = dataclasses.replace(chosen, sentence=f"{words}{chosen.sentence}")
        return self._with_trials(Found(subject, evidence, chosen))

    def _record(self, name: str, structure: Structure, recovered: Recovered) -> None:
        self.records.append(
            schema.Recovery(
                name=name,
                changes=[
                    schema.StructureChange(
                        technique=o.technique,
                        form=o.form,
                        layers=list(o.layers),
                        latency_us=o.latency_us,
                        distortion=o.distortion,
                    )
                    for o in structure.options
                ],
                steps=recovered.steps,
                planned=recovered.planned,
                seconds=recovered.seconds,
                before=recovered.before,
                after=recovered.after,
            )
        )

    def _with_trials(self, found: Found) -> Found:
        """The report shows every candidate of every search."""
        seen = {id(t) for t in found.outcome.trials}
        more = [*self.plain.outcome.trials, *self.trials.values()]
        trials = (*found.outcome.trials, *(t for t in more if id(t) not in seen))
        return dataclasses.replace(found, outcome=dataclasses.replace(found.outcome, trials=trials))


def _in_words(structure: Structure) -> str:
    merged = [o for o in structure.options if o.technique == "merge" and shape_of(o) != "drop"]
    dropped = [o for o in structure.options if shape_of(o) == "drop"]
    narrowed = [o for o in structure.options if o.technique == "prune"]
    parts = []
    if merged:
        parts.append(f"merged {sum(len(o.layers) for o in merged)} layers to {len(merged)}")
    if dropped:
        parts.append(f"dropped {sum(len(o.layers) for o in dropped)} layers")
    if narrowed:
        parts.append(f"removed channels in {len(narrowed)} groups")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]


def _reasons(model: ir.Model, structure: Structure) -> dict[str, str]:
    """New layer name -> what it stands for."""
    known = {layer.name for layer in find_layers(model)}
    result = {}
    for option in structure.options:
        name = f"{option.layers[-1]}{SUFFIX}"
        if name in known:
            result[name] = (
                f"takes the place of {len(option.layers)} layers, {option.layers[0]} to "
                f"{option.layers[-1]}, as {shape_of(option)}"
            )
    return result
