"""What a run would do: its sizes, its stages, and one training example with its loss mask. Trains nothing."""

import pathlib
import sys
import tempfile

import numpy as np
from jax.tree_util import tree_leaves

from ilf_jax import config as config_lib
from ilf_jax import ilf, progress, tokenizer_training
from ilf_jax.data import documents
from ilf_jax.models import transformer
from ilf_jax.records import Example
from ilf_jax.stages import models, targets
from ilf_jax.tasks import registry
from ilf_jax.tasks.base import Task
from ilf_jax.tokenizer import Tokenizer
from ilf_jax.training import packing

_TRAINED, _PROMPT, _END = "\033[42;30m", "\033[2m", "\033[0m"


def show(config: config_lib.Config) -> None:
    """Checks the configuration, the data and the checkpoints' headers, and prints what there is to see.

    Raises:
        InputError: as the run itself would before it starts.
    """
    task = registry.make_task(config)
    ilf.check_sources(config, task)
    found = documents.load_documents(config)
    ilf.check_documents(config, found)
    rows = []
    for name in ("policy", "refiner", "judge"):
        uri = getattr(config, name).checkpoint
        if uri == "policy":
            rows.append([name, "the current policy", "", ""])
            continue
        shapes = tree_leaves(transformer.param_shapes(models.read_model_config(uri)))
        count = sum(leaf.size for leaf in shapes)
        rows.append([name, uri, f"{count:,}", f"{4 * count / 2**20:,.0f} MiB"])
    progress.print_table("models", ["part", "checkpoint", "parameters", "float32"], rows)
    train = found.by_iteration[1]
    progress.print_table("documents", ["iterations", "each", "held out"],
                         [[config.iterations, len(train), len(found.held_out)]])
    progress.print_table("stages", ["an iteration runs"],
                         [[" -> ".join([*targets.needed_stages(config), "finetune", "evaluate"])]])
    _show_masked_example(config, task, train[0], _tokenizer(config, train))


def _tokenizer(config: config_lib.Config, train: tuple[Example, ...]) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        wanted = config.policy.tokenizer or ""
        if wanted.startswith("train:"):
            texts = (f"{e.document} {e.reference}" for e in train)
            tokenizer_training.train_bpe(texts, int(wanted.removeprefix("train:")), pathlib.Path(folder))
        return Tokenizer.load(models.tokenizer_uri(config.policy, pathlib.Path(folder)))


def _show_masked_example(config: config_lib.Config, task: Task, example: Example, tokenizer: Tokenizer) -> None:
    """One training pair token by token: green what is learned, dim what is only read; the end token is learned too."""
    prompt = task.policy_prompt(example).text
    if config.policy.chat != "never" and tokenizer.chat_template is not None:
        prompt = tokenizer.render_chat([{"role": "user", "content": prompt}])
        join = ""
    else:
        join = " "
    completion = (example.human_refinement or example.reference or example.draft
                  or "(the text that the run will pick)")
    prompt_ids = tokenizer.encode(prompt)
    completion_ids = tokenizer.encode_continuation(prompt_ids, prompt, join + completion)
    pair = packing.training_example(prompt_ids, completion_ids, tokenizer.stop_ids[0],
                                    prompt_weight=config.finetune.prompt_loss_weight)
    pieces = tokenizer.token_texts()
    color = sys.stdout.isatty()
    shown = []
    for token, weight in zip(pair.tokens.tolist(), pair.weights.tolist(), strict=True):
        text = pieces[token]
        if token in tokenizer.stop_ids and token == pair.tokens[-1]:
            text = text or "<end>"
        if color:
            shown.append(f"{_TRAINED if weight == 1 else _PROMPT}{text}{_END}")
        else:
            shown.append(f"[{text}]" if weight == 1 else text)
    legend = "green: learned" if color else "[in brackets]: learned"
    print(f"one training example ({legend}; {pair.num_targets} of {len(pair)} tokens carry loss, "
          f"weights {sorted({float(w) for w in np.unique(pair.weights)})}):")
    print("".join(shown))
