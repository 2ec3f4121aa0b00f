"""Loads the models that play a part, each checkpoint once."""

import dataclasses
import pathlib

import jax.numpy as jnp
from jax.sharding import Mesh

from ilf_jax import checkpoint, progress, sharding
from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.models.compute import Compute
from ilf_jax.models.config import ModelConfig
from ilf_jax.stages.role import Role
from ilf_jax.tokenizer import Tokenizer, check_vocab

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def read_model_config(uri: str) -> ModelConfig:
    """The architecture of any checkpoint URI, no weights read. Raises InputError if there is none."""
    if uri.startswith("orbax:"):
        return checkpoint.read_model_config(pathlib.Path(uri.removeprefix("orbax:")))
    return checkpoint_io.read_config(uri)


def tokenizer_uri(settings: config_lib.Model, tokenizer_folder: pathlib.Path) -> str:
    """Where a model's tokenizer is; `train:` ones were trained into `tokenizer_folder` before the run began."""
    if settings.tokenizer is not None:
        return f"hf:{tokenizer_folder}" if settings.tokenizer.startswith("train:") else settings.tokenizer
    if settings.checkpoint.startswith("orbax:"):
        return f"hf:{settings.checkpoint.removeprefix('orbax:')}/tokenizer"
    return settings.checkpoint


def compute_of(config: config_lib.Config, mesh: Mesh) -> Compute:
    """How this run computes its models, on the devices of `mesh`.

    Raises:
        InputError: config.attention asks for a kernel that this device or precision does not have.
    """
    platform, kernel = mesh.devices.flat[0].platform, config.attention
    if kernel == "auto":
        kernel = "xla"
        if config.precision == "bfloat16":
            kernel = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
    if kernel == "cudnn" and (platform != "gpu" or config.precision != "bfloat16"):
        raise InputError(f"config.attention='cudnn' needs an NVIDIA GPU and config.precision='bfloat16'; here are "
                         f"{platform} devices and config.precision={config.precision!r}; 'xla' runs everywhere")
    return Compute(_DTYPES[config.precision], kernel, mesh if kernel == "splash" else None)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    model: ModelConfig
    params: transformer.Params
    placement: sharding.Placement


class Models:
    """All checkpoints of a process, kept while the process lives. Arms of a run share one of these."""

    def __init__(self, mesh: Mesh, seed: int) -> None:
        self._mesh, self._seed = mesh, seed
        self._loaded: dict[str, _Loaded] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

    def tokenizer(self, uri: str) -> Tokenizer:
        """A tokenizer, loaded once."""
        if uri not in self._tokenizers:
            self._tokenizers[uri] = Tokenizer.load(uri)
        return self._tokenizers[uri]

    def load(self, uri: str) -> _Loaded:
        """A checkpoint in the decode layout, loaded once."""
        if uri not in self._loaded:
            progress.log(f"loading {uri}")
            model = read_model_config(uri)
            placement = sharding.Placement(self._mesh, model)
            if uri.startswith("orbax:"):
                params = load_orbax(pathlib.Path(uri.removeprefix("orbax:")), model, placement)
            else:
                params = checkpoint_io.load_params(
                    uri, lambda path, array: placement.put_param(path, array, "decode"), seed=self._seed
                )
            self._loaded[uri] = _Loaded(model, params, placement)
        return self._loaded[uri]

    def forget(self, uri: str) -> None:
        """Lets go of a checkpoint; asked for again, it is loaded again."""
        self._loaded.pop(uri, None)


def load_orbax(folder: pathlib.Path, model: ModelConfig, placement: sharding.Placement) -> transformer.Params:
    """Params of a model checkpoint, straight into their shards."""
    shapes = transformer.param_shapes(model)
    return checkpoint.load_model(folder, placement.with_shardings(shapes, "decode"))


class Roles:
    """Who plays which part while the policy has been through `trained` iterations."""

    def __init__(
        self, config: config_lib.Config, models: Models, tokenizer_folder: pathlib.Path,
        policy_checkpoint: pathlib.Path | None,
    ) -> None:
        """`policy_checkpoint`: the current policy's; None while it is the base checkpoint itself."""
        self._config, self._models, self._tokenizer_folder = config, models, tokenizer_folder
        self._policy_uri = (
            config.policy.checkpoint if policy_checkpoint is None else f"orbax:{policy_checkpoint.absolute()}"
        )

    def get(self, name: str) -> Role:
        """The model that plays `name`: policy, base (the policy before training), refiner, judge, critic, embedder.

        Raises:
            InputError: the checkpoint cannot be loaded, or its tokenizer does not belong to it.
        """
        settings, uri = self._settings(name), self._uri(name)
        loaded = self._models.load(uri)
        own = self._config.policy if settings.checkpoint == "policy" else settings
        tokenizer = self._models.tokenizer(tokenizer_uri(own, self._tokenizer_folder))
        check_vocab(tokenizer, loaded.model, uri)
        return Role(
            name="policy" if name == "base" else name,  # for messages, which name config keys
            settings=settings, model=loaded.model, params=loaded.params, tokenizer=tokenizer,
            placement=loaded.placement, compute=compute_of(self._config, loaded.placement.mesh),
        )

    def release(self, name: str) -> None:
        """Lets go of the params that `get(name)` gave, until they are asked for again."""
        self._models.forget(self._uri(name))

    def _settings(self, name: str) -> config_lib.Model:
        return self._config.policy if name in ("policy", "base") else getattr(self._config, name)

    def _uri(self, name: str) -> str:
        plays_policy = name == "policy" or self._settings(name).checkpoint == "policy"
        return self._policy_uri if plays_policy else self._settings(name).checkpoint


def check(config: config_lib.Config, roles: list[str]) -> None:
    """Raises InputError if a checkpoint that a part needs is not there. Reads headers only."""
    for name in roles:
        uri = getattr(config, name).checkpoint
        if uri == "policy":
            continue
        try:
            read_model_config(uri)
        except InputError as e:
            raise InputError(f"config.{name}.checkpoint: {e}") from e
