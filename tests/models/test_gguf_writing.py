"""What is written as GGUF for each family is, tensor by tensor, what llama.cpp is known to read."""

import numpy as np
import pytest
from flax import traverse_util

pytest.importorskip("torch", reason="the models are made by transformers")
pytest.importorskip("transformers", reason="the models are made by transformers")

from test_parity import CASES, GGUF_CASES, GGUF_FAMILIES, torch_model, write_gguf

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, family_configs, family_configs_gguf
from ilf_jax.models.families import GGUF_TABLES


def architecture(case):
    config = (GGUF_CASES.get(case) or CASES[case])()
    return family_configs.from_hf(config.to_dict(), case)


@pytest.mark.parametrize("case", GGUF_FAMILIES)
def test_metadata_is_that_of_files_that_llama_cpp_reads(case, tmp_path):
    """`write_gguf` is the measure: test_llama_cpp has llama.cpp compute the models in its files."""
    write_gguf(case, torch_model(case, GGUF_CASES.get(case, CASES.get(case))()), tmp_path / "model.gguf")
    file = checkpoint_io.open_gguf(str(tmp_path / "model.gguf"))
    config = architecture(case)
    arch, keys, tensors = family_configs_gguf.to_gguf(config)
    theirs = {k: v for k, v in file.metadata.items() if k.startswith(f"{arch}.")}
    assert arch == file.metadata["general.architecture"]
    assert {k: keys[k] for k in theirs} == {k: pytest.approx(v, rel=1e-6) if isinstance(v, float) else v
                                            for k, v in theirs.items()}
    for name, tensor in tensors.items():
        assert tensor == pytest.approx(file.read(name), rel=1e-6), name
    params = traverse_util.flatten_dict(checkpoint_io.load_params(f"gguf:{tmp_path / 'model.gguf'}"), sep="/")
    for rule in GGUF_TABLES[arch].expand(config, params):
        saved = rule.transform.save([np.asarray(params[t]) for t in rule.targets], config)
        np.testing.assert_allclose(saved, file.read(rule.source), atol=1e-6)
        tensors[rule.source] = saved
    assert set(tensors) == set(file.tensors)


@pytest.mark.fast
@pytest.mark.parametrize(("case", "message"), [
    ("opt", "there is no architecture for opt; allowed are gemma2, gemma3, gpt2"),
    ("qwen2_sliding", "architecture qwen2 cannot say sliding_window = 8"),
    ("llama_dynamic", "rope.scaling.type = 'dynamic' is not supported"),
    ("gemma2_uncapped", "gemma2 needs attention_softcap"),
    ("gemma3_by_transformers", "cannot say sliding_pattern = [True, False, True, False], query_scale"),
])
def test_what_gguf_cannot_say(case, message):
    config = CASES["gemma3"]() if case == "gemma3_by_transformers" else CASES[case]()
    with pytest.raises(InputError) as error:
        family_configs_gguf.to_gguf(family_configs.from_hf(config.to_dict(), case))
    assert message in str(error.value)
