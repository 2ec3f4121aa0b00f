"""Scorers by the name in config.score.method; a user's own by file:PATH:NAME."""

import inspect
from typing import Any

from ilf_jax import registry
from ilf_jax.scoring.scorer import Scorer, ScorerContext
from ilf_jax.scoring.user_reward import UserReward


def scorer_class(choice: str) -> type[Scorer]:
    """The class of a scorer; that of a plain function of the user's is `UserReward`. Raises InputError."""
    target: Any = registry.SCORERS.load(choice)
    if inspect.isclass(target) and issubclass(target, Scorer):
        return target
    UserReward.check_function(target, choice)
    return UserReward


def make_scorer(context: ScorerContext) -> Scorer:
    """The scorer of config.score.method. Raises InputError if it is not there."""
    return scorer_class(context.config.score.method)(context)
