"""The prompt of a policy as a chat template: what a run puts around a document, other programs then put there, too.

The last user message is the document. The template writes the same text, token for token, as the run did: what the
task's template says and, for a chat model, what its own chat template makes of that.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.policy_outputs import policy_prompt
from ilf_jax.records import Example
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.task import Task
from ilf_jax.tokenizers.chat_templates import BASE, TASK_PROMPT, ChatTemplates

# Stand for the texts while their places in the prompt are looked for. No chat template trims or splits them.
_MARKS = {"title": "Qwztitleqwz", "document": "Qwzdocumentqwz"}

# What the written template is tried on: quotes, braces, markup, blanks at both ends, several scripts.
_TRIALS = (
    "Ada the baker", "He said: \"it's {x}, {{y}}, {% z %}, {# c #} or \\n\".\n\n<b>New</b>\tline", "  blanks  \n",
    "Ünï 🙂 世界 e\u0301", "{document} {title}", "A long one. " * 40, "",
)

# What a chat template may do to a message at its ends, in Jinja.
_ENDS = ("", ".rstrip()", ".lstrip()", " | trim")


@dataclasses.dataclass(frozen=True)
class TaskPrompt:
    """What the policy reads.

    Attributes:
        source: the chat template, Jinja.
        parts: of a prompt without a title: text before the document, and text behind it. The document may stand there
            several times, so there may be more.
    """

    source: str
    parts: tuple[str, ...]


def make(lm: LanguageModel, task: Task, config: Config, trained: bool) -> tuple[TaskPrompt | None, str]:
    """The prompt of a policy; where no template can say it, None and the reason.

    Args:
        lm: the policy; its params do not matter.
        task: writes the prompt.
        config: of the run.
        trained: whether the run has finetuned it.
    """
    for name in ("policy_prompt", "conditioned_prompt"):
        if getattr(type(task), name) is not getattr(Task, name) or name in vars(task):
            return None, f"the task {type(task).__name__} writes its prompt by a Python method, {name}"
    reads = policy_prompt(task, config, trained)
    variants = {(title, document): _pieces(lm, reads, title, document)
                for title, document in itertools.product((True, False), repeat=2)}
    for blank in ("", " "):
        ends: dict[bool, str] = {}
        for title in (False, True):
            examples = [example for n, document in enumerate(_TRIALS)
                        if _can_read(lm, reads, example := Example("", document, f'On "{{title}}" {n}' * title))]
            for tried in _ENDS:
                source = _source(lm, variants, {False: "", True: "", **ends, title: tried}, blank)
                if _is_right(lm, reads, source, examples):
                    ends[title] = tried
                    break
        if len(ends) == 2:
            start = _bos(lm) + blank if _bos(lm) else ""
            parts = variants[False, True]
            return TaskPrompt(_source(lm, variants, ends, blank), (start + parts[0], *parts[2::2])), ""
    return None, "what its own chat template or tokenizer makes of a document cannot be said by a template"


def _pieces(
    lm: LanguageModel, reads: Callable[[Example], Prompt], title: bool, document: bool
) -> tuple[str, ...]:
    """A prompt cut where title and document stand: text, name of what follows, text, ..., text."""
    example = Example("", _MARKS["document"] if document else "", _MARKS["title"] if title else "")
    text = lm.tokenizer.unmark(lm.encode_whole("", reads(example)).text)
    names = {mark: name for name, mark in _MARKS.items()}
    return tuple(names.get(part, part) for part in re.split(f"({'|'.join(names)})", text))


def _bos(lm: LanguageModel) -> str:
    """What stands before a prompt that no chat template of the model's wraps."""
    return text_of(lm, lm.tokenizer.bos_id) if lm.tokenizer.adds_bos and not lm.uses_chat else ""


def text_of(lm: LanguageModel, token_id: int | None) -> str:
    """A control token as templates write it; '' where there is none."""
    return next((text for text, i in lm.tokenizer.control_tokens.items() if i == token_id), "")


def _source(
    lm: LanguageModel, variants: Mapping[tuple[bool, bool], tuple[str, ...]], ends: Mapping[bool, str], blank: str
) -> str:
    """The template in Jinja.

    Args:
        lm: the policy.
        variants: the prompt with and without title and document, see `_pieces`.
        ends: see `_ENDS`; for prompts without a title and with one.
        blank: stands behind BOS: tokenizers differ in whether they put one there themselves.
    """
    start = _bos(lm) + blank if _bos(lm) else ""

    def written(title: bool, document: bool) -> str:
        pieces, end = variants[title, document], ends[title]
        texts = {"title": "policy.title", "document": f"(policy.document{end})" if end else "policy.document"}
        parts = [texts[piece] if i % 2 else _literal(piece) for i, piece in enumerate(pieces) if i % 2 or piece]
        return "{{- " + " + ".join([*([_literal(start)] if start else []), *parts] or ['""']) + " -}}"

    lines = [
        TASK_PROMPT,
        "{#- The policy reads one document: the content of the last user message. A user message may also have a "
        "title. -#}",
        '{%- set policy = namespace(document="", title="") -%}',
        "{%- for message in messages -%}",
        '{%- if message["role"] == "user" -%}',
        '{%- set policy.document = message["content"] -%}',
        '{%- set policy.title = message["title"] | default("") -%}',
        "{%- endif -%}",
        "{%- endfor -%}",
    ]
    if "title" in variants[True, True]:
        lines += ["{%- if policy.title and policy.document -%}", written(True, True),
                  "{%- elif policy.title -%}", written(True, False),
                  "{%- elif policy.document -%}", written(False, True)]
    else:
        lines += ["{%- if policy.document -%}", written(False, True)]
    lines += ["{%- else -%}", written(False, False), "{%- endif -%}"]
    before, after = _answer(lm, variants[False, True])
    lines += ['{%- if not add_generation_prompt and messages[-1]["role"] == "assistant" -%}',
              f'{{{{- {_literal(before)} + messages[-1]["content"] + {_literal(after)} -}}}}', "{%- endif -%}"]
    return "\n".join(lines)


def _answer(lm: LanguageModel, pieces: Sequence[str]) -> tuple[str, str]:
    """What stands before and behind an output that follows its prompt, the end token included."""
    before = lm.turn.opening if lm.uses_chat else "" if pieces[-1][-1:].isspace() else " "
    return before, lm.turn.closing + (text_of(lm, lm.end_id) if lm.end_ids else "")


def _literal(text: str) -> str:
    """A Jinja string: the escapes of JSON are among those that it knows."""
    return json.dumps(text, ensure_ascii=False)


def _can_read(lm: LanguageModel, reads: Callable[[Example], Prompt], example: Example) -> bool:
    """Whether the model has embeddings for all of a prompt, and its own chat template takes it."""
    try:
        lm.encode_whole("", reads(example))
    except InputError:
        return False
    return True


def _is_right(
    lm: LanguageModel, reads: Callable[[Example], Prompt], source: str, examples: Sequence[Example]
) -> bool:
    """Whether the template gives the policy's own token ids."""
    chats = [[{"role": "user", "content": e.document, **({"title": e.title} if e.title else {})}] for e in examples]
    try:
        texts = ChatTemplates({"default": source}, {}, "the exported chat template").render(
            chats, add_generation_prompt=True)
    except InputError:
        return False
    return all(lm.tokenizer.encode(text, special=True) == lm.encode_whole("", reads(example)).ids
               for text, example in zip(texts, examples, strict=True))


def with_base(prompt: TaskPrompt, base: ChatTemplates) -> ChatTemplates:
    """The templates of an export: the policy's prompt by default, the model's own default as `BASE`."""
    others = {BASE if name == "default" else name: source for name, source in base.by_name.items()}
    return dataclasses.replace(base, by_name={"default": prompt.source, **others})
