"""Every family gives transformers' logits, from safetensors and GGUF, and after export."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity is measured against torch")
transformers = pytest.importorskip("transformers", reason="parity is measured against transformers")
gguf = pytest.importorskip("gguf", reason="GGUF files are written in these tests")

from ilf_jax.models import checkpoint_io, transformer  # noqa: E402
from ilf_jax.models.architecture import from_facts, to_facts  # noqa: E402
from ilf_jax.models.families import GGUF_TABLES  # noqa: E402

LENGTH = 40
SMALL = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=40,
)
GEMMA = SMALL | dict(
    num_hidden_layers=4, head_dim=16, sliding_window=8, query_pre_attn_scalar=24, attn_implementation="eager",
    layer_types=["sliding_attention", "full_attention"] * 2, final_logit_softcapping=5.0,
)
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
}
LEARNED = dict(vocab_size=96, bos_token_id=1, eos_token_id=2)
T = transformers
YARN = dict(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=1e3, beta_fast=4.0, beta_slow=0.5,
)
LONGROPE = dict(
    rope_type="longrope", short_factor=[1.0 + 0.1 * i for i in range(3)], long_factor=[4.0 + i for i in range(3)],
    original_max_position_embeddings=48, rope_theta=1e3, partial_rotary_factor=0.75,
)
PHI = SMALL | dict(max_position_embeddings=192, original_max_position_embeddings=48)
GEMMA2 = {k: v for k, v in GEMMA.items() if k != "layer_types"} | dict(attn_logit_softcapping=2.0)
LAST_SLIDE = SMALL | dict(num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2)
SOME_SLIDE = SMALL | dict(
    num_hidden_layers=4, use_sliding_window=True, sliding_window=8,
    layer_types=[f"{kind}_attention" for kind in ("sliding", "full", "full", "sliding")],
)
NEWER = {
    "mistral": lambda: T.MistralConfig(**SMALL, sliding_window=None, head_dim=12),
    "mistral_sliding": lambda: T.MistralConfig(**SMALL, sliding_window=8),
    "qwen2_last_slide": lambda: T.Qwen2Config(**LAST_SLIDE),
    "qwen3_some_slide": lambda: T.Qwen3Config(**SOME_SLIDE, head_dim=16),
    "qwen3_yarn": lambda: T.Qwen3Config(**SMALL, head_dim=16, rope_parameters=dict(YARN)),
    "llama_yarn_factors": lambda: T.LlamaConfig(**SMALL, rope_parameters=YARN | dict(
        mscale=1.0, mscale_all_dim=0.5, truncate=False)),
    "llama_dynamic": lambda: T.LlamaConfig(**SMALL, rope_parameters=dict(
        rope_type="dynamic", factor=4.0, rope_theta=1e3)),
    "gemma2": lambda: T.Gemma2Config(**GEMMA2),
    "gemma2_uncapped": lambda: T.Gemma2Config(
        **GEMMA2 | dict(attn_logit_softcapping=None, final_logit_softcapping=None, sliding_window=64)),
    "phi3_sliding": lambda: T.Phi3Config(**SMALL, sliding_window=8),
    "phi3_longrope": lambda: T.Phi3Config(**PHI, rope_parameters=dict(LONGROPE), tie_word_embeddings=True),
    "olmo2": lambda: T.Olmo2Config(**SMALL),
    "olmo2_biases": lambda: T.Olmo2Config(**SMALL, attention_bias=True),
    "granite": lambda: T.GraniteConfig(
        **SMALL, embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=0.7,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
    ),
    "smollm3": lambda: T.SmolLM3Config(**SMALL | dict(num_hidden_layers=5)),
    "smollm3_sliding": lambda: T.SmolLM3Config(
        **SMALL | dict(num_hidden_layers=4), no_rope_layers=[0, 1, 1, 0], use_sliding_window=True, sliding_window=8,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
    ),
}
CASES = {
    "llama": lambda: T.LlamaConfig(**SMALL),
    "llama_tied_head_dim": lambda: T.LlamaConfig(**SMALL, head_dim=12, tie_word_embeddings=True),
    "llama_biases": lambda: T.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama3_rope": lambda: T.LlamaConfig(**SMALL, rope_parameters=LLAMA3 | {"rope_theta": 500.0}),
    "llama_linear_rope": lambda: T.LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
    "qwen2": lambda: T.Qwen2Config(**SMALL),
    "qwen2_sliding": lambda: T.Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=0),
    "qwen3": lambda: T.Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True),
    "gemma3": lambda: T.Gemma3TextConfig(**GEMMA, rope_parameters=GEMMA_ROPE),
    "gpt2": lambda: T.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **LEARNED),
    **NEWER,
    "opt": lambda: T.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        word_embed_proj_dim=32, pad_token_id=0, **LEARNED
    ),
}
GGUF_FAMILIES = {
    "llama": "llama", "llama_tied_head_dim": "llama", "llama3_rope": "llama", "llama_biases": "llama",
    "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_default_head": "qwen3", "gemma3": "gemma3", "gemma3_defaults": "gemma3",
    "gpt2": "gpt2", "mistral": "llama", "gemma2": "gemma2", "phi3": "phi3", "phi3_longrope": "phi3", "olmo2": "olmo2",
    "granite": "granite", "smollm3": "smollm3", "qwen3_yarn": "qwen3", "qwen2_yarn": "qwen2",
    "phi3_sliding": "phi3",
}
GEMMA_GGUF = GEMMA | dict(
    num_hidden_layers=7, layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    final_logit_softcapping=None,
)
# The format cannot say query scale and local base, so these have what its readers assume; transformers reads less.
GGUF_CASES = {
    "gemma3": lambda: T.Gemma3TextConfig(**GEMMA_GGUF | dict(query_pre_attn_scalar=16), rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }),
    "gemma3_defaults": lambda: T.Gemma3TextConfig(**GEMMA_GGUF | dict(query_pre_attn_scalar=256, head_dim=256)),
    "gemma2": lambda: T.Gemma2Config(**GEMMA2 | dict(query_pre_attn_scalar=16)),
    "phi3": lambda: T.Phi3Config(**SMALL),
    "phi3_longrope": lambda: T.Phi3Config(
        **PHI | dict(max_position_embeddings=1024, original_max_position_embeddings=256),
        rope_parameters=LONGROPE | dict(original_max_position_embeddings=256)),
    "qwen2_yarn": lambda: T.Qwen2Config(**SMALL, rope_parameters=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=4096, rope_theta=1e3)),
    "qwen3_default_head": lambda: T.Qwen3Config(**SMALL, head_dim=128),
    "gpt2": lambda: T.GPT2Config(n_positions=1024, n_embd=32, n_layer=2, n_head=4, **LEARNED),
}
# What transformers' own GGUF reader leaves out; the original model is the measure there.
PERMUTED = ("llama", "granite", "smollm3")
LOST_BY_TRANSFORMERS = {
    "llama3_rope": "rope_freqs.weight", "llama_biases": "biases", "gemma3": "rotary scaling", "qwen3": "head_dim",
    "gemma2": "soft caps", "phi3_sliding": "sliding window", "phi3_longrope": "rotary scaling",
    "qwen2_yarn": "rotary scaling", "qwen3_yarn": "head_dim", "mistral": "head_dim",
    **dict.fromkeys(("olmo2", "granite", "smollm3"), "architecture"),
}
TOKENS = np.random.default_rng(0).integers(3, 96, (2, LENGTH))


def torch_model(case, config=None):
    """A random model; biases and norms are random too, so that a swapped pair would show."""
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(config or CASES[case]()).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.3 if p.ndim == 1 else 0.15)
            if "norm" in name or "ln_" in name:
                p.add_(0.0 if case.startswith("gemma") else 1.0)
    return model


def torch_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def our_logits(uri, place=None):
    config = checkpoint_io.read_config(uri)
    params = checkpoint_io.load_params(uri, place)
    hidden = transformer.forward(config, params, jnp.asarray(TOKENS))
    return np.asarray(transformer.unembed(config, params, hidden)), config, params


def assert_close(got, want):
    assert np.abs(want).max() > 0.5  # a model of zeros would agree with anything
    print(f"largest difference {np.abs(got - want).max():.1e}")
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", [pytest.param("llama", marks=pytest.mark.fast), *list(CASES)[1:]])
def test_logits_and_round_trip(case, tmp_path):
    model = torch_model(case)
    want = torch_logits(model)
    model.save_pretrained(tmp_path / "theirs")
    got, config, params = our_logits(f"hf:{tmp_path / 'theirs'}")
    assert_close(got, want)

    checkpoint_io.save_hf(config, params, tmp_path / "ours", token_ids={"bos_token_id": 1, "eos_token_id": [2]})
    back, info = T.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_close(torch_logits(back.eval()), want)
    assert checkpoint_io.read_config(f"hf:{tmp_path / 'ours'}") == config
    assert from_facts(json.loads(json.dumps(to_facts(config)))) == config


def test_sharded_in_and_out(tmp_path):
    model = torch_model("llama")
    want = torch_logits(model)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    placed = {}

    def place(path, array):
        placed[path] = array.dtype
        return jnp.asarray(array)

    got, config, params = our_logits(f"hf:{tmp_path / 'theirs'}", place)
    assert_close(got, want)
    assert "layers_1/attention/q/kernel" in placed and set(placed.values()) == {np.dtype(np.float32)}
    checkpoint_io.save_hf(config, params, tmp_path / "ours", shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    assert_close(torch_logits(T.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()), want)


def test_multimodal_gemma3_names(tmp_path):
    """A multimodal checkpoint nests the text config, prefixes its tensors, and carries a vision tower."""
    from safetensors.numpy import load_file, save_file

    model = torch_model("gemma3")
    model.save_pretrained(tmp_path)
    tensors = {f"language_model.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}
    tensors["vision_tower.vision_model.embeddings.patch_embedding.bias"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert_close(our_logits(f"hf:{tmp_path}")[0], torch_logits(model))


def write_gguf(case, model, path):
    """What llama.cpp's converter writes: its metadata keys, its pairing of rotary rows, its norms plus one."""
    family, c = GGUF_FAMILIES[case], model.config
    writer = gguf.GGUFWriter(path, family)
    get = lambda *names: next(getattr(c, n) for n in names if getattr(c, n, None) is not None)  # noqa: E731
    writer.add_block_count(get("num_hidden_layers"))
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(get("hidden_size"))
    writer.add_feed_forward_length(48 if family != "gpt2" else 4 * c.n_embd)
    writer.add_head_count(get("num_attention_heads"))
    if family == "gpt2":
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(c.num_key_value_heads)
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        if family in PERMUTED or family == "phi3":
            writer.add_rope_dimension_count(int(head_dim * c.rope_parameters.get("partial_rotary_factor", 1.0)))
        full = c.rope_parameters.get("full_attention", c.rope_parameters)
        writer.add_rope_freq_base(full["rope_theta"])
        if full.get("rope_type") == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(full["factor"])
        if full.get("rope_type") == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_divisors(head_dim, full))
        if full.get("rope_type") == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(full["factor"])
            writer.add_rope_scaling_orig_ctx_len(full["original_max_position_embeddings"])
            for key in ("beta_fast", "beta_slow"):
                if key in full:
                    writer.add_float32(f"{family}.rope.scaling.yarn_{key}", full[key])
        if full.get("rope_type") == "longrope":
            original = full["original_max_position_embeddings"]
            writer.add_rope_scaling_orig_ctx_len(original)
            stretch = np.log(c.max_position_embeddings / original) / np.log(original)
            writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + stretch)))
            for name in ("short", "long"):
                writer.add_tensor(f"rope_factors_{name}.weight", np.array(full[f"{name}_factor"], np.float32))
        if family in ("gemma2", "gemma3", "phi3") and c.sliding_window:
            writer.add_sliding_window(c.sliding_window)
        if family == "gemma2":
            writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
            writer.add_final_logit_softcapping(c.final_logit_softcapping)
        if family == "granite":
            writer.add_attention_scale(c.attention_multiplier)
            writer.add_embedding_scale(c.embedding_multiplier)
            writer.add_residual_scale(c.residual_multiplier)
            writer.add_logit_scale(c.logits_scaling)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(c.vocab_size)])
    writer.add_token_scores([0.0] * c.vocab_size)
    writer.add_token_types([gguf.TokenType.NORMAL] * c.vocab_size)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), get("num_hidden_layers"))
    for name, tensor in model.state_dict().items():
        a = tensor.numpy()
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        if family in PERMUTED and ("q_proj" in name or "k_proj" in name):
            heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
            a = a.reshape(heads, 2, -1, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)
        if family in ("gemma2", "gemma3") and name.endswith("norm.weight"):
            a = a + 1
        if family == "gpt2" and a.ndim == 2 and ("attn" in name or "mlp" in name):
            a = a.T
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(a))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3_divisors(head_dim, rope):
    """One divisor per frequency (Llama 3.1's rule, written out frequency by frequency)."""
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    assert 1.0 in divisors and factor in divisors and len(set(divisors)) > 2
    return np.array(divisors, np.float32)


def gguf_by_transformers(path):
    """What from_pretrained(gguf_file=) does, which itself insists on the package accelerate."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    facts = {"pad_token_id": None} | load_gguf_checkpoint(path)["config"]
    model = T.AutoModelForCausalLM.from_config(T.AutoConfig.for_model(**facts)).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    model.tie_weights()
    return model


@pytest.mark.parametrize("case", GGUF_FAMILIES)
def test_gguf_logits(case, tmp_path):
    model = torch_model(case, GGUF_CASES.get(case, CASES.get(case))())
    path = tmp_path / "model.gguf"
    write_gguf(case, model, path)
    got, config, _ = our_logits(f"gguf:{path}")
    assert config.family in GGUF_TABLES
    assert_close(got, torch_logits(model))
    if case not in LOST_BY_TRANSFORMERS:
        assert_close(got, torch_logits(gguf_by_transformers(path)))
