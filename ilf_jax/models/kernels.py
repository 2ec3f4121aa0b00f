"""Fused attention for accelerators: same result as `attention.blockwise`, from cuDNN and from JAX's Pallas kernels."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ilf_jax.runtime import progress

_AMPERE, _HOPPER = (8, 0), (9, 0)
SPLASH_BLOCK = 128
"""The splash kernel takes row lengths that are multiples of this."""


def row_multiple(attention: str) -> int:
    """What row lengths are multiples of for a kernel, see `ComputeOptions.attention`."""
    return SPLASH_BLOCK if attention == "splash" else 1


def why_not_flash(head_dim: int, compute_capability: str) -> str | None:
    """Why cuDNN's flash attention does not take heads of this size on this GPU, as jax.nn checks it; None if it does.

    Args:
        head_dim: of the model.
        compute_capability: as NVIDIA numbers its GPUs: 8.0 is an A100, 9.0 an H100.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)", compute_capability)
    capability = (int(match[1]), int(match[2])) if match else (0, 0)  # other makers have names for theirs
    if capability < _AMPERE:
        return f"needs compute capability 8.0, not {compute_capability}"
    largest = 256 if capability >= _HOPPER else 128
    if head_dim > largest or head_dim % 8:
        return f"takes a head_dim of up to {largest} in steps of 8 on compute capability {compute_capability}"
    return None


def flash(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None, *, implementation: str = "cudnn",
) -> jax.Array:
    """cuDNN's flash attention through jax.nn; B x L x K x G x H. Needs an NVIDIA GPU and 16-bit inputs.

    Args:
        q_BxLxKxGxH: scaled queries, G heads for each of K key heads.
        k_BxKxLxH: keys.
        v_BxKxLxH: values.
        segments_BxL: segment ids, or None.
        window: sliding window in tokens, or None.
        implementation: of jax.nn.dot_product_attention; tests pass 'xla'.
    """
    B, L, K, G, H = q_BxLxKxGxH.shape
    mask = None
    if segments_BxL is not None:
        mask = (segments_BxL[:, :, None] == segments_BxL[:, None, :])[:, None]
    attend: Any = jax.nn.dot_product_attention  # its overloads do not know `implementation` as a str
    out = attend(
        q_BxLxKxGxH.reshape(B, L, K * G, H), k_BxKxLxH.transpose(0, 2, 1, 3), v_BxKxLxH.transpose(0, 2, 1, 3),
        mask=mask, scale=1.0, is_causal=True, local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return out.reshape(B, L, K, G, H)


def why_not_splash(shape: tuple[int, ...], mesh: Mesh) -> str | None:
    """Why the splash kernel does not take queries of this shape (B x L x K x G x H) on this mesh; None if it does."""
    B, L, K, _, _ = shape
    shards, tensor = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]
    if L % SPLASH_BLOCK:
        return f"takes rows of a multiple of {SPLASH_BLOCK} tokens, not {L}"
    if K % tensor:
        return f"takes a multiple of {tensor} key heads on this mesh, not {K}"
    if B % shards:
        return f"takes a multiple of {shards} rows on this mesh, not {B}"
    return None


@functools.cache  # said once
def say_fallback(kernel: str, reason: str) -> None:
    """Logs that plain XLA computes attention in place of a kernel, and why."""
    progress.log(f"attention: XLA computes it in place of {kernel}, which {reason}")


def splash(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None, mesh: Mesh, softcap: float = 0.0,
) -> jax.Array:
    """TPU splash attention, sharded explicitly: rows over data and fsdp, heads over tensor; B x L x K x G x H.

    Off a TPU the kernel is interpreted: slow, with the same results.

    Args:
        q_BxLxKxGxH: scaled queries, G heads for each of K key heads.
        k_BxKxLxH: keys.
        v_BxKxLxH: values.
        segments_BxL: segment ids, or None.
        window: sliding window in tokens, or None.
        mesh: mesh with the axes data, fsdp and tensor.
        softcap: scores become softcap * tanh(scores / softcap); 0 means off.
    """
    # Pallas takes a second to import, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    B, L, K, G, H = q_BxLxKxGxH.shape
    if segments_BxL is None:
        segments_BxL = jnp.zeros((B, L), jnp.int32)
    causal: Any = splash_attention_mask.CausalMask((L, L))
    if window is not None:
        causal = causal & splash_attention_mask.LocalMask((L, L), (window - 1, 0), 0)
    rows, heads = ("data", "fsdp"), "tensor"

    @functools.partial(
        jax.shard_map, mesh=mesh, check_vma=False, out_specs=PartitionSpec(rows, heads),
        in_specs=(PartitionSpec(rows, heads), PartitionSpec(rows, heads), PartitionSpec(rows, heads),
                  PartitionSpec(rows)),
    )
    def attend(q_BxNxLxH: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        kernel = splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([causal] * q_BxNxLxH.shape[1]), head_shards=1, q_seq_shards=1,
            interpret=jax.default_backend() != "tpu", attn_logits_soft_cap=softcap or None,
        )
        return jax.vmap(lambda q, k, v, s: kernel(q, k, v, splash_attention_kernel.SegmentIds(s, s)))(
            q_BxNxLxH, k, v, segments
        )

    q = q_BxLxKxGxH.transpose(0, 2, 3, 1, 4).reshape(B, K * G, L, H)
    out = attend(q, k_BxKxLxH, v_BxKxLxH, segments_BxL)
    return out.reshape(B, K, G, L, H).transpose(0, 3, 1, 2, 4)
