"""The models that play a part: each checkpoint is loaded once and shared."""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax.sharding import Mesh

from ilf_jax import config as config_lib
from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.inference import thinking
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io, finite_weights, kernels, layer_stack, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions, in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.remote import api_uris, endpoints
from ilf_jax.remote.endpoints import Endpoints
from ilf_jax.remote.remote_model import RemoteModel
from ilf_jax.runtime import checkpoint, files, hardware, progress, sharding, storage
from ilf_jax.tokenizers.tokenizer import Tokenizer

# Parts that are described by the section of another one.
_SECTIONS = {"base": "policy", "reward_base": "reward_model"}
# Parts that write texts, before which a model may think.
_WRITERS = ("policy", "refiner", "critic")
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def read_model_config(uri: str) -> ModelConfig:
    """See `checkpoint_io.read_config`."""
    return checkpoint_io.read_config(uri)


def tokenizer_uri(settings: config_sections.Model, tokenizer_folder: storage.Path) -> str:
    """Where a model's tokenizer is; `train:` ones were trained into `tokenizer_folder` before the run began."""
    if settings.tokenizer is not None:
        return f"hf:{tokenizer_folder}" if settings.tokenizer.startswith("train:") else settings.tokenizer
    if settings.checkpoint.startswith("orbax:"):
        return f"hf:{settings.checkpoint.removeprefix('orbax:')}/tokenizer"
    return settings.checkpoint


def are_small(config: config_lib.Config) -> bool:
    """Whether all models of a run ship with the package: a million params, where a step's matmuls take no time."""
    uris = {getattr(config, role).checkpoint for role in config_lib.needed_roles(config)} - {"policy"}
    return all(uri.startswith("builtin:") for uri in uris)


def for_platform(config: config_lib.Config, platform: str) -> config_lib.Config:
    """The configuration with what 'auto' means in config.precision and config.layers on devices of this platform."""
    precision = hardware.default_precision(platform) if config.precision == "auto" else config.precision
    layers = hardware.default_layers(platform) if config.layers == "auto" else config.layers
    return dataclasses.replace(config, precision=precision, layers=layers)


def compute_of(config: config_lib.Config, mesh: Mesh, model: ModelConfig | None = None) -> ComputeOptions:
    """How this run computes its models, or one of them, on the devices of `mesh`.

    A model whose heads cuDNN does not take on this GPU is computed by XLA, which is logged once.

    Raises:
        InputError: config.attention asks for a kernel that this device or precision does not have.
    """
    device, kernel = mesh.devices.flat[0], config.attention
    platform = device.platform
    config = for_platform(config, platform)
    if kernel == "auto":
        kernel = "xla"
        if config.precision == "bfloat16":
            kernel = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
    if kernel == "cudnn" and (platform != "gpu" or config.precision != "bfloat16"):
        raise InputError(f"config.attention='cudnn' needs an NVIDIA GPU and config.precision='bfloat16'; here are "
                         f"{platform} devices and config.precision={config.precision!r}; 'xla' runs everywhere")
    if kernel == "cudnn" and model is not None:
        kernel = _cudnn_or_xla(model.head_dim, str(device.compute_capability))
    rows = sharding.batch_sharding(mesh) if mesh.size > 1 else None
    return ComputeOptions(_DTYPES[config.precision], kernel, mesh if kernel == "splash" else None,
                   one_by_one=platform == "cpu" and mesh.size == 1, rows=rows, scans=config.layers == "scan")


@functools.cache  # said once
def _cudnn_or_xla(head_dim: int, compute_capability: str) -> str:
    reason = kernels.why_not_flash(head_dim, compute_capability)
    if reason is None:
        return "cudnn"
    progress.log(f"attention of head_dim {head_dim} is computed by XLA: cuDNN's flash attention {reason}")
    return "xla"


class ModelPool:
    """The params in memory, for the run and its baselines; `endpoints`, where there are any, play the other roles.

    The pool holds, in the decode layout and in the run's precision, every checkpoint that a role has asked
    for. Training takes the params that it starts from out of the pool: they are the trainer's, and loaded again when
    next asked for, for a copy beside the optimizer's state would decide what fits into memory. A finished training puts
    its params in under its checkpoint's URI, which drops the checkpoint that it replaces.
    """

    def __init__(
        self, mesh: Mesh, seed: int, precision: str = "float32", now: datetime.datetime | None = None,
        layers: str = "unrolled",
    ) -> None:
        """Holds nothing yet.

        Args:
            mesh: the devices.
            seed: of random params.
            precision: of the params that are read only.
            now: what chat templates are told that the time is: a run's start, so that a run over midnight has one date.
            layers: "scan": they lie in stacks, see `layer_stack`; "unrolled", or "auto".
        """
        if precision == "auto":
            precision = hardware.default_precision(mesh.devices.flat[0].platform)
        if layers == "auto":
            layers = hardware.default_layers(mesh.devices.flat[0].platform)
        self._stacks = layers == "scan"
        self.mesh, self._seed, self._dtype, self.now = mesh, seed, _DTYPES[precision], now
        self.endpoints: Endpoints | None = None
        self._params: dict[str, transformer.Params] = {}
        self._trained: dict[str, ModelConfig] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self._limited: dict[tuple[str, int, str], Tokenizer] = {}

    def tokenizer(self, uri: str) -> Tokenizer:
        """A tokenizer, loaded once."""
        if uri not in self._tokenizers:
            self._tokenizers[uri] = _load_tokenizer(uri)
        return self._tokenizers[uri]

    def tokenizer_for(self, uri: str, embeddings: int, model_uri: str) -> Tokenizer:
        """See `Tokenizer.for_embeddings`; the same object each time, with what it has found out about itself."""
        key = uri, embeddings, model_uri
        if key not in self._limited:
            self._limited[key] = self.tokenizer(uri).for_embeddings(embeddings, model_uri)
        return self._limited[key]

    def config(self, uri: str) -> ModelConfig:
        """The architecture of a checkpoint; of one that was trained here, nothing is read."""
        return self._trained[uri] if uri in self._trained else read_model_config(uri)

    def get(self, uri: str, hold: bool = True) -> transformer.Params:
        """The params of a checkpoint, to be read only; loaded unless the pool holds them.

        Args:
            hold: False for a single use, after which the params may be freed.
        """
        if uri in self._params:
            return self._params[uri]
        params = self._load(uri, "decode", self._dtype)
        if hold:
            self._params[uri] = params
        return params

    def take(self, uri: str) -> transformer.Params:
        """The params of a checkpoint to train, float32, in the training layout: out of the pool, the caller's."""
        params = self._params.pop(uri, None)
        if params is None or self._dtype != jnp.float32:
            del params
            return self._load(uri, "train", jnp.float32)
        return Placement(self.mesh, self.config(uri)).params(params, "train")

    def put(
        self, uri: str, params: transformer.Params, architecture: ModelConfig, replaces: str | None = None
    ) -> None:
        """Holds trained params (float32, training layout) that are being saved as `uri`: they are not read from there.

        Args:
            uri: the checkpoint's.
            params: of the trained model.
            architecture: of the trained model.
            replaces: a checkpoint that no role plays any more.
        """
        self._trained[uri] = architecture
        self._params[uri] = Placement(self.mesh, architecture).params(in_precision(params, self._dtype), "decode")
        if replaces is not None:
            self._params.pop(replaces, None)
            self._trained.pop(replaces, None)

    def _load(self, uri: str, layout: str, dtype: jnp.dtype) -> transformer.Params:
        progress.log(f"loading {uri}")
        model = self.config(uri)
        placement = Placement(self.mesh, model)
        if uri.startswith("init:"):
            shapes = transformer.param_shapes(model)
            shardings = placement.shardings(layer_stack.stacked(model, shapes) if self._stacks else shapes, layout)
            return in_precision(checkpoint_io.random_params(model, self._seed, shardings, self._stacks), dtype)
        if not self._stacks:
            return self._read(uri, model, placement, layout, dtype)
        return layer_stack.stacked(model, self._read(uri, model, placement, layout, dtype),
                                   lambda path: placement.param_sharding(path, layout))

    def _read(
        self, uri: str, model: ModelConfig, placement: Placement, layout: str, dtype: jnp.dtype
    ) -> transformer.Params:
        """Layers one by one."""
        if uri.startswith("orbax:"):
            shapes = transformer.param_shapes(model)
            folder = storage.path(uri.removeprefix("orbax:"))
            params = checkpoint.load_model(folder, placement.with_shardings(in_precision(shapes, dtype), layout))
            finite_weights.check_params(params, uri)
            return params
        # In its precision before it is on a device, whose memory would have to hold both.
        return checkpoint_io.load_params(
            uri, lambda path, array: placement.put_param(path, in_precision(array, dtype), layout))


def _load_tokenizer(uri: str) -> Tokenizer:
    if uri.startswith("hf:"):
        files.check_folder(storage.fetched(uri.removeprefix("hf:")))
    return Tokenizer.load(uri)


class Roles:
    """Which model plays which role in an iteration, for the policy that it begins or ends with."""

    def __init__(
        self, config: config_lib.Config, models: ModelPool, tokenizer_folder: storage.Path,
        policy_checkpoint: storage.Path | None, reward_checkpoint: storage.Path | None = None,
    ) -> None:
        """Says which checkpoint plays each role.

        Args:
            config: names a checkpoint for each part.
            models: loads them and shares them.
            tokenizer_folder: where the tokenizer that the run trained is.
            policy_checkpoint: the current policy's; None while it is the base checkpoint itself.
            reward_checkpoint: that of the reward model which the run trains; None where it trains none.
        """
        self._config, self._models, self._tokenizer_folder = config, models, tokenizer_folder
        self._policy_uri = config.policy.checkpoint if policy_checkpoint is None else _saved_uri(policy_checkpoint)
        self._reward_uri = None if reward_checkpoint is None else _saved_uri(reward_checkpoint)

    def get(self, name: str, hold: bool = True) -> LanguageModel:
        """The model that plays a part.

        Args:
            name: policy, base (the policy before training), refiner, judge, critic, embedder, reward_model, or
                reward_base (what the reward model is trained from).
            hold: False for a single use, see `ModelPool.get`.

        Raises:
            InputError: the checkpoint cannot be loaded, or its tokenizer does not belong to it.
        """
        return dataclasses.replace(self.without_params(name), params=self._models.get(self._uri(name), hold))

    def remote(self, name: str) -> RemoteModel | None:
        """The model that plays a part from behind an endpoint; None where it is a checkpoint, for `get`."""
        settings = self._settings(name)
        if not api_uris.is_api(settings.checkpoint) or self._models.endpoints is None:
            return None
        return self._models.endpoints.model(name, settings)

    def judge(self) -> LanguageModel | RemoteModel:
        """The judge, in memory or behind an endpoint."""
        return self.remote("judge") or self.get("judge")

    def without_params(self, name: str) -> LanguageModel:
        """As `get`, but nothing is loaded: enough to put prompts into tokens."""
        settings, uri = self._settings(name), self._uri(name)
        model = self._models.config(uri)
        own = self._config.policy if settings.checkpoint == "policy" else settings
        tokenizer = self._models.tokenizer_for(tokenizer_uri(own, self._tokenizer_folder), model.vocab_size, uri)
        return LanguageModel(
            name=_SECTIONS.get(name, name),  # for messages, which name config keys
            settings=settings, architecture=model, params={}, tokenizer=tokenizer,
            placement=Placement(self._models.mesh, model), compute=compute_of(self._config, self._models.mesh, model),
            now=self._models.now,
        )

    def take(self, name: str) -> transformer.Params:
        """Params to train, see `ModelPool.take`."""
        return self._models.take(self._uri(name))

    def put(
        self, checkpoint: storage.Path, params: transformer.Params, architecture: ModelConfig,
        replaces: storage.Path | None = None,
    ) -> None:
        """Params that were trained and are being saved in `checkpoint`, see `ModelPool.put`."""
        self._models.put(_saved_uri(checkpoint), params, architecture,
                         None if replaces is None else _saved_uri(replaces))

    def _settings(self, name: str) -> config_sections.Model:
        return getattr(self._config, _SECTIONS.get(name, name))

    def _uri(self, name: str) -> str:
        if name == "reward_model" and self._reward_uri is not None:
            return self._reward_uri
        plays_policy = name == "policy" or self._settings(name).checkpoint == "policy"
        return self._policy_uri if plays_policy else self._settings(name).checkpoint


def _saved_uri(checkpoint: storage.Path) -> str:
    return f"orbax:{checkpoint}"


def check(config: config_lib.Config, roles: list[str]) -> None:
    """Raises InputError if a checkpoint that a part needs is not there. Reads headers only."""
    for name in roles:
        uri = getattr(config, name).checkpoint
        _check_template_arguments(name, getattr(config, name))
        if getattr(config, name).thinking_tokens and name not in _WRITERS:
            raise InputError(f"config.{name}.thinking_tokens: the {name} answers at once and writes nothing; 0 is "
                             f"allowed, and what {', '.join(_WRITERS)} think before they write")
        if uri == "policy":
            continue
        if api_uris.is_api(uri) and name in endpoints.ROLES:
            endpoints.check_settings(config, name)
            continue
        try:
            model = read_model_config(uri)
        except InputError as e:
            raise InputError(f"config.{name}.checkpoint: {e}") from e
        if model.scalar_head and name != "reward_model":
            raise InputError(f"config.{name}.checkpoint: {uri} is a reward model with a scalar head, which writes and "
                             "answers nothing")


def check_templates(roles: Roles, names: Sequence[str]) -> None:
    """Raises InputError if a role's chat template fails on a question, or is not there, or asks for no thoughts.

    Loads tokenizers only.
    """
    for name in names:
        lm = roles.without_params(name)
        _ = lm.turn
        thinking.check_budget(lm)


def _check_template_arguments(name: str, settings: config_sections.Model) -> None:
    where, given = f"config.{name}.template_arguments", settings.template_arguments
    if given is None:
        return
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(f"{where}: must be a dict {{NAME: VALUE}}, not {given!r}")
    try:
        json.dumps(dict(given), allow_nan=False)
    except (TypeError, ValueError) as e:
        raise InputError(f"{where}: values must be text, numbers, lists and dicts of them: {e}") from e
    for variable in ("messages", "add_generation_prompt"):
        if variable in given:
            raise InputError(f"{where}: {variable!r} is what the program itself gives a template")
    if given.get("enable_thinking") and name in _WRITERS and settings.thinking_tokens == 0:
        raise InputError(f"{where}: enable_thinking=True takes a budget; set config.{name}.thinking_tokens, 512 say")
    if given.get("enable_thinking") and name not in _WRITERS:
        raise InputError(f"{where}: enable_thinking=True: the {name} answers at once and writes nothing; leave it out")
    if settings.thinking_tokens and not given.get("enable_thinking", True):
        raise InputError(f"{where}: enable_thinking={given['enable_thinking']!r} contradicts "
                         f"config.{name}.thinking_tokens={settings.thinking_tokens}")
