"""Each objective on a few texts of a tiny vocabulary, and its formula written plainly: one text a row, all logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import config_sections
from ilf_jax.models import transformer
from ilf_jax.models.architecture import small_shape
from ilf_jax.models.compute import FLOAT32
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored
from ilf_jax.training import objectives, packing
from ilf_jax.training.objectives import LearnedFrom

V, END, LENGTH, TOP_K, COUNT = 16, 3, 24, 3, 8
CONFIG = dataclasses.replace(small_shape(32, 1, V), num_heads=4, num_kv_heads=2, head_dim=8)
SETTINGS = config_sections.Finetune(beta=0.7, label_smoothing=0.1, clip_ratio=0.05, kl_weight=0.3, teacher_top_k=TOP_K)


def make_params(seed):
    # Several times as large as usual: a model that already prefers some texts.
    return jax.tree.map(lambda a: 5 * a if a.ndim == 2 else a, transformer.init_params(CONFIG, jax.random.key(seed)))


def make_reference():
    """A model near `make_params(0)`, as the start of a training is near its end."""
    return jax.tree.map(lambda ours, other: 0.8 * ours + 0.2 * other, make_params(0), make_params(1))


def ids(text):
    return [4 + ord(letter) - ord("a") for letter in text]


def prompt_of(document, context, feedback="", refinement="", draft=""):
    before = {"policy": "", "feedback": feedback, "demonstration": refinement, "refine": draft + feedback,
              "critic": draft}[context]
    return [1, *ids(before), 2, *ids(document)]


def documents():
    """What eight documents taught: texts of letters, scores, and candidates."""
    rng = np.random.default_rng(0)

    def text(n):
        return "".join(chr(ord("a") + i) for i in rng.integers(0, V - 4, n))

    made = []
    for i in range(COUNT):
        candidates = [text(int(rng.integers(1, 5))) for _ in range(3)]
        made.append(LearnedFrom(
            Example(str(i), text(2)), "", candidates[0], "refinement", Draft(str(i), text(3), "policy"),
            Feedback(str(i), text(int(rng.integers(1, 4))), "oracle"),
            Candidates(str(i), candidates, [0.0] * 3, [1] * 3, [True] * 3),
            Scored(str(i), rng.normal(size=3).tolist(), 0, {}, draft_score=float(rng.normal())), (True,) * 3))
    return made


def objective_of(name, settings=SETTINGS):
    return objectives.make(CONFIG, FLOAT32, dataclasses.replace(settings, objective=name))


def examples_of(name, ref, settings=SETTINGS):
    """Training examples as the stage makes them, with their log-probabilities under the reference `ref`."""
    settings, cls, made = dataclasses.replace(settings, objective=name), objectives.by_choice(name), []
    for document in documents():
        for i, target in enumerate(cls.targets(document, settings)):
            def encode(texts, context="policy", target=target, document=document):
                prompt = prompt_of(document.example.document, context, target.feedback, target.refinement, target.draft)
                return [packing.training_example(prompt, ids(text), END, prompt_weight=0.0) for text in texts]

            example = cls.training_example(target, encode)
            if settings.feedback_weight and i == 0:
                target = dataclasses.replace(target, draft=document.draft.text)
                (beside,) = encode([document.feedback.text], "critic", target)
                example = dataclasses.replace(example, beside={**example.beside, "feedback": beside})
            made.append(example)
    if objective_of(name, settings).reference == "logprobs":
        made = [dataclasses.replace(e, reference_logprobs=reference_logprobs(ref, e)) for e in made]
    return made


def parts(example):
    """The texts of an example, one by one."""
    at, found = 0, []
    for length in example.parts or (len(example.tokens),):
        found.append(packing.TrainingExample(example.tokens[at : at + length], example.weights[at : at + length]))
        at += length
    return found


def batch_of(examples, rows, num_rows):
    T = packing.targets_per_row(examples, rows)
    return packing.assemble(examples, rows, num_rows=num_rows, row_length=2 * LENGTH, num_targets=T,
                            beside=packing.beside_targets(examples, rows))


MAX_TEXT = 6


def rows(texts):
    """(Tokens N x LENGTH, place of each predicted token less one, targets, mask; N x MAX_TEXT) of (prompt, text)s."""
    tokens = np.zeros((len(texts), LENGTH), np.int32)
    at, targets = (np.zeros((len(texts), MAX_TEXT), np.int32) for _ in range(2))
    mask = np.zeros((len(texts), MAX_TEXT), np.float32)
    for i, (prompt, text) in enumerate(texts):
        written = [*ids(text), END]
        n = len(written)
        tokens[i, : len(prompt) + n] = [*prompt, *written]
        at[i, :n], targets[i, :n], mask[i, :n] = len(prompt) - 1 + np.arange(n), written, 1
    return tokens, at, targets, mask


@jax.jit
def log_softmax_at(params, tokens, at):
    hidden = transformer.forward(CONFIG, params, tokens)
    whole = jax.nn.log_softmax(transformer.unembed(CONFIG, params, hidden))
    return jnp.take_along_axis(whole, at[..., None], axis=1)


def logp(params, texts):
    """log pi of each token of the texts and of their ends, one unpacked row each, N x MAX_TEXT; 0 behind the end."""
    tokens, at, targets, mask = rows(texts)
    picked = jnp.take_along_axis(log_softmax_at(params, tokens, at), targets[..., None], axis=-1)[..., 0]
    return picked * mask


def reference_logprobs(ref, example):
    texts = []
    for part in parts(example):
        start = int(np.flatnonzero(part.weights)[0])
        text = "".join(chr(ord("a") + int(i) - 4) for i in part.tokens[start:-1])
        texts.append(([int(i) for i in part.tokens[:start]], text))
    padded = [*texts, *[texts[0]] * (2 - len(texts))]
    values, mask = np.asarray(logp(ref, padded)), rows(padded)[3]
    return np.concatenate([v[m > 0] for v, m in zip(values, mask, strict=True)][: len(texts)])


def _c(d, context="policy"):
    return prompt_of(d.example.document, context, d.feedback.text, d.text, d.draft.text)


def dpo(params, ref):
    better, worse = ([(_c(d), t(d)) for d in documents()] for t in (lambda d: d.text, lambda d: d.draft.text))
    gain, loss = (jnp.sum(logp(params, texts) - logp(ref, texts), axis=1) for texts in (better, worse))
    m, s = SETTINGS.beta * (gain - loss), SETTINGS.label_smoothing
    return jnp.sum(-(1 - s) * jax.nn.log_sigmoid(m) - s * jax.nn.log_sigmoid(-m)), COUNT


def imitation(params, texts):
    return -jnp.sum(logp(params, texts)), float(rows(texts)[3].sum())


def nll(params, ref):
    return imitation(params, [(_c(d), d.text) for d in documents()])


def fcp(params, ref):
    return imitation(params, [(_c(d, "feedback"), d.draft.text) for d in documents()])


def feedback_modelling(params, ref):
    return imitation(params, [(_c(d, "critic"), d.feedback.text) for d in documents()])


def distilled(params, teacher, context, top_k=TOP_K):
    drafts = [(_c(d), d.draft.text) for d in documents()]
    taught = [(_c(d, context), d.draft.text) for d in documents()]
    tokens, at, _, mask = rows(drafts)
    q = jnp.exp(log_softmax_at(params, tokens, at))
    p = jax.lax.stop_gradient(jnp.exp(log_softmax_at(teacher, *rows(taught)[:2])))
    order = jnp.argsort(-p, axis=-1)
    q, p = (jnp.take_along_axis(x, order, axis=-1) for x in (q, p))
    if top_k < V:
        q, p = (jnp.concatenate([x[..., :top_k], jnp.sum(x[..., top_k:], -1, keepdims=True)], -1) for x in (q, p))
    return jnp.sum(jnp.sum(q * jnp.log(q / p), axis=-1) * mask), float(mask.sum())


def rltf_sd(params, ref):
    texts = [(_c(d), text) for d in documents() for text in d.candidates.texts]
    gains = np.array([score - d.scored.draft_score for d in documents() for score in d.scored.scores])
    return -jnp.sum(gains * jnp.sum(logp(params, texts), axis=1)), float(rows(texts)[3].sum())


def grpo_loss(params, ref):
    texts = [(_c(d), text) for d in documents() for text in d.candidates.texts]
    scores = np.array([d.scored.scores for d in documents()])
    advantages = (scores - scores.mean(1, keepdims=True)) / (scores.std(1, ddof=1, keepdims=True) + 1e-4)
    A, mask, e = advantages.reshape(-1, 1), rows(texts)[3], SETTINGS.clip_ratio
    difference = logp(params, texts) - logp(ref, texts)
    r = jnp.exp(difference)
    gains = jnp.minimum(r * A, jnp.clip(r, 1 - e, 1 + e) * A)
    losses = (SETTINGS.kl_weight * (jnp.exp(-difference) + difference - 1) - gains) * mask
    return jnp.sum(jnp.sum(losses, axis=1) / mask.sum(1)), len(texts)


def with_feedback(formula):
    def both(params, ref):
        loss, weight = formula(params, ref)
        return loss + 0.5 * feedback_modelling(params, ref)[0], weight

    return both


def settings_of(**changes):
    return dataclasses.replace(SETTINGS, **changes)


# name of the case -> (objective, settings, formula of (params, ref))
CASES = {
    "dpo": ("dpo", SETTINGS, dpo),
    "fcp": ("fcp", SETTINGS, fcp),
    "feedback_modelling": ("feedback_modelling", SETTINGS, feedback_modelling),
    "sdpo, current teacher": ("sdpo", SETTINGS, lambda params, ref: distilled(params, params, "feedback")),
    "sdpo, whole distribution": ("sdpo", settings_of(teacher_top_k=V, teacher_reads="refine"),
                                 lambda params, ref: distilled(params, params, "refine", V)),
    "sdpo, frozen teacher": ("sdpo", settings_of(teacher="frozen"),
                             lambda params, ref: distilled(params, ref, "feedback")),
    "sdft, averaged teacher": ("sdft", settings_of(teacher="ema"),
                               lambda params, ref: distilled(params, ref, "demonstration")),
    "rltf_sd": ("rltf_sd", SETTINGS, rltf_sd),
    "grpo": ("grpo", SETTINGS, grpo_loss),
    "nll with feedback": ("nll", settings_of(feedback_weight=0.5), with_feedback(nll)),
    "dpo with feedback": ("dpo", settings_of(feedback_weight=0.5), with_feedback(dpo)),
    "sdpo with feedback": ("sdpo", settings_of(feedback_weight=0.5, teacher="frozen"),
                           with_feedback(lambda params, ref: distilled(params, ref, "feedback"))),
}
