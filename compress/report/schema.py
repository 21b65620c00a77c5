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

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int = pydantic.Field(description="timed inferences, warm-up excluded")
    kind: Literal["measured", "predicted"] = "measured"


class Ratio(Record):
    """How many times faster than the model that was given, by interleaved measuring."""

    median: float
    low: float = pydantic.Field(description="10th percentile over rounds")
    high: float = pydantic.Field(description="90th percentile over rounds")
    rounds: int


class Quality(Record):
    """The user's evaluation, higher is better."""

    metric: str = pydantic.Field(description="name of the evaluation")
    value: float
    reference: float = pydantic.Field(description="the same evaluation of the model as given")
    drop: float = pydantic.Field(description="reference - value")
    relative_drop: float | None = pydantic.Field(
        description="drop / |reference|; null if that is 0"
    )
    allowed: float | None = pydantic.Field(None, description="lowest value within the budget")


class SliceError(Record):
    """Error of one slice of an output against the model as given."""

    output: str
    slice: str = pydantic.Field(description="which channel or column; 'all' for undivided outputs")
    relative_error: float = pydantic.Field(description="squared error / variance of the slice")


class OutputFidelity(Record):
    """How close the artifact's outputs are to those of the model as given, on calibration data."""

    distortion: float = pydantic.Field(description="what the selector minimises; 0 is identical")
    sqnr_db: float | None = None
    decision_agreement: float | None = pydantic.Field(
        None, description="share of equal decisions (arg max, or above one half); null without any"
    )
    worst_slices: list[SliceError] = []


class Candidate(Record):
    """A model that was built, or considered, and what became of it."""

    name: str
    size_bytes: int
    predicted_us: float | None = None
    predicted_distortion: float | None = None
    latency: Latency | None = None
    speedup: Ratio | None = None
    quality: Quality | None = None
    fidelity: OutputFidelity | None = None
    forms: dict[str, int] = pydantic.Field({}, description="layers per form")
    shipped: bool = False
    verdict: str = pydantic.Field(description="why it was shipped, or why not")


class ModelInfo(Record):
    """The model as it was given."""

    source: str
    sha256: str
    format: str
    size_bytes: int
    parameters: int
    nodes: int
    inputs: list[str] = pydantic.Field(description="name: dtype[shape]")
    outputs: list[str]


class DataInfo(Record):
    """What was used for calibration."""

    source: str
    samples: int
    synthetic: bool
    description: str


class Step(Record):
    """Where the time of the run went."""

    name: str
    seconds: float


class Report(Record):
    """report.json"""

    schema_version: int = SCHEMA_VERSION
    compress_version: str
    created: str = pydantic.Field(description="ISO 8601, UTC")
    command: str = pydantic.Field(description="reproduces this run")
    model: ModelInfo
    target: str
    device: dict[str, str] = pydantic.Field(description="what the host or device was found to be")
    versions: dict[str, str]
    seed: int
    budget: dict[str, str] = pydantic.Field(description="the bounds as asked")
    data: DataInfo
    exit_code: int = pydantic.Field(description="0 within budget, 1 budget not met")
    outcome: str = pydantic.Field(description="one sentence: what was shipped and why")
    before: Candidate = pydantic.Field(description="the model as given")
    after: Candidate = pydantic.Field(description="the model that was shipped")
    candidates: list[Candidate]
    warnings: list[str] = []
    steps: list[Step]
    peak_memory_bytes: int | None = None


class OptionRecord(Record):
    """One way to realise a layer."""

    technique: str
    form: str
    latency_us: float
    bytes: int
    distortion: float
    kind: Literal["measured", "predicted"] = "measured"


class LayerPlan(Record):
    """A layer, what it could become, what it became and why."""

    name: str
    kind: str = pydantic.Field(description="operator; depthwise convolutions by their own name")
    shape: str = pydantic.Field(description="of the output for the typical input")
    macs: int
    options: list[OptionRecord]
    chosen: str = pydantic.Field(description="technique:form")
    why: str


class FrontierPoint(Record):
    """An optimal trade-off, as predicted."""

    latency_us: float
    distortion: float
    bytes: int
    shipped: bool = False


class Solver(Record):
    """What the selector proved about the choice that was shipped."""

    value_us: float
    bound_us: float
    status: Literal["optimal", "feasible", "infeasible", "none"]
    seconds: float
    distortion: float
    options: int
    layers: int


class Plan(Record):
    """plan.json"""

    schema_version: int = SCHEMA_VERSION
    layers: list[LayerPlan]
    solver: Solver
    frontier: list[FrontierPoint]
