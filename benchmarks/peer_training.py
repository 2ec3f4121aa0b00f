"""The peer's finetuning: TRL's SFTTrainer with completion-only loss, with and without packing."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import datasets
import trl

from benchmarks import peer_model
from benchmarks.peer_inference import fastest

_ROWS = (1, 2, 4, 8)
_PACKED_ROWS = (1, 2)
# TRL's default. Several examples share a row of this many tokens.
_PACKED_LENGTH = 1024


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the trainer lays out its work."""

    packing: bool
    rows: int  # per micro-batch; the micro-batches add up to one optimizer step


class Training:
    """Finetunes the same pairs from the same weights, any number of times."""

    def __init__(self, folder: Path, work: dict[str, Any], settings: Settings | None) -> None:
        """`settings`: what an earlier worker found; without them `tune` finds them."""
        self._folder, self._work, self.settings = folder, work, settings
        self._tokenizer = peer_model.load_tokenizer(folder)
        self.tried: dict[str, float] = {}

    def tune(self) -> None:
        """Trains with and without packing, at several batch sizes each, and keeps the fastest settings."""
        self._seconds(self.settings or Settings(packing=False, rows=1))  # warm-up
        if self.settings is not None:
            return
        best: dict[Settings, float] = {}
        for packing, sizes in ((False, _ROWS), (True, _PACKED_ROWS)):
            tried: dict[int, float] = {}

            def seconds(rows: int, packing: bool = packing, tried: dict[int, float] = tried) -> float:
                tried[rows] = self._seconds(Settings(packing, rows))
                return tried[rows]

            rows = fastest([s for s in sizes if s <= len(self._work["examples"])], seconds)
            best[Settings(packing, rows)] = tried[rows]
            self.tried["packed_s" if packing else "unpacked_s"] = tried[rows]
        self.settings = min(best, key=best.get)

    def _seconds(self, settings: Settings) -> float:
        trainer = self.trainer(settings)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start

    def trainer(self, settings: Settings | None = None) -> trl.SFTTrainer:
        """A trainer with fresh weights and tokenised data. Only `train` is timed."""
        settings, work = settings or self.settings, self._work
        step = work["examples_per_step"]
        config = trl.SFTConfig(
            output_dir=str(self._folder / "trainer"), max_length=_PACKED_LENGTH, packing=settings.packing,
            completion_only_loss=True, num_train_epochs=work["epochs"], per_device_train_batch_size=settings.rows,
            # Packing leaves fewer rows than examples, so the last step of an epoch takes the rows that remain.
            gradient_accumulation_steps=math.ceil(step / settings.rows), learning_rate=work["learning_rate"],
            max_grad_norm=1.0, gradient_checkpointing=False, bf16=False, use_cpu=True, dataloader_pin_memory=False,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, seed=work["seed"],
        )
        return trl.SFTTrainer(
            peer_model.load_model(self._folder), args=config, processing_class=self._tokenizer,
            train_dataset=datasets.Dataset.from_list(work["texts"]["finetune"]),
        )

    def train(self, trainer: trl.SFTTrainer) -> dict[str, Any]:
        """Trains for all epochs. `check`: the mean over steps of the loss before the step."""
        result = trainer.train()
        steps = self._work["epochs"] * math.ceil(len(self._work["examples"]) / self._work["examples_per_step"])
        if result.global_step != steps:
            raise RuntimeError(f"the trainer made {result.global_step} steps instead of {steps}")
        tokens = self._work["epochs"] * sum(len(ids) for ids in trainer.train_dataset["input_ids"])
        return {"tokens": tokens, "prompt_tokens": tokens, "check": [result.training_loss]}
