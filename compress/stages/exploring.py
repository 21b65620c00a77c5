"""Structures tried: recovered for a look, the best one in full, and searched like the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from compress.backends.trials import Trial
from compress.graph.identity import model_hash
from compress.graph.layers import find_layers
from compress.passes.merge.rewrite import SUFFIX
from compress.passes.merge.technique import Merge
from compress.passes.prune.technique import Prune
from compress.passes.recover.distill import Recovered, Schedule, recover
from compress.passes.recover.guidance import find_hints, insensitive
from compress.passes.recover.original import Original
from compress.passes.search import bisected
from compress.passes.select import Problem
from compress.report import schema
from compress.report.recoveries import IN_FULL, count
from compress.stages.choices import Choices, Structure, shape_of, share_left
from compress.stages.gather import Evidence, float_only, gather
from compress.stages.run_context import Context
from compress.stages.search import Outcome, best_outcome, search
from compress.stages.subject import Subject

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

HINT_BYTES = 1 << 29
"""That the original's inner values may take, of all samples together."""

LOOK_TOLERANCE, LOOK_ALLOWANCE = 4.0, 0.05
"""A look is promising if it loses at most this many times what may be lost in the end, and at most
this share of the quality on top: it trains for a small part of the time."""

ATTEMPTS = 2
"""How often slower structures are looked at where promising ones were not good enough."""


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What the stage hands on: the subject, evidence and outcome that the report speaks of."""

    subject: Subject
    evidence: Evidence
    outcome: Outcome
    recoveries: tuple[schema.Recovery, ...] = ()


class Explorer:
    """Recovers and judges structures, nearest to the budget's edge first."""

    def __init__(
        self,
        context: Context,
        plain: Found,
        merge: Merge | None,
        prune: Prune | None,
        problem: Problem,
        original: Original,
        number: int,
        records: list[schema.Recovery],
    ) -> None:
        self.records = records
        self.context, self.plain, self.merge, self.prune = context, plain, merge, prune
        self.problem, self.original, self.number = problem, original, number
        self.tried: dict[int, Structure] = {}
        self.recovered: dict[tuple[str, ...], Recovered] = {}
        self.trials: dict[tuple[str, ...], Trial] = {}
        self.improved = False
        self.given_up: list[Trial] = []
        quality = self._quality(plain.outcome.given)
        self.lowest = context.budget.lowest_quality(quality)
        self.promising = None
        if self.lowest is not None:
            allowed = quality - self.lowest
            more = min((LOOK_TOLERANCE - 1) * allowed, LOOK_ALLOWANCE * abs(quality))
            self.promising = self.lowest - more

    def explore(self, known_us: float) -> Found:
        """The best structure found with its own search, else what there was (not `improved`).

        Args:
            known_us: predicted latency of the best selection so far.
        """
        beyond: Structure | None = None
        for _ in range(ATTEMPTS):
            mended = share_left(self.records)
            self._look(Choices(self.problem, known_us, mended=mended, beyond=beyond))
            # fastest first; if the numbers' forms cost too much on top, the next slower one
            for index in sorted(i for i, structure in self.tried.items() if self._kept(structure)):
                found = self._finish(self.tried[index])
                if found is not None:
                    return found
            if not self.tried:
                if not self.trials:
                    self.context.progress.note(
                        "no other layers would be faster: nothing to merge or prune"
                    )
                break
            if self.context.late():
                break
            # nothing was good enough in the end: what is less distorted is left
            beyond = self.tried[max(self.tried)]
        return self._with_trials(self.plain)

    def _look(self, choices: Choices) -> None:
        """Tries some of the structures, from the middle outwards."""
        self.tried = {}
        bisected(range(len(choices)), lambda i: self._acceptable(i, choices[i]), LOOKS)

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

            pool, kinds = self.original.pool, self.plain.subject.kinds
            key = [self.plain.subject.key, model_hash(student), pool.fingerprint]
            hints = find_hints(student, self.original.model, most_floats=HINT_BYTES / 4 / len(pool))
            return recover(
                student,
                self.original.with_inner(list(hints.values())),
                pool,
                kinds,
                Schedule(
                    seconds=seconds,
                    fewest_steps=FEWEST_STEPS,
                    frozen=self._frozen(student, key),
                    seed=context.seed,
                ),
                store=context.store,
                key=key,
                hints=hints,
                threads=context.cores,
                advance=progress,
            )

    def _frozen(self, student: ir.Model, key: Sequence[object]) -> frozenset[str]:
        """Weights that are not trained; kept, so that a resumed run has the same ones."""
        context = self.context
        name = context.store.key("frozen", *key)
        known = context.store.get(name)
        if not isinstance(known, list):
            kinds = self.plain.subject.kinds
            found = insensitive(student, self.original.pool, kinds, threads=context.cores)
            known = sorted(found)
            context.store.put(name, known)
        return frozenset(str(each) for each in known)

    def _finish(self, structure: Structure) -> Found | None:
        """Recovers for longer, and searches among the numeric forms of the new network."""
        context, plain = self.context, self.plain
        student = self.recovered[structure.signature].model
        look = self.trials[structure.signature].name
        name = f"{look} {IN_FULL}"
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
            prefix=f"{look} ",
        )
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
            self.given_up += [t for t in outcome.trials if t is not plain.outcome.given]
            return None
        self.improved = True
        self.records[:] = [r.model_copy(update={"shipped": r.name == name}) for r in self.records]
        words = f"{_in_words(structure)}; {recovered.steps} steps of recovery. "
        chosen = dataclasses.replace(chosen, sentence=f"{words}{chosen.sentence}")
        return self._with_trials(Found(subject, evidence, chosen))

    def _record(self, name: str, structure: Structure, recovered: Recovered) -> None:
        self.records.append(
            schema.Recovery(
                name=name,
                changes=_changes(structure),
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
        more = [*self.plain.outcome.trials, *self.trials.values(), *self.given_up]
        trials = (*found.outcome.trials, *(t for t in more if id(t) not in seen))
        return dataclasses.replace(found, outcome=dataclasses.replace(found.outcome, trials=trials))


def _changes(structure: Structure) -> list[schema.StructureChange]:
    return [
        schema.StructureChange(
            technique=o.technique,
            form=o.form,
            layers=list(o.layers),
            latency_us=o.latency_us,
            distortion=o.distortion,
        )
        for o in structure.options
    ]


def _in_words(structure: Structure) -> str:
    counted = count(_changes(structure))
    parts = []
    if counted.spans:
        parts.append(f"merged {counted.merged} layers to {counted.spans}")
    if counted.dropped:
        parts.append(f"dropped {counted.dropped} layers")
    if counted.narrowed:
        parts.append(f"removed channels in {counted.narrowed} groups")
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
