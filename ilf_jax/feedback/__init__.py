"""Sources of feedback, by the name in config.feedback.source; a user's own by file:PATH:NAME."""

import inspect
from typing import Any

from ilf_jax import registry
from ilf_jax.feedback.source import FeedbackSource, SourceContext
from ilf_jax.feedback.user_function import UserFeedback


def source_class(choice: str) -> type[FeedbackSource]:
    """The class of a source; that of a plain function of the user's is `UserFeedback`. Raises InputError."""
    target: Any = registry.FEEDBACK.load(choice)
    if inspect.isclass(target) and issubclass(target, FeedbackSource):
        return target
    UserFeedback.check_function(target, choice)
    return UserFeedback


def make_source(context: SourceContext) -> FeedbackSource:
    """The source of config.feedback.source. Raises InputError if it is not there or does not fit the run."""
    choice = context.config.feedback.source
    if choice == "critic" and (critic := context.roles.remote("critic")) is not None:
        from ilf_jax.feedback.critic import RemoteCritic

        return RemoteCritic(context, critic)
    return source_class(choice)(context)
