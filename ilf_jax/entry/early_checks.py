"""What a configuration names and is not there: found before jax is imported, which takes seconds.

Only what can be seen on this machine at once. What is in the files, in buckets and on the hub is checked by
`ilf_jax.preflight`, when a run is set up.
"""

import os

from ilf_jax import config as config_lib
from ilf_jax.config_sections import Model
from ilf_jax.data import builtin, formats, hub_data, sources
from ilf_jax.errors import InputError, near_path
from ilf_jax.models import checkpoint_uris
from ilf_jax.remote import api_uris
from ilf_jax.runtime import storage


def check(config: config_lib.Config) -> None:
    """Raises InputError for data, checkpoints, tokenizers and code of the user's that are not there."""
    for method in config_lib.methods(config):
        values = config_lib.flat(method)
        for name, entry in config_lib.key_table().items():
            if entry.registry is not None:
                entry.registry.check_place(values[name], f"config.{name}")
    for section, data in (("data", config.data), ("reward", config.reward)):
        for key in ("source", "eval_source"):
            source = getattr(data, key)
            if source is not None:
                _check_source(source, f"config.{section}.{key}")
        if data.folder is not None and "://" not in data.folder:
            _check_there(data.folder, f"config.{section}.folder", "folder")
    for method in config_lib.methods(config):
        for role in config_lib.needed_roles(method):
            _check_model(role, getattr(method, role))


def _check_source(source: str, where: str) -> None:
    scheme, name = sources.parsed(source, where)
    if scheme in formats.NAMES and "://" not in name:
        _check_there(name, where, "file", f"; give yours by --{where}=FILE")
    elif scheme in ("builtin", "hf"):
        try:
            (builtin if scheme == "builtin" else hub_data).check(name)
        except InputError as e:
            raise InputError(f"{where}: {e}") from e


def _check_there(name: str, where: str, kind: str, remedy: str = "") -> None:
    try:
        path = storage.local(name)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e
    if not path.exists():
        near = near_path(path)
        hint = f"; did you mean {near}?" if near is not None else f" (looked from {os.getcwd()}){remedy}"
        raise InputError(f"{where}: no {kind} {path}{hint}")


def _check_model(role: str, model: Model) -> None:
    if api_uris.is_api(model.checkpoint):
        api_uris.parse(model.checkpoint, f"config.{role}.checkpoint")
    elif model.checkpoint != "policy":
        _check_uri(model.checkpoint, f"config.{role}.checkpoint")
    scheme, _, name = (model.tokenizer or "").partition(":")
    if scheme == "file":
        if "://" not in name:
            _check_there(name, f"config.{role}.tokenizer", "file")
    elif model.tokenizer is not None and scheme != "train":
        _check_uri(model.tokenizer, f"config.{role}.tokenizer")


def _check_uri(uri: str, where: str) -> None:
    try:
        checkpoint_uris.look(uri)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e
