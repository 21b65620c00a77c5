"""Quantize, as a Technique: for every layer the integer forms that could pay on this device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.evidence.distortion import Comparison, Fidelity, OutputKind, output_kinds
from compress.evidence.statistics import TensorStatistics
from compress.evidence.store import EvidenceStore
from compress.execute.memory import give_back
from compress.execute.runtime import Samples
from compress.execute.session import Runner
from compress.graph.layers import Layer, find_layers
from compress.passes.base import Boundary, Option, Proposal, Technique
from compress.passes.probing import Probe, distortions
from compress.passes.quantize.cells import CellLatency, measure_cell
from compress.passes.quantize.forms import Form, observed, possible_forms, writes_uint8
from compress.passes.quantize.probes import ValueProbe, WeightProbe
from compress.passes.quantize.qdq import QuantizeLayers
from compress.passes.quantize.ranges import RangeMethod, choose_range

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Advance = Callable[[], None]


UNLIKE_RATIO = 4.0
"""Tensors whose ranges differ by more may not share one scale: two of eight bits would be lost."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """The float model's outputs on the samples that distortion is measured with."""

    samples: Samples
    outputs: tuple[Mapping[str, Array], ...]
    kinds: Mapping[str, OutputKind]
    fingerprint: str

    @classmethod
    def of(cls, model: ir.Model, samples: Samples, fingerprint: str) -> Reference:
        """Runs the float model on the samples."""
        runner = Runner(model, frugal=True)
        outputs = tuple(runner(sample) for sample in samples)
        del runner
        give_back()
        return cls(samples, outputs, output_kinds(model), fingerprint)

    def distortion(self, outputs: Sequence[Mapping[str, Array]]) -> float:
        """Of outputs for the first samples; outputs that are missing are as in the float model."""
        comparison = Comparison(self.kinds)
        for expected, actual in zip(self.outputs, outputs, strict=False):
            comparison.add(expected, {**expected, **actual})
        return comparison.result().distortion

    def compare(self, model: ir.Model) -> Fidelity:
        """How far `model` is from the float model on the samples."""
        comparison = Comparison(self.kinds)
        runner = Runner(model, frugal=True)
        for feeds, expected in zip(self.samples, self.outputs, strict=True):
            comparison.add(expected, runner(feeds))
        del runner
        give_back()
        return comparison.result()


@dataclasses.dataclass(frozen=True, eq=False)
class Quantize(Technique):
    """Static, dynamic and block int8 per layer, each with its measured latency and distortion.

    Latency is that of a cell (see `cells`), distortion that of the network's outputs when only
    this layer's weights, or only this value, are rounded: the additive model of layer-wise
    allocation (rate-distortion theory; HAWQ-style integer programs), with one term per rounded
    *value* instead of per layer, so that a chain of integer layers is not charged twice.

    Attributes:
        model: canonical float model.
        model_key: its content hash.
        shapes: concrete shapes of all values for the typical sample.
        statistics: of every value in `observed(layer)`.
        reference: samples and float outputs.
        store: evidence.
        host: fingerprint of machine and runtime.
        workers: threads that measure distortions (never latencies).
        paired: whether the host's kernels add pairs of products in 16 bits.
    """

    name: ClassVar[str] = "quantize"

    model: ir.Model
    model_key: str
    shapes: Mapping[str, tuple[int, ...]]
    statistics: Mapping[str, TensorStatistics]
    reference: Reference
    store: EvidenceStore
    host: str
    method: RangeMethod = RangeMethod.MSE
    workers: int = 2
    paired: bool = False
    _ranges: dict[RangeMethod, dict[str, tuple[float, float]]] = dataclasses.field(
        default_factory=dict, repr=False
    )
    """Ranges that were chosen before; `dataclasses.replace` hands them on with the statistics."""

    def ranges(self, method: RangeMethod | None = None) -> dict[str, tuple[float, float]]:
        """The range of every observed value."""
        chosen = self.method if method is None else method
        if chosen not in self._ranges:
            self._ranges[chosen] = {
                name: choose_range(s, chosen) for name, s in self.statistics.items()
            }
        return self._ranges[chosen]

    def usable_forms(self, layer: Layer) -> tuple[Form, ...]:
        """Possible forms whose values were all observed at known shapes."""
        if not all(str(v.name) in self.shapes for v in layer.inputs):
            return (Form.FLOAT,)
        known = all(name in self.statistics for name in observed(layer))
        if layer.op == "Concat" and known and self._unlike(layer):
            return (Form.FLOAT,)
        return tuple(f for f in possible_forms(layer) if known or not f.reads_uint8)

    def _unlike(self, layer: Layer) -> bool:
        """Whether a Concat joins tensors that one scale cannot serve.

        The smaller one would keep few of the 256 levels: a detector whose boxes and class scores
        share a scale keeps a high signal-to-noise ratio while every score is dead.
        """
        widths = []
        for value in layer.inputs:
            low, high = self.ranges()[str(value.name)]
            widths.append(high - low)
        return max(widths) > UNLIKE_RATIO * max(min(widths), 1e-30)

    # --- latency ---------------------------------------------------------------------------------

    def measure(self, advance: Advance = lambda: None) -> dict[str, dict[Form, CellLatency]]:
        """Cells of every layer that has more than one form; forms that do not fuse are left out."""
        result: dict[str, dict[Form, CellLatency]] = {}
        for layer in find_layers(self.model):
            forms = self.usable_forms(layer)
            if len(forms) > 1:
                cells = {
                    form: measure_cell(self.model, layer, self.shapes, form, self.store, self.host)
                    for form in forms
                }
                result[layer.name] = {f: c for f, c in cells.items() if c.fused}
            advance()
        return result

    # --- distortion ------------------------------------------------------------------------------

    def method_by_distortion(
        self, forms: Mapping[str, Form]
    ) -> tuple[RangeMethod, dict[str, float]]:
        """The range estimator whose fully quantized network is closest to the float one."""
        scores = {}
        for method in RangeMethod:
            key = self.store.key(
                "method_distortion",
                self.model_key,
                self.reference.fingerprint,
                method.value,
                sorted((k, f.value) for k, f in forms.items()),
                self.paired,
            )
            known = self.store.get(key)
            if not isinstance(known, float):
                candidate = self.model.clone()
                QuantizeLayers(forms, self.ranges(method), self.paired).run(candidate)
                known = self.reference.compare(candidate).distortion
                self.store.put(key, known)
            scores[method.value] = known
        best = min(RangeMethod, key=lambda m: scores[m.value])
        return best, scores

    def distortions(
        self, probes: Sequence[ValueProbe | WeightProbe], advance: Advance = lambda: None
    ) -> dict[ValueProbe | WeightProbe, float]:
        """The output distortion each probe causes alone; cached, measured side by side.

        Only what lies behind the probe is run again.
        """
        return distortions(
            self.model,
            self.reference,
            self.store,
            {probe: self._probe(probe) for probe in probes},
            self.workers,
            advance,
        )

    def _probe(self, probe: ValueProbe | WeightProbe) -> Probe:
        key = self.store.key("distortion", self.model_key, self.reference.fingerprint, *probe.key())
        if isinstance(probe, ValueProbe):
            return Probe(key, probe.run, value=probe.value)
        return Probe(key, probe.run, node=probe.layer)

    # --- options ---------------------------------------------------------------------------------

    def propose(self, advance: Advance = lambda: None) -> Proposal:
        """All options (float ones included) and the boundaries between them."""
        layers = find_layers(self.model)
        cells = self.measure()
        worthwhile = {layer.name: self._worthwhile(layer, cells) for layer in layers}
        probes = self._probes(layers, worthwhile)
        measured = self.distortions(list(dict.fromkeys(probes.values())), advance)
        options = []
        for layer in layers:
            names = frozenset(str(v.name) for v in layer.inputs)
            own = cells.get(layer.name, {})
            float_us = own[Form.FLOAT].core_us if Form.FLOAT in own else 0.0
            options.append(
                Option(
                    "float",
                    "float",
                    (layer.name,),
                    float_us,
                    layer.weight_bytes,
                    0.0,
                    reads_float=names,
                )
            )
            for form in worthwhile[layer.name]:
                probe = probes.get((layer.name, form))
                options.append(
                    Option(
                        self.name,
                        form.value,
                        (layer.name,),
                        own[form].core_us,
                        quantized_bytes(layer, form),
                        measured[probe] if probe is not None else 0.0,
                        reads_uint8=names if form.reads_uint8 else frozenset(),
                        reads_float=frozenset() if form.reads_uint8 else names,
                        writes_uint8=frozenset({str(layer.output.name)})
                        if writes_uint8(layer, form)
                        else frozenset(),
                    )
                )
        value_distortion = {
            name: measured[probe] for name, probe in probes.items() if isinstance(name, str)
        }
        return Proposal(tuple(options), self._boundaries(layers, cells, value_distortion))

    def count_probes(self) -> int:
        """How many distortions `propose` will ask for."""
        layers = find_layers(self.model)
        cells = self.measure()
        worthwhile = {layer.name: self._worthwhile(layer, cells) for layer in layers}
        return len(set(self._probes(layers, worthwhile).values()))

    def _probes(
        self, layers: Sequence[Layer], worthwhile: Mapping[str, Sequence[Form]]
    ) -> dict[object, ValueProbe | WeightProbe]:
        """What has to be probed: by (layer, form) for weights, by name for values."""
        ranges = self.ranges()
        probes: dict[object, ValueProbe | WeightProbe] = {}
        for layer in layers:
            for form in worthwhile[layer.name]:
                if layer.weight is not None:
                    probes[layer.name, form] = WeightProbe.of(
                        layer, form, ranges, paired=self.paired
                    )
                if form.reads_uint8:
                    for value in (
                        *layer.inputs,
                        *([layer.output] if writes_uint8(layer, form) else []),
                    ):
                        name = str(value.name)
                        probes[name] = ValueProbe(name, *ranges[name])
        return probes

    def _worthwhile(
        self, layer: Layer, cells: Mapping[str, Mapping[Form, CellLatency]]
    ) -> list[Form]:
        """Integer forms that are faster than float in some neighbourhood."""
        own = cells.get(layer.name, {})
        if Form.FLOAT not in own:
            return []
        base = own[Form.FLOAT].core_us
        result: list[Form] = []
        for form, cell in own.items():
            if form is Form.FLOAT:
                continue
            # the most a chain can save: the conversions that this layer would otherwise force
            saved = cell.entry_us if form.reads_uint8 else 0.0
            saved += cell.exit_us if writes_uint8(layer, form) else 0.0
            if cell.core_us < base + saved:
                result.append(form)
        return result

    def _boundaries(
        self,
        layers: Sequence[Layer],
        cells: Mapping[str, Mapping[Form, CellLatency]],
        distortion: Mapping[str, float],
    ) -> dict[str, Boundary]:
        """What changing between float and uint8 costs at every value that could be uint8."""
        writer = {str(layer.output.name): layer for layer in layers}
        readers: dict[str, list[Layer]] = {}
        for layer in layers:
            for value in dict.fromkeys(layer.inputs):
                readers.setdefault(str(value.name), []).append(layer)
        outputs = {str(v.name) for v in self.model.graph.outputs}

        def cost(layer: Layer | None, form: Form, side: str) -> float:
            cell = cells.get(layer.name, {}).get(form) if layer is not None else None
            if cell is None:
                return 0.0
            if side == "exit":
                return cell.exit_us
            return cell.entry_us / max(1, len(set(map(id, layer.inputs))) if layer else 1)

        result = {}
        for name, lost in distortion.items():
            producer = writer.get(name)
            enter_int8 = max(
                (cost(r, f, "entry") for r in readers.get(name, []) for f in Form if f.reads_uint8),
                default=0.0,
            )
            enter_float = max(
                (cost(r, Form.FLOAT, "entry") for r in readers.get(name, [])), default=0.0
            )
            result[name] = Boundary(
                name,
                quantize_us=cost(producer, Form.FLOAT, "exit") + enter_int8,
                dequantize_us=cost(producer, Form.INT8, "exit") + enter_float,
                distortion=lost,
                is_output=name in outputs,
            )
        return result

    def apply(self, model: ir.Model, chosen: Mapping[str, Option]) -> ir.Model:
        """A copy of `model` in which the layers have the chosen options of this technique."""
        forms = {
            layer: Form(option.form)
            for layer, option in chosen.items()
            if option.technique == self.name
        }
        result = model.clone()
        QuantizeLayers(forms, self.ranges(), self.paired).run(result)
        return result


def quantized_bytes(layer: Layer, form: Form) -> int:
    """Bytes of the layer's weights in this form, scales included."""
    if layer.weight is None or layer.weight.const_value is None:
        return 0
    elements = int(np.prod(layer.weight.const_value.shape.numpy()))
    scales = 4 * max(1, elements // 128) if form is Form.BLOCK else 4 * _outputs(layer)
    return elements + scales


def _outputs(layer: Layer) -> int:
    assert layer.weight is not None
    assert layer.weight.const_value is not None
    shape = layer.weight.const_value.shape.numpy()
    return int(shape[0] if layer.op == "Conv" else shape[-1])
