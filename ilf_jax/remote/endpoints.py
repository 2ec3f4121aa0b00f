"""The endpoints of a run: who answers for which role, one event loop, one budget, and the answers kept so far."""

import asyncio
from collections.abc import Collection

from ilf_jax.config import Config
from ilf_jax.config_sections import Model
from ilf_jax.errors import InputError
from ilf_jax.remote import api_uris
from ilf_jax.remote.endpoint import Endpoint
from ilf_jax.remote.event_loop import EventLoop
from ilf_jax.remote.kept_answers import FOLDER, KeptAnswers
from ilf_jax.remote.remote_model import RemoteModel
from ilf_jax.runtime import distributed, progress, storage

ROLES = ("refiner", "judge", "critic")
"""Parts that a model behind an endpoint can play."""


def check_settings(config: Config, role: str) -> None:
    """Checks what the configuration says of a role that an endpoint plays. Asks nobody.

    Raises:
        InputError: the URI or the key is not there, or a setting is given that only models in memory have.
    """
    settings, where = getattr(config, role), f"config.{role}"
    api_uris.parse(settings.checkpoint, f"{where}.checkpoint")
    api_uris.read_key(settings.api_key_variable, f"{where}.api_key_variable")
    unread = {name: getattr(settings, name) for name in ("tokenizer", "chat_template", "max_prompt_length",
                                                         "thinking_tokens")}
    given = next((name for name, value in unread.items() if value), None)
    if given is not None:
        raise InputError(f"{where}.{given}={unread[given]!r} does not go with {where}.checkpoint='{api_uris.FORM}': "
                         "tokenizer, chat template and context are the server's; leave it unset")
    if role == "refiner" and config.refine.top_k:
        raise InputError(f"config.refine.top_k={config.refine.top_k}: an OpenAI-compatible endpoint knows no top_k; "
                         "set 0, and config.refine.top_p")


class Endpoints:
    """Made once for a run and its baselines."""

    def __init__(self, config: Config, workdir: storage.Path) -> None:
        """Finds what was answered before in the work folder, which may not exist yet. Asks nobody."""
        self._settings, self._folder = config.api, workdir / FOLDER
        self._models: dict[str, RemoteModel] = {}

    def model(self, role: str, settings: Model) -> RemoteModel:
        """The model that plays a role. Raises InputError as `check_settings`."""
        if role not in self._models:
            if not self._models:
                self._loop, self._limit = EventLoop(), asyncio.Semaphore(self._settings.concurrency)
                self._kept = KeptAnswers(self._folder if distributed.is_main() else None)
            where = f"config.{role}.checkpoint"
            endpoint = Endpoint(
                where, api_uris.parse(settings.checkpoint, where),
                api_uris.read_key(settings.api_key_variable, f"config.{role}.api_key_variable"), self._settings,
                self._kept, self._limit)
            self._models[role] = RemoteModel(endpoint, self._loop, self._settings.samples, settings.template_arguments)
        return self._models[role]

    def check(self, config: Config, roles: Collection[str]) -> None:
        """Asks each endpoint among the roles for one token. Raises InputError if one does not answer."""
        for role in ROLES:
            if role in roles and api_uris.is_api(getattr(config, role).checkpoint):
                self.model(role, getattr(config, role)).check()

    def begin(self) -> None:
        """The work folder is there: from now on answers are written as they come."""
        if self._models:
            self._kept.begin()

    def say_spent(self) -> None:
        """Logs what the run has asked of endpoints in all."""
        if self._models and distributed.is_main():
            progress.log(f"endpoints: {self._kept.requests:,} requests answered, {self._kept.tokens:,} tokens in all; "
                         f"kept in {self._folder}")
