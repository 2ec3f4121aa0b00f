"""What LoRA trained, as an adapter: peft makes of it and the base what the merged export is."""

import json
import re

import numpy as np
import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.export import export_policy, peft_adapter

pytestmark = pytest.mark.usefixtures("quick_compiles")

IDS = [[5, 77, 301, 12, 9, 40]]


def test_peft_gives_the_logits_of_the_merged_model(lora_run, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    export_policy.export(lora_run, 0, tmp_path / "base")
    export_policy.export(lora_run, 2, tmp_path / "merged")
    export_policy.export(lora_run, 2, tmp_path / "adapter", format="peft")

    def logits(model):
        with torch.no_grad():
            return model.eval()(torch.tensor(IDS)).logits[0].numpy()

    base, merged = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("base", "merged"))
    before, right = logits(base), logits(merged)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    ours = logits(adapted)
    assert np.abs(right - before).max() > 0.1  # training did something
    print(f"largest difference {np.abs(ours - right).max():.1e}")
    np.testing.assert_allclose(ours, right, atol=1e-4)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "adapter/README.md").read_text(), re.DOTALL)
    places = {"BASE_MODEL": tmp_path / "base", "THIS_FOLDER": tmp_path / "adapter"}
    found = {}
    exec(re.sub("|".join(places), lambda name: str(places[name[0]]), code), found)
    (ids,) = ilf_jax.load(lora_run).roles.without_params("policy").tokenizer.encode_batch(
        ["Describe The text that the policy works on..\nText:"])
    assert found["prompt"]["input_ids"].tolist() == [ids] and found["written"].shape[0] <= 8
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["r"] == 4 and not settings["rank_pattern"]  # two iterations of rank 2
    names = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "README.md",
                     "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.fast
@pytest.mark.parametrize("rank", [1, 3])
def test_factors(rank):
    rng = np.random.default_rng(rank)
    product = np.float32(rng.normal(size=(20, rank)) @ rng.normal(size=(rank, 30)))
    b, a = peft_adapter._factors(product, rank, 0.0, "weight")
    assert b.shape == (20, rank) and a.shape == (rank, 30)
    np.testing.assert_allclose(b @ a, product, atol=1e-5)
    with pytest.raises(InputError, match=f"weight differs .* more than a matrix of rank {rank}"):
        peft_adapter._factors(product + np.float32(np.eye(20, 30)), rank, 0.0, "weight")


@pytest.mark.parametrize(("iteration", "message"), [
    (0, "iteration 0 is the policy before training"), (1, "config.finetune.lora_rank=0"),
])
def test_what_has_no_adapter(tiny_run, tmp_path, iteration, message):
    with pytest.raises(InputError, match=message):
        export_policy.export(tiny_run[1], iteration, tmp_path / "out", format="peft")
    assert not (tmp_path / "out").exists()
