"""What a run leaves behind: report.json and plan.json, as versioned, documented models.

Times carry their unit in the name (`_us`, `_ms`, `_s`), sizes are bytes, and every latency says
whether it was measured or predicted.
"""

from __future__ import annotations

from typing import Literal

import pydantic

SCHEMA_VERSION = 1


class Record(pydantic.BaseModel):
    """Base of all records: unknown fields are refused, so that schemas do not drift."""

    model_config = pydantic.ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class Latency(Record):
    """Time of one inference, with its spread."""

    median_ms: float = pydantic.Field(description="median over the timed inferences")
    p10_ms: float = pydantic.Field(description="10th percentile")
    p90_ms: float = pydantic.Field(description="90th percentile")
    runs: int = pydantic.Field(description="timed inferences, warm-up excluded")
    kind: Literal["measured", "predicted"] = pydantic.Field(
        "measured", description="whether it was timed or computed by a model of the device"
    )


class Ratio(Record):
    """How many times faster than the model that was given, by interleaved measuring."""

    median: float = pydantic.Field(description="median over rounds")
    low: float = pydantic.Field(description="10th percentile over rounds")
    high: float = pydantic.Field(description="90th percentile over rounds")
    rounds: int = pydantic.Field(description="how often both models were timed in turn")


class Quality(Record):
    """The user's evaluation, higher is better."""

    metric: str = pydantic.Field(description="name of the evaluation")
    value: float = pydantic.Field(description="of this model")
    reference: float = pydantic.Field(description="the same evaluation of the model as given")
    drop: float = pydantic.Field(description="reference - value")
    relative_drop: float | None = pydantic.Field(
        description="drop / |reference|; null if that is 0"
    )
    allowed: float | None = pydantic.Field(None, description="lowest value within the budget")


class SliceError(Record):
    """Error of one slice of an output against the model as given."""

    output: str = pydantic.Field(description="name of the output")
    slice: str = pydantic.Field(description="which channel or column; 'all' for undivided outputs")
    relative_error: float = pydantic.Field(description="squared error / variance of the slice")


class OutputFidelity(Record):
    """How close the artifact's outputs are to those of the model as given, on calibration data."""

    distortion: float = pydantic.Field(description="what the selector minimises; 0 is identical")
    sqnr_db: float | None = pydantic.Field(
        None, description="signal to quantization noise over all outputs; null if not measured"
    )
    decision_agreement: float | None = pydantic.Field(
        None, description="share of equal decisions (arg max, or above one half); null without any"
    )
    worst_slices: list[SliceError] = pydantic.Field(
        [], description="the slices with the largest errors, worst first"
    )


class Candidate(Record):
    """A model that was built, or considered, and what became of it."""

    name: str = pydantic.Field(description="as tables and the outcome call it")
    size_bytes: int = pydantic.Field(description="of the model file(s)")
    predicted_us: float | None = pydantic.Field(
        None, description="latency as the selector predicted it; null if it did not"
    )
    predicted_distortion: float | None = pydantic.Field(
        None, description="distortion as the selector predicted it; null if it did not"
    )
    latency: Latency | None = None
    speedup: Ratio | None = None
    quality: Quality | None = None
    fidelity: OutputFidelity | None = None
    forms: dict[str, int] = pydantic.Field({}, description="layers per form")
    shipped: bool = pydantic.Field(False, description="whether this is the model that was written")
    verdict: str = pydantic.Field(description="why it was shipped, or why not")


class ModelInfo(Record):
    """The model as it was given."""

    source: str = pydantic.Field(description="path or factory as given, or the kind of object")
    sha256: str = pydantic.Field(description="of the model's content")
    format: str = pydantic.Field(description="kind of file or object")
    size_bytes: int = pydantic.Field(description="of the file(s), or of the serialised model")
    parameters: int = pydantic.Field(description="numbers in the weights")
    nodes: int = pydantic.Field(description="operators in the graph as given")
    inputs: list[str] = pydantic.Field(description="name: dtype[shape]")
    outputs: list[str] = pydantic.Field(description="name: dtype[shape]")


class DataInfo(Record):
    """What was used for calibration."""

    source: str = pydantic.Field(
        description="path or reference as given, or how the samples were made"
    )
    samples: int = pydantic.Field(description="how many were used")
    synthetic: bool = pydantic.Field(
        description="whether the samples were made up, for want of data"
    )
    description: str = pydantic.Field(description="what the samples are, in words")


class Step(Record):
    """Where the time of the run went."""

    name: str = pydantic.Field(description="of the step, as progress shows it")
    seconds: float = pydantic.Field(description="wall time")


class Report(Record):
    """report.json"""

    schema_version: int = pydantic.Field(SCHEMA_VERSION, description="of this file")
    compress_version: str = pydantic.Field(description="of the program that wrote it")
    created: str = pydantic.Field(description="ISO 8601, UTC")
    command: str = pydantic.Field(description="reproduces this run")
    model: ModelInfo
    target: str = pydantic.Field(description="name of the device profile")
    device: dict[str, str] = pydantic.Field(description="what the host or device was found to be")
    versions: dict[str, str] = pydantic.Field(
        description="of the runtime and the packages that matter"
    )
    seed: int = pydantic.Field(description="of everything drawn at random")
    budget: dict[str, str] = pydantic.Field(description="the bounds as asked")
    data: DataInfo
    exit_code: int = pydantic.Field(description="0 within budget, 1 budget not met")
    outcome: str = pydantic.Field(description="one sentence: what was shipped and why")
    before: Candidate = pydantic.Field(description="the model as given")
    after: Candidate = pydantic.Field(description="the model that was shipped")
    candidates: list[Candidate] = pydantic.Field(
        description="all that were built or considered, in order"
    )
    warnings: list[str] = pydantic.Field(
        [], description="what a reader should know before trusting the result"
    )
    steps: list[Step] = pydantic.Field(description="in order")
    peak_memory_bytes: int | None = pydantic.Field(
        None, description="most memory in use at once; null if the system does not tell"
    )


class OptionRecord(Record):
    """One way to realise a layer."""

    technique: str = pydantic.Field(description="who proposed it; float keeps the layer as it is")
    form: str = pydantic.Field(description="what it is, in the technique's words")
    latency_us: float = pydantic.Field(
        description="of the layer alone; changes between float and int8 excluded"
    )
    bytes: int = pydantic.Field(description="of the weights in this form")
    distortion: float = pydantic.Field(
        description="share of the output's energy that is predicted to be lost"
    )
    kind: Literal["measured", "predicted"] = pydantic.Field(
        "measured", description="whether the latency was timed or computed by a model of the device"
    )


class LayerPlan(Record):
    """A layer, what it could become, what it became and why."""

    name: str = pydantic.Field(description="of the operator in the canonical model")
    kind: str = pydantic.Field(description="operator; depthwise convolutions by their own name")
    shape: str = pydantic.Field(description="of the output for the typical input")
    macs: int = pydantic.Field(
        description="multiply-accumulates of one inference; 0 without weights"
    )
    options: list[OptionRecord] = pydantic.Field(description="all that were considered")
    chosen: str = pydantic.Field(description="technique:form")
    why: str = pydantic.Field(description="the reason for the choice, in words")


class StructureChange(Record):
    """Layers that were merged or dropped, or channels that were removed."""

    technique: str = pydantic.Field(description="merge or prune")
    form: str = pydantic.Field(
        description="kernel of the operator that took over, drop, or the channels that were kept"
    )
    layers: list[str] = pydantic.Field(description="that it concerns, by their earlier names")
    latency_us: float = pydantic.Field(description="predicted, of what took over")
    distortion: float = pydantic.Field(description="predicted, of this change before recovery")


class Recovery(Record):
    """A network that learned to answer as the original does."""

    name: str = pydantic.Field(description="of the candidate")
    changes: list[StructureChange] = pydantic.Field(description="what was changed before")
    steps: int = pydantic.Field(description="that were made")
    planned: int = pydantic.Field(description="steps that would have been made at most")
    seconds: float = pydantic.Field(description="of training")
    before: float = pydantic.Field(description="distortion on held-back samples before training")
    after: float = pydantic.Field(description="and after it; never larger")
    shipped: bool = pydantic.Field(False, description="whether the shipped model comes from it")


class FrontierPoint(Record):
    """An optimal trade-off, as predicted."""

    latency_us: float = pydantic.Field(description="predicted, of the whole model")
    distortion: float = pydantic.Field(description="predicted, of the whole model")
    bytes: int = pydantic.Field(description="of all weights")
    shipped: bool = pydantic.Field(False, description="whether this is the choice that was shipped")


class Solver(Record):
    """What the selector proved about the choice that was shipped."""

    value_us: float = pydantic.Field(description="predicted latency of the choice")
    bound_us: float = pydantic.Field(
        description="proven: no choice within the same limits is faster"
    )
    status: Literal["optimal", "feasible", "infeasible", "none"] = pydantic.Field(
        description="optimal is proven; feasible ran out of time; none: nothing to choose"
    )
    seconds: float = pydantic.Field(description="spent solving")
    distortion: float = pydantic.Field(description="predicted, of the choice")
    options: int = pydantic.Field(description="that were offered")
    layers: int = pydantic.Field(description="that were covered")


class Plan(Record):
    """plan.json"""

    schema_version: int = pydantic.Field(SCHEMA_VERSION, description="of this file")
    layers: list[LayerPlan] = pydantic.Field(description="in the model's order")
    solver: Solver
    frontier: list[FrontierPoint] = pydantic.Field(description="fastest first")
    recoveries: list[Recovery] = pydantic.Field(
        [], description="networks with other layers that were trained, in order"
    )


class FormInfo(Record):
    """A form that a layer could take on a device."""

    form: str = pydantic.Field(description="as in OptionRecord")
    latency_us: float | None = pydantic.Field(
        None, description="measured, of the layer alone; null if it was not measured"
    )


class LayerInfo(Record):
    """A layer as `compress inspect` shows it."""

    name: str = pydantic.Field(description="of the operator in the canonical model")
    kind: str = pydantic.Field(description="operator; depthwise convolutions by their own name")
    shape: str = pydantic.Field(description="of the output for the typical input")
    macs: int = pydantic.Field(description="multiply-accumulates of one inference")
    weight_bytes: int = pydantic.Field(description="of the weights as given; 0 without any")
    forms: list[FormInfo] = pydantic.Field(description="what it could become, float first")


class BenchEntry(Record):
    """A model that was timed."""

    name: str = pydantic.Field(description="path or factory as given, or the kind of object")
    size_bytes: int = pydantic.Field(description="of the model file(s)")
    latency: Latency
    speedup: Ratio | None = pydantic.Field(
        None, description="how many times as fast as the first model; null for the first itself"
    )


class Bench(Record):
    """What `compress bench` prints: models timed in turns on the same inputs."""

    schema_version: int = pydantic.Field(SCHEMA_VERSION, description="of this record")
    target: str = pydantic.Field(description="name of the device profile")
    device: dict[str, str] = pydantic.Field(
        {}, description="what the host or device was found to be"
    )
    threads: int = pydantic.Field(description="of the runtime")
    inputs: str = pydantic.Field(description="what the models were run on, in words")
    models: list[BenchEntry] = pydantic.Field(description="in the order they were given")
