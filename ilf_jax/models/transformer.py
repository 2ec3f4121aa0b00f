"""The decoder. `ModelConfig` says which family it is; nothing else here does.

Activations are B x C x L x D: B documents, C candidates that share their document's prefix, L tokens. Training and
prefill use C = 1. Params in stacks run under a scan, see `layer_stack`; other layers are unrolled, so that each one's
cache is its own buffer.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from ilf_jax.models import attention, layer_stack, rope
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.cache import KV, AttentionContext, Cache, Prefix
from ilf_jax.models.compute import FLOAT32, ComputeOptions
from ilf_jax.models.linear import KEPT, Linear

Params = dict

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}
SCALAR_HEAD = "scalar_head"
"""Name of a reward model's head in params."""
# What a layer keeps for the backward pass: its input, and with "dots" the outputs of its Linears, but no scores.
_REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(KEPT)}


class Norm(nn.Module):
    """RMSNorm or LayerNorm, computed in float32."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        rms = c.norm == "rms"
        initial = nn.initializers.constant(1.0 - c.norm_offset)
        scale = self.param("scale", initial, (x.shape[-1],), jnp.float32) + c.norm_offset
        x = x.astype(jnp.float32)
        if not rms:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + c.norm_eps) * scale
        if not rms:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return y.astype(self.dtype)


def _branch_variance(config: ModelConfig) -> float:
    """Variance of a residual branch's outputs at first: all 2 x layers of them add up to that of an embedding."""
    return 0.5 / (config.num_layers * config.hidden_size)


def _rows(x_BxCxLxD: jax.Array, wanted_BxCxW: jax.Array | None) -> jax.Array:
    """Those of the L tokens that are wanted, B x C x W x D; all of them if None."""
    return x_BxCxLxD if wanted_BxCxW is None else jnp.take_along_axis(x_BxCxLxD, wanted_BxCxW[..., None], axis=2)


class Attention(nn.Module):
    """Grouped-query attention among the tokens at hand, or, behind a shared prefix, to that and own tokens too.

    Returns the outputs of the wanted tokens, and all keys and values, in the cache if there is one.
    """

    config: ModelConfig
    slides: bool  # sees only keys within the window
    compute: ComputeOptions

    @nn.compact
    def __call__(
        self, x: jax.Array, positions_BxCxL: jax.Array, rotation: rope.Rotation | None, context: AttentionContext,
        wanted_BxCxW: jax.Array | None,
    ) -> tuple[jax.Array, KV]:
        c = self.config
        B, C, L, _ = x.shape
        K, G, H = c.num_kv_heads, c.num_heads // c.num_kv_heads, c.head_dim
        window = c.sliding_window if self.slides else None

        linear = functools.partial(Linear, dtype=self.compute.dtype)
        q, k = linear(c.num_heads * H, c.qkv_bias, name="q")(x), linear(K * H, c.qkv_bias, name="k")(x)
        norm_q, norm_k = (Norm(c, self.compute.dtype, name=name) for name in ("q_norm", "k_norm"))
        if c.qk_norm_whole:
            q, k = norm_q(q), norm_k(k)
        q, k = q.reshape(B, C, L, K * G, H), k.reshape(B, C, L, K, H)
        v = linear(K * H, c.qkv_bias, name="v")(x).reshape(B, C, L, K, H)
        if c.qk_norm:
            q, k = norm_q(q), norm_k(k)
        if rotation is not None:
            q, k = rope.apply_rope(q, *rotation), rope.apply_rope(k, *rotation)
        q = q * jnp.asarray(c.query_scale if c.query_scale is not None else H**-0.5, self.compute.dtype)
        q = q.reshape(B, C, L, K, G, H)
        k, v = k.transpose(0, 3, 1, 2, 4), v.transpose(0, 3, 1, 2, 4)  # B K C L H: a head's keys lie together

        if context.prefix is None:
            kept = k, v = k[:, :, 0], v[:, :, 0]
            out = attention.causal(q[:, 0], k, v, context.segments_BxL, window, c.attention_softcap, self.compute)
        else:
            kept = k, v
            if context.cache is not None:
                written_k, k = context.cache.write(cast(jax.Array, context.cache.keys), k)
                written_v, v = context.cache.write(cast(jax.Array, context.cache.values), v)
                kept = written_k, written_v
            # Of this layer, see `AttentionContext.of_layer`.
            prefix = cast(tuple[jax.Array, jax.Array], (context.prefix.keys, context.prefix.values))
            assert context.distance_BxCxLxS is not None
            out = attention.behind_prefix(
                q, prefix, context.prefix.lengths_B, (k, v), positions_BxCxL, context.distance_BxCxLxS, window,
                c.attention_softcap, one_by_one=self.compute.one_by_one,
            )
        out = _rows(out.reshape(B, C, L, K * G * H), wanted_BxCxW)
        return linear(x.shape[-1], c.output_bias, init_variance=_branch_variance(c), name="o")(out), kept


class MLP(nn.Module):
    """Gated or plain feed-forward layer."""

    config: ModelConfig
    compute: ComputeOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        linear = functools.partial(Linear, use_bias=c.mlp_bias, dtype=self.compute.dtype)
        act = _ACTIVATIONS[c.activation]
        up = linear(c.intermediate_size, name="up")(x)
        # Backwards, what lies between the matmuls is computed again from their outputs: less to keep, less to read.
        if c.gated_mlp:
            hidden = jax.checkpoint(lambda gate, up: act(gate) * up)(linear(c.intermediate_size, name="gate")(x), up)
        else:
            hidden = jax.checkpoint(act)(up)
        return linear(c.hidden_size, init_variance=_branch_variance(c), name="down")(hidden)


class Layer(nn.Module):
    """Attention and MLP with residual sums; their inputs are normed, or their outputs, or both.

    Layers whose attributes are equal are traced once.
    """

    config: ModelConfig
    slides: bool
    compute: ComputeOptions

    @nn.compact
    def __call__(
        self, x: jax.Array, positions_BxCxL: jax.Array, rotation: rope.Rotation | None, context: AttentionContext,
        wanted_BxCxW: jax.Array | None,
    ) -> tuple[jax.Array, KV]:
        c = self.config

        def normed(x: jax.Array, name: str, wanted: bool) -> jax.Array:
            return Norm(c, self.compute.dtype, name=name)(x) if wanted else x

        def plus(x: jax.Array, y: jax.Array) -> jax.Array:
            return self.compute.in_rows(x + (y if c.residual_scale == 1.0 else y * c.residual_scale))

        attend = Attention(c, self.slides, self.compute, name="attention")
        y, kv = attend(normed(x, "attention_norm", c.pre_norms), positions_BxCxL, rotation, context, wanted_BxCxW)
        x = plus(_rows(x, wanted_BxCxW), normed(y, "attention_post_norm", c.post_norms))
        y = MLP(c, self.compute, name="mlp")(normed(x, "mlp_norm", c.pre_norms))
        return plus(x, normed(y, "mlp_post_norm", c.post_norms)), kv


class Transformer(nn.Module):
    """Embedding, layers, final norm. Returns hidden states; `unembed` turns them into logits.

    Of those that are not wanted a last layer outside a stack computes keys and values, but no MLP.
    """

    config: ModelConfig
    compute: ComputeOptions = FLOAT32
    remat: str = "none"  # or a key of _REMAT_POLICIES
    returns_kv: bool = True  # else layers under a scan do not

    def _rounded(self, x: jax.Array) -> jax.Array:
        """Float32 values that `compute.dtype` has; XLA may leave out a conversion there and back, but not this."""
        x, info = x.astype(jnp.float32), jnp.finfo(self.compute.dtype)
        return x if self.compute.dtype == jnp.float32 else jax.lax.reduce_precision(x, info.nexp, info.nmant)

    @nn.compact
    def __call__(
        self, tokens_BxCxL: jax.Array, positions_BxCxL: jax.Array, context: AttentionContext,
        wanted_BxCxW: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[KV, ...]]:
        c = self.config
        # Length 1 a row: tied logits then start near variance 1.
        rows_init = nn.initializers.normal(c.hidden_size**-0.5)
        table = self.param("embedding", rows_init, (c.vocab_size, c.hidden_size), jnp.float32)
        # Params to train are float32, those to sample from are not: rounded before any arithmetic, both read the same.
        x = self._rounded(table[tokens_BxCxL])
        if c.embedding_scale != 1.0:
            x = self._rounded(x * self._rounded(jnp.float32(c.embedding_scale)))  # transformers rounds the scale, too
        if c.position == "learned":
            rows = c.max_positions + c.position_offset
            positions = self.param("positions", rows_init, (rows, c.hidden_size), jnp.float32)
            x = self._rounded(x + self._rounded(positions[positions_BxCxL + c.position_offset]))
        if not c.tied_embeddings:
            self.param("unembedding", rows_init, (c.vocab_size, c.hidden_size), jnp.float32)
        if c.scalar_head:
            self.param(SCALAR_HEAD, nn.initializers.zeros, (c.hidden_size,), jnp.float32)
        x = self.compute.in_rows(x.astype(self.compute.dtype))
        kinds = [c.is_sliding(i) for i in range(c.num_layers)]
        rotations = {slides: rope.rotation(c, slides, positions_BxCxL) for slides in sorted(set(kinds))}
        kvs: list[KV] = []
        scanned = 0
        if any(self.has_variable("params", name) for name in layer_stack.stacks(c)):
            x, kvs = self._scan(x, positions_BxCxL, rotations, context)
            scanned = sum(map(len, layer_stack.stacks(c).values()))
        layer_class = Layer
        if self.remat != "none":
            layer_class = nn.remat(Layer, prevent_cse=True, policy=_REMAT_POLICIES[self.remat])
        # XLA sees the layers as if they had been written out one after another.
        layer_class = nn.jit(layer_class)
        before = len(layer_stack.stacks(c)) if scanned else 0
        for i in range(scanned, c.num_layers):
            layer = layer_class(c, kinds[i], self.compute, name=f"layers_{i}")
            rotation = rotations[kinds[i]] if c.is_rotated(i) else None
            wanted = wanted_BxCxW if i == c.num_layers - 1 else None
            x, kv = layer(x, positions_BxCxL, rotation, context.of_layer(before + i - scanned), wanted)
            kvs.append(kv)
        if scanned == c.num_layers:
            x = self.compute.in_rows(_rows(x, wanted_BxCxW))
        return Norm(c, self.compute.dtype, name="final_norm")(x), tuple(kvs)

    def _scan(
        self, x: jax.Array, positions_BxCxL: jax.Array, rotations: dict[bool, rope.Rotation | None],
        context: AttentionContext,
    ) -> tuple[jax.Array, list[KV]]:
        """The layers of all stacks, one period a step; and their keys and values, one pair a stack."""
        c, stacks = self.config, layer_stack.stacks(self.config)
        prefix, cache = context.prefix, context.cache

        def layer(i: int, params: Params, x: jax.Array, context: AttentionContext) -> tuple[jax.Array, KV]:
            rotation = rotations[c.is_sliding(i)] if c.is_rotated(i) else None
            module = Layer(c, c.is_sliding(i), self.compute, parent=None)
            if self.remat != "none":
                x = self.compute.in_use(x)
            computed: Any = module.apply({"params": params}, x, positions_BxCxL, rotation, context, None)
            return computed

        if self.remat != "none":
            # A loop's steps are not merged with what they compute again.
            layer = jax.checkpoint(layer, prevent_cse=False, policy=_REMAT_POLICIES[self.remat], static_argnums=0)

        def period(carry: tuple, of_step: tuple) -> tuple[tuple, list[KV] | None]:
            x, written = carry
            params, of_prefix, number = of_step
            kvs = []
            for i, name in enumerate(stacks):
                here = context.in_scan(of_prefix[i] if of_prefix else None, written[i] if written else None, number)
                if self.remat != "none":
                    x = self.compute.to_keep(x)
                x, kv = layer(i, params[name], x, here)
                kvs.append(kv)
            if cache is not None:
                return (x, kvs), None
            return (x, written), kvs if prefix is None and self.returns_kv else None

        def pairs(kv: Prefix | Cache | None) -> list[KV]:
            return [] if kv is None else list(zip(kv.keys, kv.values, strict=True))[: len(stacks)]

        params: Params = {name: self.get_variable("params", name) for name in stacks}
        number = jnp.arange(len(next(iter(stacks.values()))))
        (x, written), kvs = jax.lax.scan(period, (x, pairs(cache)), (params, pairs(prefix), number))
        return x, written if cache is not None else kvs or []


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Random float32 params. Under `jax.eval_shape` this gives the shapes without any memory."""
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    return Transformer(config).init(key, tokens, tokens, AttentionContext())["params"]


@functools.cache
def param_shapes(config: ModelConfig) -> Params:
    """The params pytree as jax.ShapeDtypeStruct leaves; one for all who ask, to be read only."""
    return jax.eval_shape(functools.partial(init_params, config), jax.ShapeDtypeStruct((2,), jnp.uint32))


def forward(
    config: ModelConfig, params: Params, tokens_BxL: jax.Array, positions_BxL: jax.Array | None = None,
    segments_BxL: jax.Array | None = None, wanted_BxW: jax.Array | None = None, *, compute: ComputeOptions = FLOAT32,
    remat: str = "none",
) -> jax.Array:
    """Hidden states of independent rows, B x L x D, or B x W x D of those that are wanted.

    Args:
        config, params: of the model.
        tokens_BxL: token ids.
        positions_BxL: position of each token in its own text; 0..L-1 when None.
        segments_BxL: tokens see only tokens of their own segment (packing); one segment a row when None.
        wanted_BxW: where in their row the wanted tokens stand; all are when None.
        compute: precision and kernels.
        remat: what the backward pass computes again: "none", or a key of `_REMAT_POLICIES`.
    """
    if positions_BxL is None:
        positions_BxL = jnp.broadcast_to(jnp.arange(tokens_BxL.shape[1]), tokens_BxL.shape)
    hidden, _ = Transformer(config, compute, remat, returns_kv=False).apply(
        {"params": params}, tokens_BxL[:, None], positions_BxL[:, None], AttentionContext(segments_BxL),
        None if wanted_BxW is None else wanted_BxW[:, None],
    )
    return hidden[:, 0]


def prefill(
    config: ModelConfig, params: Params, tokens_BxP: jax.Array, lengths_B: jax.Array, *,
    compute: ComputeOptions = FLOAT32,
) -> tuple[jax.Array, Prefix]:
    """Hidden state of each row's last real token, B x D, and the prefix that its candidates share."""
    positions = jnp.broadcast_to(jnp.arange(tokens_BxP.shape[1]), tokens_BxP.shape)
    last_Bx1x1 = (lengths_B - 1)[:, None, None]
    hidden, kvs = Transformer(config, compute).apply(
        {"params": params}, tokens_BxP[:, None], positions[:, None], AttentionContext(), last_Bx1x1)
    keys, values = zip(*kvs, strict=True)
    return hidden[:, 0, 0], Prefix(keys, values, lengths_B)


def extend(
    config: ModelConfig, params: Params, prefix: Prefix, suffix_BxCxL: jax.Array,
    offsets_BxCxL: jax.Array | None = None, leaves_BxCxL: jax.Array | None = None,
    wanted_BxCxW: jax.Array | None = None, *, compute: ComputeOptions = FLOAT32,
) -> jax.Array:
    """Hidden states of C continuations of one prefix, B x C x L x D, or B x C x W x D of those that are wanted.

    A continuation may be a tree: a stem and leaves that see the stem and themselves, but not each other.

    Args:
        config, params: of the model.
        prefix: what the continuations share.
        suffix_BxCxL: token ids.
        offsets_BxCxL: position of each token behind the prefix; 0..L-1 when None.
        leaves_BxCxL: 0 on the stem, the number of its leaf on others; all stem when None.
        wanted_BxCxW: where in their continuation the wanted tokens stand; all are when None.
        compute: precision and kernels.
    """
    B, C, L = suffix_BxCxL.shape
    if offsets_BxCxL is None:
        offsets_BxCxL = jnp.broadcast_to(jnp.arange(L), (B, C, L))
    distance = offsets_BxCxL[..., :, None] - offsets_BxCxL[..., None, :]
    if leaves_BxCxL is not None:
        key_leaf = leaves_BxCxL[..., None, :]
        distance = jnp.where((key_leaf == 0) | (key_leaf == leaves_BxCxL[..., :, None]), distance, -1)
    positions = prefix.lengths_B[:, None, None] + offsets_BxCxL
    hidden, _ = Transformer(config, compute, returns_kv=False).apply(
        {"params": params}, suffix_BxCxL, positions, AttentionContext(prefix=prefix, distance_BxCxLxS=distance),
        wanted_BxCxW,
    )
    return hidden


def decode_step(
    config: ModelConfig, params: Params, prefix: Prefix, cache: Cache, tokens_BxC: jax.Array, *,
    compute: ComputeOptions = FLOAT32,
) -> tuple[jax.Array, Cache]:
    """Hidden states of one more token of each candidate, B x C x D, and the cache that holds it.

    Where a row has had as many tokens as the cache has slots, its oldest one is written over.
    """
    B, C = tokens_BxC.shape
    slots = cache.keys[0].shape[-2]
    back = (cache.index - jnp.arange(slots)) % slots  # how many steps ago a slot was written
    distance = jnp.where(back <= cache.ages_B[:, None], back, -1)
    distance = jnp.broadcast_to(distance[:, None, None], (B, C, 1, slots))
    positions = jnp.broadcast_to((prefix.lengths_B + cache.ages_B)[:, None, None], (B, C, 1))
    context = AttentionContext(prefix=prefix, cache=cache, distance_BxCxLxS=distance)
    hidden, kvs = Transformer(config, compute).apply({"params": params}, tokens_BxC[:, :, None], positions, context)
    keys, values = zip(*kvs, strict=True)
    return hidden[:, :, 0], Cache(keys, values, (cache.index + 1) % slots, cache.ages_B + 1)


def unembed(config: ModelConfig, params: Params, hidden: jax.Array, rows: jax.Array | None = None) -> jax.Array:
    """Float32 logits of hidden states (... x D): over the vocabulary, or over the token ids `rows` (... x R) only."""
    table = params["embedding"] if config.tied_embeddings else params["unembedding"]
    if rows is None:
        logits = jnp.einsum("...d,vd->...v", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32)
    else:
        logits = jnp.einsum("...d,...rd->...r", hidden.astype(jnp.float32), table[rows])
    logits = logits * config.logit_scale
    if config.logit_softcap:
        logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
    return logits


def with_scalar_head(config: ModelConfig, params: Params) -> Params:
    """The params of a language model with a scalar head, all zeros, beside the others."""
    return {**params, SCALAR_HEAD: jnp.zeros(config.hidden_size, jnp.float32)}


def scalar(params: Params, hidden: jax.Array) -> jax.Array:
    """Float32 value of hidden states (... x D) by the scalar head, of shape (...)."""
    return jnp.einsum("...d,d->...", hidden.astype(jnp.float32), params[SCALAR_HEAD])
