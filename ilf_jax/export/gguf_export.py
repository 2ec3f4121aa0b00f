"""A policy as a GGUF file, which llama.cpp runs, and a Modelfile, by which Ollama does.

Matrices are of the type that is asked for; vectors, which llama.cpp adds and multiplies by, stay in float32.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ilf_jax.export import chat_template
from ilf_jax.export.exported import Exported
from ilf_jax.models import family_configs_gguf
from ilf_jax.models.families import GGUF_TABLES
from ilf_jax.version import __version__

_SAMPLES = 200
# Tables of positions are added to embeddings as they are.
_AS_VECTORS = ("position_embd.weight",)


def metadata(exported: Exported) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The architecture's name, the file's metadata, and tensors of its own.

    Raises:
        InputError: GGUF has no word for the architecture or the tokenizer.
    """
    lm, finished = exported.lm, exported.finished
    arch, keys, tensors = family_configs_gguf.to_gguf(lm.architecture)
    tokenizer = lm.tokenizer.gguf_metadata(lm.architecture.vocab_size, _samples(exported))
    name = f"{exported.config.task.rpartition(':')[2]}, iteration {finished.iteration}"
    about = {"general.name": name, "general.description": f"Trained with ilf-jax {__version__} from "
             f"{exported.config.policy.checkpoint}", "general.type": "model"}
    chat = lm.tokenizer.chat
    if exported.prompt is not None:
        chat = chat_template.with_base(exported.prompt, chat)
    others = [n for n in chat.by_name if n != "default"]
    templates: dict[str, Any] = {"tokenizer.chat_template" + ("" if n == "default" else f".{n}"): source
                                 for n, source in chat.by_name.items()}
    if others:
        templates["tokenizer.chat_templates"] = others
    return arch, {**about, **keys, **tokenizer, **templates}, tensors


def _samples(exported: Exported) -> list[str]:
    """Documents and outputs of the run."""
    texts: list[str] = []
    for iteration in exported.work.iterations:
        texts += [example.document for example in iteration.heldout.values()][:_SAMPLES]
        texts += [f" {output.text}" for output in iteration.rows("evaluate").values()][:_SAMPLES]
    return texts


def write(
    exported: Exported, arch: str, keys: Mapping[str, Any], tensors: Mapping[str, np.ndarray], folder: pathlib.Path,
    dtype: str,
) -> None:
    """Writes policy-DTYPE.gguf and Modelfile.

    Args:
        exported: the policy.
        arch: see `metadata`.
        keys: likewise.
        tensors: likewise.
        folder: to write to.
        dtype: of matrices: F16, Q8_0 or F32. Where Q8_0 cannot be, as rows are no multiple of its block, F16.
    """
    import gguf

    path = folder / f"policy-{dtype}.gguf"
    writer = gguf.GGUFWriter(path, arch, use_temp_file=True)  # tensors do not stay in memory
    for key, value in keys.items():
        _add(writer, key, value)
    writer.add_file_type({"F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16,
                          "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[dtype])
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.asarray(tensor, np.float32))
    config = exported.lm.architecture
    params, table = traverse_util.flatten_dict(exported.params, sep="/"), GGUF_TABLES[arch]
    for rule in table.expand(config, params):
        value = rule.transform.save([np.asarray(params[t], np.float32) for t in rule.targets], config)
        name = table.export_name(rule.source)
        if value.ndim == 1 or name in _AS_VECTORS or dtype == "F32":
            writer.add_tensor(name, np.ascontiguousarray(value))
        elif dtype == "Q8_0" and value.shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0][0] == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(value), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "Modelfile").write_text(_modelfile(exported, path.name), encoding="utf-8")


def _add(writer: Any, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
             list: writer.add_array}
    kinds[type(value)](key, value)


def _for_go(text: str) -> str:
    """Text such that a Go template between three quotes writes it as it is."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')


def _modelfile(exported: Exported, file: str) -> str:
    """What `ollama create` reads. Ollama has no Jinja, so the prompt stands there as a template of Go's."""
    settings = exported.config.evaluate
    lines = [f"FROM ./{file}"]
    if exported.prompt is not None:
        tokenizer = exported.lm.tokenizer
        bos = chat_template.text_of(exported.lm, tokenizer.bos_id) if tokenizer.adds_bos else ""  # Ollama adds it
        first, *rest = exported.prompt.parts
        text = "{{ .Prompt }}".join(_for_go(part) for part in (first.removeprefix(bos), *rest))
        lines.append(f'TEMPLATE """{text}"""')
    lines += [f"PARAMETER temperature {settings.temperature:g}", f"PARAMETER top_p {settings.top_p:g}",
              f"PARAMETER top_k {settings.top_k}", f"PARAMETER num_predict {exported.max_new_tokens}"]
    if exported.task is not None and not exported.lm.thinking_tokens:
        lines += [f"PARAMETER stop {json.dumps(string, ensure_ascii=False)}" for string in exported.task.stop]
    return "\n".join(lines) + "\n"
