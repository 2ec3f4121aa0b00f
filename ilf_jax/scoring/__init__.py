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
    choice = context.config.score.method
    if choice == "instruct_rm" and (judge := context.roles.remote("judge")) is not None:
        from ilf_jax.scoring.remote_judge import RemoteJudge

        return RemoteJudge(context, judge)
    return scorer_class(choice)(context)
