"""Compiled programs are shared by all tests and by the processes that they start; a small run that takes seconds."""

import atexit
import os
import shutil
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="ilf_jax_tests_compiled_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest  # noqa: E402


def _tiny_config():
    import ilf_jax

    c = ilf_jax.base_config()
    c.task = "word_removal"
    c.data.source = c.data.eval_source = "builtin:word_removal"
    c.data.train_size, c.data.eval_size = 6, 4
    c.policy.checkpoint, c.policy.tokenizer = "init:tiny", "train:512"
    c.feedback.source = "oracle"
    for section in (c.draft, c.feedback, c.refine, c.evaluate):
        section.max_new_tokens, section.batch_size = 8, 2
    c.refine.num_candidates = 2
    c.score.batch_size = 3
    c.finetune.batch_size, c.finetune.checkpoint_every, c.finetune.learning_rate = 2, 1, 1e-3
    return c


@pytest.fixture
def tiny_config():
    """One iteration on random params: 6 documents, 4 held out, 2 candidates, several shards a stage, 3 train steps."""
    return _tiny_config()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """(config, folder, metrics) of a finished run of two iterations; not to be written to."""
    import ilf_jax

    c = _tiny_config()
    c.iterations = 2
    folder = tmp_path_factory.mktemp("tiny") / "run"
    return c, folder, ilf_jax.run(c, folder)
