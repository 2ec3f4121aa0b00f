"""Systems of finished runs against each other, by a judge."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ilf_jax import config as config_lib
from ilf_jax import tasks
from ilf_jax.errors import InputError
from ilf_jax.evaluation import systems
from ilf_jax.inference import model_pool
from ilf_jax.records import Example, Match
from ilf_jax.remote.endpoints import Endpoints
from ilf_jax.runtime import jax_settings, sharding, storage
from ilf_jax.runtime import workdir as workdir_lib
from ilf_jax.stages.context import StageContext
from ilf_jax.stages.rank import rank


def judge(
    config: Mapping[str, Any], uri: str, out: storage.Path, documents: Mapping[str, Example],
    chosen: Mapping[str, systems.Texts],
) -> list[Match]:
    """Every two systems, in both orders, with the prompts of the run's task.

    Args:
        config: config.json of a run: task, precision, mesh and how the judge is spoken to are taken from it.
        uri: checkpoint of the judge.
        out: folder for what it says; one that is complete is read, not judged again.

    Raises:
        InputError: the judge cannot be loaded, or the folder holds another comparison.
    """
    if uri == "policy":
        raise InputError("--judge=policy: which policy? Name a checkpoint, orbax:DIR/iteration_00K/checkpoint say")
    settings = config_lib.read(config)
    settings = dataclasses.replace(settings, judge=dataclasses.replace(settings.judge, checkpoint=uri, tokenizer=None))
    model_pool.check(settings, ["judge"])
    jax_settings.apply(settings.precision)
    endpoints = Endpoints(settings, out)
    endpoints.check(settings, ["judge"])
    mesh = sharding.make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
    digests = {name: hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]
               for name, texts in chosen.items()}
    facts = {**config_lib.to_dict(settings), "compared": digests}
    folder, lock = workdir_lib.open_workdir(out, facts)
    with lock:
        endpoints.begin()
        pool = model_pool.ModelPool(mesh, settings.seed, settings.precision, folder.started, settings.layers)
        pool.endpoints = endpoints
        roles = model_pool.Roles(settings, pool, folder.path / "tokenizer", None)
        context = StageContext(settings, folder, tasks.make_task(settings), 0, (), tuple(documents.values()), roles)
        return list(rank(context, chosen).by_id().values())
