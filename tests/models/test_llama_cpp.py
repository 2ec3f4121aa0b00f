"""GGUF files give the log-probabilities of llama.cpp itself, token by token of a greedy continuation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

llama_cpp = pytest.importorskip("xllamacpp", reason="parity is measured against llama.cpp")
pytest.importorskip("torch", reason="the models are made by transformers")
pytest.importorskip("transformers", reason="the models are made by transformers")

from test_parity import CASES, GGUF_CASES, TOKENS, torch_model, write_gguf  # noqa: E402

from ilf_jax.models import checkpoint_io, transformer  # noqa: E402

PROMPT, NEW = [int(t) for t in TOKENS[0][:30]], 8
# llama.cpp looks GELU up in a table of 16-bit floats.
ROUNDED = {"gemma2", "gemma3", "gpt2"}
FAMILIES = (
    "llama3_rope", "mistral", "qwen2", "qwen2_yarn", "qwen3", "gemma2", "gemma3", "phi3", "phi3_longrope", "olmo2",
    "granite", "smollm3", "gpt2",
)


def served(path):
    """llama.cpp in this process, with float32 caches and plain attention."""
    params = llama_cpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = str(path), 256, 1, 0
    params.warmup = params.fit_params = False
    params.cache_type_k = params.cache_type_v = llama_cpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = 1
    return llama_cpp.Server(params)


def greedy(server, prompt, new, likeliest, vocabulary):
    """Token ids of the greedy continuation, and log-probabilities of the likeliest tokens, new x vocabulary."""
    answer = server.handle_completions({
        "prompt": prompt, "n_predict": new, "temperature": 0.0, "n_probs": likeliest, "ignore_eos": True,
        "cache_prompt": False, "samplers": ["temperature"],
    })
    steps = answer["choices"][0]["logprobs"]["content"]
    logprobs = np.full((new, vocabulary), np.nan)
    for i, step in enumerate(steps):
        for token in step["top_logprobs"]:
            logprobs[i, token["id"]] = token["logprob"]
    return [step["id"] for step in steps], logprobs


@pytest.mark.parametrize("case", FAMILIES)
def test_logprobs_are_those_of_llama_cpp(case, tmp_path):
    model = torch_model(case, GGUF_CASES.get(case, CASES.get(case))())
    write_gguf(case, model, tmp_path / "model.gguf")
    tokens, theirs = greedy(served(tmp_path / "model.gguf"), PROMPT, NEW, 96, 96)
    assert len(tokens) == NEW and np.isfinite(theirs).all() and theirs.std() > 0.1

    config = checkpoint_io.read_config(f"gguf:{tmp_path / 'model.gguf'}")
    params = checkpoint_io.load_params(f"gguf:{tmp_path / 'model.gguf'}")
    hidden = transformer.forward(config, params, jnp.asarray([PROMPT + tokens]))
    logits = transformer.unembed(config, params, hidden)[0, len(PROMPT) - 1 : -1]
    ours = np.array(jax.nn.log_softmax(logits))
    tolerance = 5e-3 if case in ROUNDED else 2e-5
    difference = np.abs(ours - theirs).max()
    print(f"{case}: {difference:.1e}")
    assert difference < tolerance
    ours[:, model.config.eos_token_id] = -np.inf  # which ignore_eos rules out
    assert (ours.max(axis=1) - ours[np.arange(NEW), tokens] < tolerance).all()
