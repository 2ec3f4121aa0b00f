"""dpo, grpo and sdpo against TRL's own loss code, on the same batch: the same logits go into both.

pip install trl; skipped where it is missing. Measured with trl 1.16.0: see benchmarks/RESULTS.md.
"""

import collections
import types

import cases
import jax
import numpy as np
import pytest

from ilf_jax.models import transformer
from ilf_jax.training.objectives import grpo, sdpo

torch = pytest.importorskip("torch", reason="TRL runs on torch")
pytest.importorskip("trl", reason="pip install trl: the losses are compared with TRL's")
pytestmark = pytest.mark.usefixtures("quick_compiles")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def models():
    return cases.make_params(0), cases.make_reference()


class Accelerator:
    """One process, which has nothing to gather."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction):
        return value


def trainer(**settings):
    """What TRL's loss code reads of a trainer."""
    return types.SimpleNamespace(
        accelerator=Accelerator(), model=types.SimpleNamespace(training=True), aux_loss_enabled=False,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)), _total_train_tokens=0, _tp_size=1,
        current_gradient_accumulation_steps=1, **settings)


def texts_of(document, candidates=False):
    texts = document.candidates.texts if candidates else [document.text, document.draft.text]
    return [(cases.prompt_of(document.example.document, "policy"), text) for text in texts]


def log_softmax(params, tokens):
    hidden = transformer.forward(cases.CONFIG, params, tokens)
    return np.asarray(jax.nn.log_softmax(transformer.unembed(cases.CONFIG, params, hidden)))


def ours(name, params, ref, settings):
    examples = cases.examples_of(name, ref, settings)
    batch = cases.batch_of(examples, [[i] for i in range(len(examples))], len(examples))
    loss, weight, _ = cases.objective_of(name, settings)(params, ref, batch)
    return float(loss) / float(weight)


def test_dpo(models, record_property):
    from trl import DPOTrainer

    params, ref = models
    pairs = [texts_of(d) for d in cases.documents()]
    tokens, _, _, _ = cases.rows([pair[side] for side in (0, 1) for pair in pairs])
    written = [(len(p), len(p) + len(t) + 1) for side in (0, 1) for p, t in (pair[side] for pair in pairs)]
    mask = np.array([[start <= i < end for i in range(cases.LENGTH)] for start, end in written], np.int64)

    def logprobs(of):
        picked = np.take_along_axis(log_softmax(of, tokens)[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
        return torch.tensor(picked * mask[:, 1:])

    nothing = torch.zeros(tokens.shape[0], cases.LENGTH - 1)
    outputs = types.SimpleNamespace(log_probs=logprobs(params), entropy=nothing, mean_logits=nothing,
                                    is_top1=nothing.bool())
    by_ref = logprobs(ref).sum(1)
    settings = cases.settings_of(label_smoothing=0.0)
    theirs = DPOTrainer._compute_loss(
        trainer(ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=["sigmoid"],
                loss_weights=[1.0], beta=settings.beta, use_weighting=False),
        lambda **_: outputs,
        {"input_ids": torch.tensor(tokens).long(), "completion_mask": torch.tensor(mask),
         "attention_mask": torch.ones(tokens.shape), "ref_chosen_logps": by_ref[: cases.COUNT],
         "ref_rejected_logps": by_ref[cases.COUNT :]}, False)
    found = ours("dpo", params, ref, settings)
    record_property("ours", found)
    record_property("theirs", float(theirs))
    assert found == pytest.approx(float(theirs), rel=TOLERANCE)


def test_grpo(models, record_property):
    from trl import GRPOTrainer

    params, ref = models
    texts = [text for d in cases.documents() for text in texts_of(d, candidates=True)]
    mask = torch.tensor(cases.rows(texts)[3])
    of_params, of_ref = (torch.tensor(np.array(cases.logp(of, texts))) for of in models)
    scores = torch.tensor([d.scored.scores for d in cases.documents()])
    # As GRPOTrainer does with scale_rewards="group".
    advantages = (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)
    np.testing.assert_allclose(advantages, [grpo.group_advantages(s.numpy()) for s in scores], atol=1e-5)
    clip, kl = cases.SETTINGS.clip_ratio, cases.SETTINGS.kl_weight
    made = trainer(
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", beta=kl,
        args=types.SimpleNamespace(delta=None, use_bias_correction_kl=False), loss_type="grpo", epsilon_low=clip,
        epsilon_high=clip, use_vllm=False, _entropy_bonus_enabled=False, use_adaptive_entropy=False, entropy_coef=0.0,
        _get_per_token_logps_and_entropies=lambda *_, **__: (of_params, torch.zeros_like(of_params), None))
    inputs = {"prompt_ids": torch.zeros(len(texts), 1).long(), "prompt_mask": torch.ones(len(texts), 1),
              "completion_ids": torch.zeros(mask.shape).long(), "completion_mask": mask,
              "advantages": advantages.reshape(-1), "old_per_token_logps": of_ref, "ref_per_token_logps": of_ref}
    theirs = GRPOTrainer._compute_loss(made, None, inputs)
    found = ours("grpo", params, ref, cases.SETTINGS)
    record_property("ours", found)
    record_property("theirs", float(theirs))
    assert found == pytest.approx(float(theirs), rel=TOLERANCE)


@pytest.mark.parametrize("top_k", [cases.V, cases.TOP_K])
def test_sdpo(models, top_k, record_property):
    """The whole distribution; and k tokens of the teacher's with TRL's bucket for the rest (TRL takes the student's).
    """
    loss_utils = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    params, ref = models
    documents = cases.documents()
    drafts = [(cases.prompt_of(d.example.document, "policy"), d.draft.text) for d in documents]
    taught = [(cases.prompt_of(d.example.document, "feedback", d.feedback.text), d.draft.text) for d in documents]
    mask = torch.tensor(cases.rows(drafts)[3])
    student, teacher = (torch.tensor(np.array(cases.log_softmax_at(of, *cases.rows(texts)[:2])))
                        for of, texts in ((params, drafts), (ref, taught)))
    if top_k == cases.V:
        losses = loss_utils.compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=1.0)
    else:
        top = torch.topk(teacher, top_k, dim=-1).indices
        # In double precision, for TRL takes the rest as 1 less the sum of what is likely.
        student, teacher = (torch.log_softmax(of.double(), dim=-1) for of in (student, teacher))
        losses = loss_utils.compute_divergence(*(loss_utils.add_tail_bucket(torch.gather(of, -1, top))
                                                 for of in (student, teacher)), 1.0)
    theirs = float((losses * mask).sum() / mask.sum())
    found = ours("sdpo", params, ref, cases.settings_of(teacher="frozen", teacher_top_k=top_k))
    record_property("ours", found)
    record_property("theirs", theirs)
    assert found == pytest.approx(theirs, rel=TOLERANCE)
    assert isinstance(cases.objective_of("sdpo", cases.settings_of(teacher="frozen")), sdpo.SelfDistillation)
