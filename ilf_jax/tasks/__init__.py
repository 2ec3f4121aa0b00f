"""Tasks by the name in config.task; a user's own by file:PATH:NAME."""

import inspect
from typing import Any

from ilf_jax import registry
from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.tasks.task import Task


def make_task(config: Config) -> Task:
    """The task of a run: an instance of Task, or what a class or function of that name makes.

    Raises:
        InputError: it is not there, is not a Task, or its templates are wrong.
    """
    target: Any = registry.TASKS.load(config.task)
    if inspect.isclass(target) and issubclass(target, Task):
        return registry.call_user(target.from_config, f"config.task={config.task!r}", config)
    task = registry.call_user(target, f"config.task={config.task!r}") if callable(target) else target
    if not isinstance(task, Task):
        raise InputError(f"config.task={config.task!r}: is not an ilf_jax.tasks.task.Task, nor a function that returns "
                         "one")
    return task
