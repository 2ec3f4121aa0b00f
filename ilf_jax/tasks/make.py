"""Tasks by the name in `config.task`."""

import dataclasses

from ilf_jax.config import Config
from ilf_jax.tasks.summarize import Summarize
from ilf_jax.tasks.task import Task
from ilf_jax.tasks.template import TemplateTask
from ilf_jax.tasks.word_removal import WordRemoval


def make_task(config: Config) -> Task:
    """The task of a run. Raises InputError if its templates are wrong."""
    if config.task == "template":
        return TemplateTask(**dataclasses.asdict(config.template))
    return {"summarize": Summarize, "word_removal": WordRemoval}[config.task]()
