"""Random params in stacks, see `layer_stack`, by a program that does not grow with the model's depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ilf_jax.models import layer_stack, rope, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.cache import AttentionContext
from ilf_jax.models.compute import FLOAT32


class _LayerKey(nn.Module):
    @nn.compact
    def __call__(self) -> jax.Array:
        return self.make_rng("params")


class _LayerKeys(nn.Module):
    layers: int

    @nn.compact
    def __call__(self) -> list[jax.Array]:
        return [_LayerKey(name=f"layers_{i}")() for i in range(self.layers)]


def layer_keys(config: ModelConfig, key: jax.Array) -> jax.Array:
    """The keys that flax derives from the layers' names in `transformer.init_params`, one a layer."""
    keys: list[jax.Array] = _LayerKeys(config.num_layers).apply({}, rngs={"params": key})  # type: ignore[assignment]
    return jnp.stack(keys)


def init_stacked(config: ModelConfig, key: jax.Array, layer_keys: jax.Array) -> transformer.Params:
    """The params of `transformer.init_params(config, key)` in stacks, bit for bit.

    Args:
        config: of the model.
        key: as there.
        layer_keys: see `layer_keys`; made outside of the program, which would otherwise grow with them.
    """
    params = transformer.init_params(config, key)  # the compiler drops the layers that are replaced
    x, positions = jnp.zeros((1, 1, 1, config.hidden_size)), jnp.zeros((1, 1, 1), jnp.int32)
    for name, layers in layer_stack.stacks(config).items():
        slides, rotated = config.is_sliding(layers[0]), config.is_rotated(layers[0])
        rotation = rope.rotation(config, slides, positions) if rotated else None
        layer = transformer.Layer(config, slides, FLOAT32)

        def init(
            key: jax.Array, layer: nn.Module = layer, rotation: rope.Rotation | None = rotation
        ) -> transformer.Params:
            return layer.init(key, x, positions, rotation, AttentionContext(), None)["params"]

        for i in layers:
            del params[f"layers_{i}"]
        of_stack = layer_keys[layers.start : layers.stop : layers.step]
        params[name] = jax.lax.map(init, of_stack)  # one layer's temporaries at a time
    return params
