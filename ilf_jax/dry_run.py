"""What a run would do: its sizes, its stages, and one training example with its loss mask. Trains nothing."""

import pathlib
import sys
import tempfile

import numpy as np
from jax.sharding import Mesh
from jax.tree_util import tree_leaves

from ilf_jax import config as config_lib
from ilf_jax import ilf, progress, sharding, tokenizer_training
from ilf_jax.data import documents
from ilf_jax.models import transformer
from ilf_jax.models.compute import FLOAT32
from ilf_jax.records import Example
from ilf_jax.stages import finetune, models, targets
from ilf_jax.stages.role import Role
from ilf_jax.tasks import registry
from ilf_jax.tokenizer import Tokenizer, check_vocab
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
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    rows = []
    for name in ilf.needed_roles(config):
        uri = getattr(config, name).checkpoint
        if uri == "policy":
            rows.append([name, "the current policy", "", ""])
            continue
        leaves = tree_leaves(transformer.param_shapes(models.read_model_config(uri)))
        count = sum(leaf.size for leaf in leaves)
        rows.append([name, uri, f"{count:,}", f"{4 * count / 2**20:,.0f} MiB"])
    progress.print_table("models", ["part", "checkpoint", "parameters", "float32"], rows)
    train = found.by_iteration[1]
    progress.print_table("documents", ["iterations", "each", "held out"],
                         [[config.iterations, len(train), len(found.held_out)]])
    progress.print_table("stages", ["an iteration runs"],
                         [[" -> ".join([*targets.needed_stages(config), "finetune", "evaluate"])]])
    policy = _policy_without_params(config, mesh, train)
    target = config.finetune.target if hasattr(train[0], config.finetune.target) else "human_refinement"
    completion = getattr(train[0], target) or "(the text that the run will pick)"
    _show_mask(policy, finetune.training_example(config.finetune, task, policy, train[0], completion))


def _policy_without_params(config: config_lib.Config, mesh: Mesh, train: tuple[Example, ...]) -> Role:
    """Enough of the policy to put prompts to it."""
    model = models.read_model_config(config.policy.checkpoint)
    tokenizer = _tokenizer(config, train)
    check_vocab(tokenizer, model, config.policy.checkpoint)
    return Role("policy", config.policy, model, {}, tokenizer, sharding.Placement(mesh, model), FLOAT32)


def _tokenizer(config: config_lib.Config, train: tuple[Example, ...]) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        wanted = config.policy.tokenizer or ""
        if wanted.startswith("train:"):
            texts = (f"{e.document} {e.reference}" for e in train)
            tokenizer_training.train_bpe(texts, int(wanted.removeprefix("train:")), pathlib.Path(folder))
        return Tokenizer.load(models.tokenizer_uri(config.policy, pathlib.Path(folder)))


def _show_mask(policy: Role, pair: packing.TrainingExample) -> None:
    """One training pair token by token: green what is learned, dim what is only read; the end token is learned too."""
    tokenizer = policy.tokenizer
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
