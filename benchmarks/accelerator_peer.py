"""Does the work of accelerator.py with transformers, in a separate process. Prints one line of JSON.

Finetuning: float32 weights, bfloat16 autocast, sdpa attention, clipping and fused AdamW, at the fastest batch size.
Decoding: bfloat16 weights, `generate(num_return_sequences=C)` with forced length.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

_ROWS = (16, 8, 4, 2, 1)


def _fastest(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _model(shape: dict[str, int], device: str, dtype: torch.dtype) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["width"], intermediate_size=shape["mlp_width"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=2 * shape["sequence"], tie_word_embeddings=False, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).to(device, dtype)


def train_tokens_per_second(shape: dict[str, int], device: str) -> tuple[float, int]:
    """The best rate in tokens per second, and its rows per step."""
    model = _model(shape, device, torch.float32)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def step(tokens: torch.Tensor) -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    rates: dict[int, float] = {}
    for rows in _ROWS:
        tokens = torch.randint(0, shape["vocab_size"], (rows, shape["sequence"]), device=device)
        try:
            rates[rows] = tokens.numel() / _fastest(lambda tokens=tokens: step(tokens), device)
        except torch.OutOfMemoryError:
            adamw.zero_grad()
            torch.cuda.empty_cache()
    best = max(rates, key=rates.get)
    return rates[best], best


@torch.inference_mode()
def decode_seconds_per_step(shape: dict[str, int], device: str) -> float:
    """Seconds to decode one token for every candidate. A second run of one token serves to subtract the prefill."""
    model = _model(shape, device, torch.bfloat16).eval()
    prompts = torch.randint(0, shape["vocab_size"], (shape["documents"], shape["prompt"]), device=device)

    def seconds(new_tokens: int) -> float:
        return _fastest(lambda: model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0, top_p=0.95,
            max_new_tokens=new_tokens, num_return_sequences=shape["candidates"], eos_token_id=None, pad_token_id=0,
        ), device)

    return (seconds(shape["new_tokens"]) - seconds(1)) / (shape["new_tokens"] - 1)


def main() -> None:
    """Command-line arguments: the shape as JSON, and `cpu` to stay off the accelerator."""
    shape, device = json.loads(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: this torch sees no accelerator")
    decode_s = decode_seconds_per_step(shape, device)
    tokens_per_s, rows = train_tokens_per_second(shape, device)
    settings = {"rows": rows, "torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"train_tokens_per_s": tokens_per_s, "decode_s": decode_s, "settings": settings}))


if __name__ == "__main__":
    main()
