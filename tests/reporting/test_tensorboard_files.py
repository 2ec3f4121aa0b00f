"""TensorBoard's files, read back event by event."""

import json

import pytest
from tensorboardX import proto

from ilf_jax.reporting import tensorboard_files


def events(folder):
    """(tag, step, summary value) of every value: records are length (8), crc (4), payload, crc (4)."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = proto.event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found += [(value.tag, event.step, value) for value in event.summary.value]
    return found


def scalars(folder):
    return {(tag, step): value.simple_value for tag, step, value in events(folder)
            if value.WhichOneof("value") == "simple_value"}


@pytest.mark.fast
def test_metrics_and_every_step(tiny_run):
    _, folder, metrics = tiny_run
    found = scalars(folder / "tensorboard")
    for row in metrics:
        if row["value"] is not None:
            assert found[f"{row['stage']}/{row['metric']}", row["iteration"]] == pytest.approx(row["value"], rel=1e-6)
    steps = [json.loads(line) for k in (1, 2)
             for line in (folder / f"iteration_{k:03d}/finetune/steps.jsonl").read_text().splitlines()]
    assert len(steps) == 9  # 3, then 6: cumulative
    for number, row in enumerate(steps):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert found[f"steps/{name}", number] == pytest.approx(row[name], rel=1e-6)
    assert ("finetune/performance/seconds", 2) in found


@pytest.mark.fast
def test_samples_and_hparams(tiny_run):
    config, folder, metrics = tiny_run
    of_tag = {(tag, step): value for tag, step, value in events(folder / "tensorboard")}
    example = json.loads((folder / "iteration_002/evaluate/examples.jsonl").read_text().splitlines()[0])
    outputs = {row["id"]: row["text"] for path in (folder / "iteration_002/evaluate").glob("*-of-*.jsonl")
               for row in map(json.loads, path.read_text().splitlines())}
    text = of_tag["samples/1/text_summary", 2].tensor.string_val[0].decode()
    assert text.startswith(f"document\n\n    {example['document'].splitlines()[0]}")
    assert text.endswith(tensorboard_files._block(outputs[example["id"]]))
    plugin = of_tag["_hparams_/session_start_info", 0].metadata.plugin_data
    given = proto.plugin_hparams_pb2.HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert given["finetune.learning_rate"].number_value == config.finetune.learning_rate
    assert given["task"].string_value == "word_removal"
    experiment = of_tag["_hparams_/experiment", 0].metadata.plugin_data
    named = proto.plugin_hparams_pb2.HParamsPluginData.FromString(experiment.content).experiment.metric_infos
    assert {info.name.tag for info in named} == {
        f"evaluate/{row['metric']}" for row in metrics if (row["iteration"], row["stage"]) == (2, "evaluate")}


@pytest.mark.fast
def test_texts_hold_no_markup():
    assert tensorboard_files._block("# a\n```\n<b>") == "    # a\n    ```\n    <b>"
    assert tensorboard_files._block("") == "    "


@pytest.mark.fast
def test_long_curves_are_thinned(monkeypatch):
    monkeypatch.setattr(tensorboard_files, "_MAX_STEPS", 4)
    rows = [{"step": i, "loss": float(i), "note": None} for i in range(10)]
    assert list(tensorboard_files._curves("steps", rows)) == [("steps/loss", float(i), i) for i in (0, 3, 6, 9)]
    assert list(tensorboard_files._curves("steps", [])) == []
