"""The model card of an export, README.md: what the policy is, what the run measured, on which data, how to use it."""

import hashlib
import json
import pathlib
import re

from ilf_jax.export.exported import Exported
from ilf_jax.reporting import markdown, tables
from ilf_jax.runtime import files, stage_folder, storage
from ilf_jax.version import __version__

_LIBRARIES = {"huggingface": "transformers", "peft": "peft", "gguf": "gguf"}
_ILF = "https://arxiv.org/abs/2303.16755"

_PIPELINE = """\
from transformers import pipeline

policy = pipeline("text-generation", model="THIS_FOLDER")
document = "The text that the policy works on."
answer = policy([{"role": "user", "content": document}])[0]["generated_text"][-1]["content"].strip()
print(answer)"""

_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE_MODEL"), "THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
document = "The text that the policy works on."
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": document}], add_generation_prompt=True, return_tensors="pt",
    return_dict=True)
written = model.generate(**prompt, max_new_tokens=MAX_NEW_TOKENS)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(written, skip_special_tokens=True).strip())"""

_GGUF = """\
llama-server --model FILE --jinja        # then POST /v1/chat/completions, the document as the user's message
ollama create my-policy -f Modelfile && ollama run my-policy "The text that the policy works on.\""""


def write(exported: Exported, folder: pathlib.Path, format: str) -> None:
    """Writes README.md.

    Args:
        exported: the policy.
        folder: of the export; everything else is in it.
        format: that it was written in, "huggingface", "peft" or "gguf".

    Raises:
        InputError: a file of the run is damaged.
    """
    parts = [_front_matter(exported, format), _what_it_is(exported), _use(exported, folder, format), _results(exported),
             _origin(exported)]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front_matter(exported: Exported, format: str) -> str:
    """For the hub. The license is the user's to fill in."""
    lines = ["---", f"library_name: {_LIBRARIES[format]}", "pipeline_tag: text-generation"]
    if name := _hub_name(exported):
        lines.append(f"base_model: {json.dumps(name)}")
    lines += ["tags:", "- ilf-jax", "- imitation-learning-from-language-feedback",
              "# license: the base model's license applies; name it here before you publish this folder.", "---"]
    return "\n".join(lines)


def _hub_name(exported: Exported) -> str:
    """The base model's name on the hub, if it has one."""
    scheme, _, name = exported.config.policy.checkpoint.partition(":")
    is_name = scheme == "hf" and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not storage.local(name).exists()
    return name if is_name else ""


def _what_it_is(exported: Exported) -> str:
    config, finished = exported.config, exported.finished
    base = markdown.escape(config.policy.checkpoint)
    task = markdown.escape(config.task.rpartition(":")[2])
    if finished.iteration == 0:
        return f"# {base}, task {task}\n\nThis is the policy before training."
    baseline = "" if finished.folder == finished.root else f" It belongs to the baseline {finished.folder.name}."
    text = (f"# {base} trained with ILF, task {task}\n\n[Imitation learning from language feedback]({_ILF}) trained "
            f"this policy: the model wrote drafts, read feedback on them in plain language and refined them, and "
            f"learned to write the best refinement (objective {markdown.escape(config.finetune.objective)}). This is "
            f"iteration {finished.iteration} of {config.iterations}.{baseline} ilf-jax {__version__} wrote it.")
    if exported.writes_feedback and exported.task is not None:
        text += (" The policy writes feedback first. Its answer follows "
                 f"`{exported.task.refinement_cue}`.")
    return text


def _use(exported: Exported, folder: pathlib.Path, format: str) -> str:
    if exported.prompt is None:
        return (f"## Use\n\nThis folder does not hold the policy's prompt: {markdown.escape(exported.why_no_prompt)}. "
                "The policy needs that prompt around each document; `ilf_jax.load(WORKDIR).generate([document])` puts "
                "it there. The chat template, if there is one, is the base model's own.")
    if format == "gguf":
        code, language = _GGUF.replace("FILE", next(folder.glob("*.gguf")).name), "sh"
    elif format == "peft":
        base = _hub_name(exported) or "BASE_MODEL"
        code = _ADAPTER.replace("BASE_MODEL", base).replace("MAX_NEW_TOKENS", str(exported.max_new_tokens))
        language = "python"
    else:
        code, language = _PIPELINE, "python"
    notes = ["The chat template holds the policy's prompt: send the bare document as the user's message.",
             "The policy answers the last user message only; it was trained on single documents."]
    if "policy.title and" in exported.prompt.source:
        notes.append('A message may also have a title: `{"role": "user", "content": document, "title": title}`.')
    if format == "peft" and not _hub_name(exported):
        notes.append("`ilf-jax export --iteration=0` writes the base model that this adapter belongs to.")
    if format != "gguf":
        notes.append("Control tokens inside a document, such as `<|im_end|>`, count as text in ilf-jax. To have "
                     "transformers do the same, pass `sanitize_control_tokens=True` to `apply_chat_template`.")
    multi = [s for s in (exported.task.stop if exported.task else ()) if s.strip()]
    if multi:
        notes.append("Cut an answer at the first of these strings: "
                     + ", ".join(f"`{json.dumps(s, ensure_ascii=False)}`" for s in multi) + ".")
    if exported.lm.thinking_tokens:
        notes.append(f"The model thinks for at most {exported.lm.thinking_tokens} tokens before it answers.")
    return f"## Use\n\n```{language}\n{code}\n```\n\n" + "\n".join(f"- {note}" for note in notes)


def _results(exported: Exported) -> str:
    """The run's table: ILF and its baselines, before training and after each iteration."""
    work, table = exported.work, tables.headline_table(exported.work)
    if not table.rows:
        return "## Results\n\nThe run evaluated nothing."
    lead = tables.headline(work)
    assert lead is not None  # the table has rows
    number = work.value(max(m.iteration for m in work.metrics if m.metric == lead), "evaluate", lead)
    count = f" on {number.n} held-out documents" if number is not None and number.n else ""
    better = tables.direction(work, lead)
    legend = (f"Means ± standard errors, or 95% intervals in brackets,{count}; iteration 0 is before training. "
              + (f"{tables.spoken(lead).capitalize()}: {better}." if better else ""))
    return f"## Results\n\n{markdown.table(table.columns, table.rows)}\n{legend.strip()}"


def _origin(exported: Exported) -> str:
    """The configuration, and digests of the documents."""
    finished = exported.finished
    values = files.read_sealed(finished.folder / "config.json")
    rows = []
    for k in range(finished.iteration + 1):
        folder = finished.root / f"iteration_{k:03d}"
        for what, path in ((f"trained on in iteration {k}", folder / "examples.jsonl"),
                           (f"evaluated in iteration {k}", folder / "evaluate" / "examples.jsonl")):
            if path.exists():
                rows.append([what, hashlib.sha256(path.read_bytes()).hexdigest()])
    source = exported.config.data.source
    text = json.dumps(values, indent=1, ensure_ascii=False)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return (f"## Data and configuration\n\nDocuments come from {markdown.escape(source)}. SHA-256 of the run's own "
            f"copies:\n\n{markdown.table(['documents', 'SHA-256'], rows)}\n<details><summary>Configuration "
            f"(hash {stage_folder.config_hash(values)})</summary>\n\n{fence}json\n{text}\n{fence}\n\n</details>")
