"""The layer y = x kernel + bias, whose gradient is written by hand, with LoRA beside the kernel where there is any."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ilf_jax.runtime import barriers

GRADIENT_SO_FAR = "gradient_so_far"
"""Name of what may stand beside a kernel in params; see `Linear`."""
KEPT = "matmul with params"
"""Name of a Linear's output for policies of rematerialisation."""


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array, gradient_so_far: jax.Array | None = None) -> jax.Array:
    """x kernel, computed in x's dtype with float32 accumulation and results.

    Differentiated by hand for three reasons: the kernel's gradient is one matmul over all tokens, which XLA's CPU
    backend otherwise feeds with transposed copies of its inputs; it stays float32 where the matmuls are not; and it is
    added to `gradient_so_far` on the spot.
    """
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _matmul_forwards(x: Any, kernel: Any, gradient_so_far: Any) -> tuple[jax.Array, tuple]:
    # A frozen kernel (LoRA) needs no gradient, and nothing kept for it.
    kept = x.value if kernel.perturbed else None, kernel.value.astype(x.value.dtype)
    return _matmul(x.value, kernel.value), (*kept, None if gradient_so_far is None else gradient_so_far.value)


def _matmul_backwards(saved: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array | None, None]:
    x, kernel, gradient_so_far = saved
    dy = dy.astype(kernel.dtype)
    dx = jnp.matmul(dy, kernel.T, preferred_element_type=jnp.float32).astype(kernel.dtype)
    if x is None:
        return dx, None, None
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    gradient = jnp.einsum("td,tf->df", x, dy, preferred_element_type=jnp.float32)
    if gradient_so_far is not None:
        gradient = gradient_so_far + gradient
    return *barriers.materialise((dx, gradient)), None


_matmul.defvjp(_matmul_forwards, _matmul_backwards, symbolic_zeros=True)


class Linear(nn.Module):
    """y = x kernel + bias, kernel in x out; params float32, computed in `dtype` with float32 accumulation.

    Where `training.lora.add` put `lora_a` (in x r), `lora_b` (r x out) and `lora_scale` beside the kernel W,
    scale (x A) B is added (Hu et al. 2021, eq. 3); W + scale A B never exists. Where a sum of gradients stands
    beside the kernel as `GRADIENT_SO_FAR`, the kernel's gradient comes out as that sum and what is new.
    """

    features: int
    use_bias: bool
    dtype: jnp.dtype
    init_variance: float = 1.0  # of the outputs, for inputs of variance 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(self.init_variance, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        so_far: Any = self.get_variable("params", GRADIENT_SO_FAR)  # None if there is none
        y = checkpoint_name(_matmul(x, kernel, so_far), KEPT)
        if self.has_variable("params", "lora_a"):
            lora: list[Any] = [self.get_variable("params", f"lora_{name}") for name in ("a", "b", "scale")]
            a, b, scale = lora
            low = jnp.matmul(x, a.astype(self.dtype), preferred_element_type=jnp.float32) * scale
            y = y + jnp.matmul(low.astype(self.dtype), b.astype(self.dtype), preferred_element_type=jnp.float32)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y.astype(self.dtype)
