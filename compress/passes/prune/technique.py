"""Prune, as a Technique: coupling groups keep fewer channels, and layers shrink with them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import DeviceError
from compress.evidence.store import EvidenceStore
from compress.execute.runtime import Samples
from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import attribute_int, constant
from compress.passes.base import Option, Proposal, Technique
from compress.passes.probing import Probe, distortions
from compress.passes.prune.elimination import removal_order
from compress.passes.prune.groups import ChannelGroup, find_groups
from compress.passes.prune.moments import Moments, input_moments
from compress.passes.prune.remove import RemoveChannels, round_to
from compress.passes.prune.sequential import sequential_weights
from compress.passes.prune.update import (
    UpdateWeights,
    norm_scores,
    problems_of,
    reconstructed_weights,
)
from compress.passes.quantize.cells import cut_out, measure_cell
from compress.passes.quantize.forms import Form
from compress.passes.quantize.technique import Reference
from compress.passes.select import Problem

Array = npt.NDArray[Any]
Advance = Callable[[], None]
Shapes = Mapping[str, tuple[int, ...]]

SHARES = (0.75, 0.5)
"""Of a group's channels that options keep, besides all of them."""

MULTIPLE = 8
"""Channels are kept in multiples of what kernels work on at once."""

FEWEST_CHANNELS = 16
"""Of groups that are looked at."""

WIDEST = 2400
"""Inputs of a layer whose moments are gathered; wider ones are judged by their norms."""

REMOVED_AT_ONCE = 32
"""Steps of the greedy order per group."""

RESIZABLE = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool"})
"""Layers without weights that are measured at other widths; others are scaled."""


def pseudo_layer(group: str) -> str:
    """The name under which a group's width is decided, as if it were a layer."""
    return f"channels of {group}"


@dataclasses.dataclass(frozen=True, eq=False)
class Prune(Technique):
    """Whole channels removed, group by group, to widths that the device runs faster.

    A group (DepGraph) is decided like a layer: options keep all, three quarters or half of its
    units. Which ones go is decided by greedy elimination on the consumers' second moments, whose
    weights are solved anew (Optimal Brain Surgeon for structures; OSSCAR, ZipLM); the price is the
    distortion of the network's outputs. Each layer has options for every combination of the widths
    of its groups, at the latency measured there (HALP's table without its independence of input
    and output width). All chosen options agree on widths; see `Option.widths`.

    Attributes:
        model: canonical float model.
        model_key: its content hash.
        shapes: of every value a layer reads or writes, for the typical sample.
        reference: samples and float outputs that distortion is measured on.
        samples, samples_key: what moments are gathered on.
        problem: options at full widths.
        store: evidence.
        host: fingerprint of machine and runtime.
        workers: threads that measure distortions.
    """

    name: ClassVar[str] = "prune"

    model: ir.Model
    model_key: str
    shapes: Shapes
    reference: Reference
    samples: Samples
    samples_key: str
    problem: Problem
    store: EvidenceStore
    host: str
    workers: int = 2

    # --- groups -----------------------------------------------------------------------------------

    def groups(self) -> list[ChannelGroup]:
        """Groups worth pruning: removable without approximation, of many channels."""
        return [
            group
            for group in find_groups(self.model)
            if group.removable
            and group.exact
            and group.channels * group.granularity >= FEWEST_CHANNELS
            and group.consumers
        ]

    def widths(self, group: ChannelGroup) -> tuple[int, ...]:
        """Units that options keep, all of them first."""
        multiple = max(1, MULTIPLE // group.granularity)
        kept = {round_to(math.ceil(s * group.channels), multiple) for s in SHARES}
        fewer = sorted((k for k in kept if 0 < k < group.channels), reverse=True)
        return (group.channels, *fewer)

    def _orders(
        self, groups: Sequence[ChannelGroup], moments: Mapping[str, Moments] | None = None
    ) -> dict[str, list[int]]:
        """Group -> units in the order in which they go; kept as evidence.

        Args:
            moments: of the groups' readers, where they have been gathered already.
        """
        keys = {
            g.name: self.store.key("removal_order", self.model_key, self.samples_key, g.name)
            for g in groups
        }
        known = {name: self.store.get(key) for name, key in keys.items()}
        missing = [g for g in groups if known[g.name] is None]
        if missing:
            moments = self.moments(missing) if moments is None else moments
            layers = find_layers(self.model)
            for group in missing:
                known[group.name] = self._order(group, layers, moments)
                self.store.put(keys[group.name], known[group.name])
        return {name: list(order or []) for name, order in known.items()}

    def _order(
        self, group: ChannelGroup, layers: Sequence[Layer], moments: Mapping[str, Moments]
    ) -> list[int]:
        problems = problems_of(layers, group, moments)
        if not problems:
            return [int(i) for i in np.argsort(norm_scores(self.model, group), kind="stable")]
        at_once = max(1, group.channels // REMOVED_AT_ONCE)
        fewest = min(self.widths(group))
        found = removal_order(problems, fewest=fewest, at_once=at_once).order
        return [int(i) for i in found]

    def moments(self, groups: Sequence[ChannelGroup]) -> dict[str, Moments]:
        """Of the layers that read these groups' channels, as far as they are not too wide."""
        wanted = {name for group in groups for name in group.consumers}
        layers = []
        for layer in find_layers(self.model):
            weight = constant(layer.weight)
            if layer.name not in wanted or weight is None:
                continue
            rows = weight.shape[1:] if layer.op == "Conv" else weight.shape[-2:-1]
            if math.prod(rows) <= WIDEST:
                layers.append(layer)
        return input_moments(self.model, layers, self.samples)

    def kept(self, group: ChannelGroup, width: int, order: Sequence[int]) -> list[int]:
        """The units that stay, sorted."""
        gone = set(order[: group.channels - width])
        return [unit for unit in range(group.channels) if unit not in gone]

    # --- distortion -------------------------------------------------------------------------------

    def distortions(
        self, groups: Sequence[ChannelGroup], advance: Advance = lambda: None
    ) -> dict[tuple[str, int], float]:
        """(group, width) -> distortion of the outputs when that group alone is pruned."""
        keys = {
            (g.name, w): self.store.key(
                "pruned_distortion",
                self.model_key,
                self.samples_key,
                self.reference.fingerprint,
                g.name,
                w,
            )
            for g in groups
            for w in self.widths(g)[1:]
        }
        unknown = {n for (n, _), key in keys.items() if not isinstance(self.store.get(key), float)}
        concerned = [group for group in groups if group.name in unknown]
        moments = self.moments(concerned) if concerned else {}
        orders = self._orders(concerned, moments)
        layers = find_layers(self.model)

        def probe(group: ChannelGroup, width: int) -> Probe:
            def change(model: ir.Model) -> None:
                kept = {group.name: self.kept(group, width, orders[group.name])}
                UpdateWeights(reconstructed_weights(layers, [group], kept, moments)).run(model)

            first = next(x for x in layers if x.name in group.consumers)
            return Probe(keys[group.name, width], change, node=str(first.node.name))

        probes = {(g.name, w): probe(g, w) for g in groups for w in self.widths(g)[1:]}
        return distortions(self.model, self.reference, self.store, probes, self.workers, advance)

    # --- options ----------------------------------------------------------------------------------

    def propose(self, advance: Advance = lambda: None) -> Proposal:
        """The widths of groups, and the layers that they touch at every combination of widths."""
        groups = self.groups()
        lost = self.distortions(groups, advance)
        options: list[Option] = []
        for group in groups:
            for width in self.widths(group):
                options.append(
                    Option(
                        self.name,
                        f"{width} of {group.channels} channels",
                        (pseudo_layer(group.name),),
                        0.0,
                        0,
                        lost.get((group.name, width), 0.0),
                        widths={group.name: width},
                    )
                )
        layers = {layer.name: layer for layer in find_layers(self.model)}
        touched = self._touched(groups, layers.values())
        for option in self.problem.options:
            if len(option.layers) == 1 and option.layers[0] in touched:
                layer = layers[option.layers[0]]
                options += list(self._variants(option, layer, touched[layer.name]))
        return Proposal(tuple(options), {})

    def joined(self, problem: Problem, proposal: Proposal) -> Problem:
        """The problem with this technique's options: single layers by theirs, spans held to full
        widths where they meet a group."""
        groups = self.groups()
        own = {o.layers[0] for o in proposal.options}
        options: list[Option] = list(proposal.options)
        for option in problem.options:
            if len(option.layers) == 1 and option.layers[0] in own:
                continue
            ends = option.reads_uint8 | option.reads_float | option.writes_uint8
            held = {
                g.name: g.channels
                for g in groups
                if any(m.value in ends for m in g.members) or self._crosses(g, option)
            }
            options.append(dataclasses.replace(option, widths=held) if held else option)
        return dataclasses.replace(problem, options=tuple(options))

    def _crosses(self, group: ChannelGroup, option: Option) -> bool:
        """Whether a span has some of a group's layers inside and others outside."""
        if len(option.layers) < 2:
            return False
        names = {*group.producers, *group.consumers, *group.carriers}
        inside = names & set(option.layers)
        return bool(inside) and inside != names

    def _touched(
        self, groups: Sequence[ChannelGroup], layers: Any
    ) -> dict[str, list[ChannelGroup]]:
        """Layer -> groups whose channels it reads or writes."""
        by_value: dict[str, list[ChannelGroup]] = {}
        for group in groups:
            for value in dict.fromkeys(m.value for m in group.members):
                by_value.setdefault(value, []).append(group)
        result: dict[str, list[ChannelGroup]] = {}
        for layer in layers:
            values = [*layer.inputs, layer.output]
            found = [g for v in values for g in by_value.get(str(v.name), [])]
            if found:
                result[layer.name] = list(dict.fromkeys(found))
        return result

    def _variants(
        self, option: Option, layer: Layer, groups: Sequence[ChannelGroup]
    ) -> Iterator[Option]:
        """The option at every combination of its groups' widths."""
        for combination in itertools.product(*(self.widths(g) for g in groups)):
            widths = {g.name: w for g, w in zip(groups, combination, strict=True)}
            share = math.prod(w / g.channels for g, w in zip(groups, combination, strict=True))
            if share == 1.0:
                latency, measured = option.latency_us, option.measured
            else:
                latency, measured = self._latency(option, layer, groups, widths, share)
            yield dataclasses.replace(
                option,
                latency_us=latency,
                bytes=int(option.bytes * share),
                measured=measured,
                widths=widths,
            )

    def _latency(
        self,
        option: Option,
        layer: Layer,
        groups: Sequence[ChannelGroup],
        widths: Mapping[str, int],
        share: float,
    ) -> tuple[float, bool]:
        """(microseconds, measured) of a layer at other widths.

        The measured cell's ratio to the full one scales the option's latency, which may have been
        corrected to what the layer takes in place.
        """
        if layer.weight is None and layer.op not in RESIZABLE:
            return option.latency_us * share, False
        try:
            cell, shapes = narrowed(self.model, layer, self.shapes, groups, widths)
            small = find_layers(cell)[0]
            form = Form(option.form)
            now = measure_cell(cell, small, shapes, form, self.store, self.host)
            full = measure_cell(self.model, layer, self.shapes, form, self.store, self.host)
        except DeviceError:
            return option.latency_us, False
        if full.core_us <= 0:
            return option.latency_us * share, False
        return option.latency_us * min(1.0, now.core_us / full.core_us), True

    # --- writing ----------------------------------------------------------------------------------

    def apply(self, model: ir.Model, chosen: Mapping[str, Option]) -> ir.Model:
        """A copy of `model` whose groups have the chosen widths; what stays makes up for it."""
        groups = {g.name: g for g in self.groups()}
        kept: dict[str, list[int]] = {}
        wanted = {
            name: width
            for option in chosen.values()
            if option.technique == self.name
            for name, width in option.widths.items()
            if name in groups and width < groups[name].channels
        }
        result = model.clone()
        if not wanted:
            return result
        own = [groups[name] for name in wanted]
        orders = self._orders(own)
        for group in own:
            kept[group.name] = self.kept(group, wanted[group.name], orders[group.name])
        # layer by layer on what the narrowed network itself computes before: errors do not add up
        UpdateWeights(sequential_weights(self.model, own, kept, self.samples)).run(result)
        RemoveChannels(kept).run(result)
        return result


def narrowed(
    model: ir.Model,
    layer: Layer,
    shapes: Shapes,
    groups: Sequence[ChannelGroup],
    widths: Mapping[str, int],
) -> tuple[ir.Model, dict[str, tuple[int, ...]]]:
    """(the layer as a model of its own at other widths, shapes of its inputs there).

    Weights are cut anywhere: only their sizes matter to a clock.
    """
    cell = cut_out(model, layer, shapes)
    graph = cell.graph
    node = next(n for n in graph if n.op_type == layer.op or n.name == layer.node.name)
    sizes = {str(v.name): list(shapes[str(v.name)]) for v in graph.inputs}
    arrays = {str(n): constant(v) for n, v in graph.initializers.items()}
    done: set[tuple[str, int, str]] = set()
    for group in groups:
        share = widths[group.name] / group.channels
        for member in group.members:
            place = (member.value, member.axis, group.name)
            if place in done:
                continue
            count = member.indices.size
            lost = count - round(count * share)
            if member.value in sizes:
                done.add(place)
                sizes[member.value][member.axis] -= lost
            elif (array := arrays.get(member.value)) is not None and lost:
                done.add(place)
                stay = array.shape[member.axis] - lost
                arrays[member.value] = np.take(array, range(stay), axis=member.axis)
    depthwise = layer.depthwise
    for name, array in arrays.items():
        if array is not None:
            value = graph.initializers[name]
            value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
            value.shape = ir.Shape(array.shape)
    if depthwise and layer.weight is not None:
        weight = arrays[str(layer.weight.name)]
        assert weight is not None
        node.attributes["group"] = ir.AttrInt64("group", int(weight.shape[0]))
    elif layer.op == "Conv" and attribute_int(node, "group", 1) > 1:
        raise DeviceError("grouped convolutions are not measured at other widths")
    for value in graph.inputs:
        value.shape = ir.Shape(sizes[str(value.name)])
    return cell, {name: tuple(size) for name, size in sizes.items()}
