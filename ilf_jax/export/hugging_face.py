"""A policy as a folder that transformers and vLLM load: weights, tokenizer, its prompt as chat template, settings."""

import json
import pathlib

from ilf_jax.export import chat_template
from ilf_jax.export.exported import Exported
from ilf_jax.models import checkpoint_io

_TEMPLATE, _OTHER_TEMPLATES = "chat_template.jinja", "additional_chat_templates"


def write(exported: Exported, folder: pathlib.Path) -> None:
    """Writes the model, float32, and what `write_tokenizer` does.

    Raises:
        InputError: a config.json of the model's family cannot say its architecture.
    """
    checkpoint_io.save_hf(exported.lm.architecture, exported.params, folder, token_ids=exported.token_ids())
    write_tokenizer(exported, folder)


def write_tokenizer(exported: Exported, folder: pathlib.Path) -> None:
    """Writes the tokenizer, the chat templates and generation_config.json."""
    exported.lm.tokenizer.save(folder)
    if exported.prompt is not None:
        _write_templates(exported.prompt, exported, folder)
    (folder / "generation_config.json").write_text(json.dumps(exported.generation(), indent=2) + "\n")


def _write_templates(prompt: chat_template.TaskPrompt, exported: Exported, folder: pathlib.Path) -> None:
    """The policy's prompt by default. Older programs read it from tokenizer_config.json, which holds one template."""
    templates = chat_template.with_base(prompt, exported.lm.tokenizer.chat).by_name
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text(encoding="utf-8")), "chat_template": prompt.source}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / _TEMPLATE).write_text(prompt.source, encoding="utf-8")
    for name, source in templates.items():
        if name != "default":
            (folder / _OTHER_TEMPLATES).mkdir(exist_ok=True)
            (folder / _OTHER_TEMPLATES / f"{name}.jinja").write_text(source, encoding="utf-8")
