"""Checkpoints in float8: weights with scales beside them, dequantised to float32 as they are read."""

import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models.config_values import short

KEY = "quantization_config"
"""Key of config.json."""
# Names of types in a safetensors header -> numpy types; safetensors' own reader for numpy knows none of them.
TYPES: dict[str, Any] = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
# A weight W is W times this tensor; both names are in use for the factor itself.
_SCALES = ("_scale_inv", "_scale")
# Scales of activations and of the cache, which we compute in the run's own precision.
_OF_ACTIVATIONS = re.compile(r"\.(input_scale|input_scale_ub|activation_scale|[qkv]_scale)$")
_METHODS = ("fp8", "fbgemm_fp8", "modelopt", "compressed-tensors")


def check_method(quantisation: Any, where: str) -> None:
    """Checks config.json's `quantization_config`: weights in float8 can be read, others not.

    Raises:
        InputError: it says that the weights are in another format.
    """
    if not isinstance(quantisation, dict):
        raise InputError(f"{where}: quantization_config = {short(quantisation)}; expected an object")
    method = quantisation.get("quant_method", quantisation.get("quant_algo"))
    groups = quantisation.get("config_groups")
    weights = [g.get("weights") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    others = [w for w in weights if not isinstance(w, dict) or (w.get("type"), w.get("num_bits")) != ("float", 8)]
    if method not in _METHODS or others:
        what = f" with weights {short(others[0])}" if method in _METHODS else ""
        raise InputError(f"{where}: quantization_config.quant_method = {short(method)}{what} is not supported; "
                         f"allowed: float8 by {', '.join(_METHODS)}")
    block = quantisation.get("weight_block_size")
    if block is not None and not (isinstance(block, list) and len(block) == 2
                                  and all(type(n) is int and 0 < n < 2**31 for n in block)):
        raise InputError(f"{where}: quantization_config.weight_block_size = {short(block)}; expected two whole numbers")


def block_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale, by a checked config.json."""
    quantisation = {**config, **config.get("text_config", {})}.get(KEY)  # of a multimodal model: its decoder's
    rows, columns = (quantisation or {}).get("weight_block_size") or (128, 128)
    return rows, columns


def scale_names(types: Mapping[str, str]) -> dict[str, str | None]:
    """Name of each float8 tensor -> name of its scale; None if it has none. `types`: tensor name -> type."""
    return {name: next((name + end for end in _SCALES if name + end in types), None)
            for name, kind in types.items() if kind in TYPES and not name.endswith(_SCALES)}


def is_of_activations(name: str) -> bool:
    """Whether a tensor beside float8 weights is for the quantisation of activations."""
    return _OF_ACTIVATIONS.search(name) is not None


def dequantise(values: np.ndarray, scale: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """`values` (any shape, float32) times their scale: of all, of each row, or of each block of a matrix.

    Raises:
        ValueError: the scale has another shape.
    """
    if scale.size == 1:
        return values * scale.reshape(())
    if values.ndim != 2:
        raise ValueError(f"a scale of shape {scale.shape} for a tensor of shape {values.shape}")
    rows, columns = values.shape
    if scale.shape in ((rows,), (rows, 1)):
        return values * scale.reshape(rows, 1)
    if scale.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise ValueError(f"a scale of shape {scale.shape} for a tensor of shape {values.shape} in blocks of {block}")
    whole = np.repeat(np.repeat(scale, block[0], axis=0)[:rows], block[1], axis=1)[:, :columns]
    return values * whole
