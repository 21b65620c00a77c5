"""Weights (.pt, .pth, .safetensors) put into a module that the user's factory builds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import ModelError, UsageError
from compress.frontends.pickles import first_line, load_checkpoint

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
"""Keys under which training scripts put the weights beside optimizer and epoch."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before the name of each weight."""

_SHOWN_NAMES = 3


def read_safetensors(path: Path) -> dict[str, Any]:
    """Name -> tensor of a safetensors file.

    Raises:
        UsageError: the safetensors package is not installed.
        ModelError: the file is damaged.
    """
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UsageError(
            "reading .safetensors needs 'safetensors': install compress with its torch extra, "
            "as in pip install '.[torch]'"
        ) from None
    try:
        return dict(load_file(path, device="cpu"))
    except Exception as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from None


def read_checkpoint(path: Path, *, trust_pickle: bool) -> Any:
    """The weights (name -> tensor) in what torch.save wrote, or a whole module if it is trusted.

    Raises:
        ModelError: damaged, a pickled object that is not trusted, or no weights in it.
    """
    content = load_checkpoint(path, trust_pickle=trust_pickle)
    if hasattr(content, "state_dict") and hasattr(content, "forward"):
        return content
    weights = _find_weights(content)
    if weights is None:
        raise ModelError(f"{path} holds no state dict: save model.state_dict() with torch.save")
    return weights


def fill(module: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Load `weights` into `module`, every one of them and nothing else.

    Raises:
        ModelError: names or shapes differ; the message gives the first few.
    """
    wanted = module.state_dict()
    matched = _without_prefix(weights, wanted)
    missing = [name for name in wanted if name not in matched]
    surplus = [name for name in matched if name not in wanted]
    if missing or surplus:
        parts = []
        if missing:
            parts.append(f"lacks {_listed(missing)}")
        if surplus:
            parts.append(f"has {_listed(surplus)} that the model does not have")
        raise ModelError(f"{path} {' and '.join(parts)}: is it for another model?")
    for name, tensor in matched.items():
        if tuple(tensor.shape) != tuple(wanted[name].shape):
            raise ModelError(
                f"{path} has '{name}' of shape {tuple(tensor.shape)}, and the model wants "
                f"{tuple(wanted[name].shape)}"
            )
    try:
        module.load_state_dict(dict(matched))
    except Exception as error:
        raise ModelError(f"{path} does not fit the model: {first_line(error)}") from None


def _find_weights(content: Any) -> Mapping[str, Any] | None:
    if not isinstance(content, Mapping):
        return None
    if _is_state_dict(content):
        return content
    for key in _WRAPPERS:
        if _is_state_dict(content.get(key)):
            return dict(content[key])
    return None


def _is_state_dict(content: Any) -> bool:
    import torch

    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) for key in content)
        and all(isinstance(value, torch.Tensor) for value in content.values())
    )


def _without_prefix(weights: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights under the names that fit best: as they are, or without a common prefix."""
    candidates = [weights]
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            candidates.append({name[len(prefix) :]: value for name, value in weights.items()})
    return max(candidates, key=lambda named: sum(name in wanted for name in named))


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
