"""InstructRM by a judge behind an endpoint: the same questions, answered over the network."""

from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.evaluation import statistics
from ilf_jax.records import Scored
from ilf_jax.remote.remote_model import Answer, RemoteModel
from ilf_jax.runtime.pending import Pending
from ilf_jax.scoring.instruct_rm import ensemble
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, ScorerContext, Scores


class RemoteJudge(Scorer):
    """Asks config.judge, an endpoint, whether a candidate takes in the feedback."""

    def __init__(self, context: ScorerContext, judge: RemoteModel) -> None:
        super().__init__(context)
        self._judge = judge

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Sends the questions and returns.

        Raises, with the result:
            InputError: not one question was answered as asked; see also `RemoteModel.answer`.
        """
        questions = [self._questions(d) for d in documents]
        flat = [question for of_document in questions for question in of_document]

        def scores(answers: list[Answer]) -> list[Scores]:
            if answers and not any(answer.answered for answer in answers):
                raise InputError(
                    f"config.judge.checkpoint: the model gave neither answer to any of {len(answers)} questions, "
                    f"{flat[0][1][0].strip()!r} or {flat[0][1][1].strip()!r} say. One that thinks first cannot judge: "
                    "turn that off, by config.judge.template_arguments={'enable_thinking': False} for example, or take "
                    "another model")
            rest = iter(answers)
            return [_scores([next(rest) for _ in of_document], len(d.candidates))
                    for d, of_document in zip(documents, questions, strict=True)]

        return self._judge.answer(flat).map(scores)

    def _questions(self, document: RefinedDocument) -> list[tuple[str, tuple[str, str]]]:
        """C x P of them, one candidate after another."""
        return [(question.prompt.text, question.answers) for text in document.candidates
                for question in self.context.task.judge_questions(
                    document.example, document.draft, document.feedback, text, self.context.config.score.prompts)]

    def metrics(self, scored: Mapping[str, Scored]) -> list[statistics.Metric]:
        """Share of questions that the judge did not answer, and the mean standard error of the chosen scores."""
        answers = self._judge.answer([q for d in self.context.documents for q in self._questions(d)]).result()
        found = [statistics.proportion("unanswered_rate", [not answer.answered for answer in answers])]
        stderrs = [row.stderrs[row.chosen] for row in scored.values() if row.stderrs]
        return [*found, *([statistics.mean("score_stderr", stderrs)] if stderrs else [])]


def _scores(answers: Sequence[Answer], count: int) -> Scores:
    """Of one document's `count` candidates."""
    probabilities_CxP = np.array([a.probability for a in answers]).reshape(count, -1)
    stderrs_CxP = np.array([a.stderr for a in answers]).reshape(count, -1)
    # Of a mean of independent estimates.
    stderrs_C = np.sqrt((stderrs_CxP**2).sum(axis=-1)) / stderrs_CxP.shape[1]
    return Scores(ensemble(probabilities_CxP), probabilities_CxP.tolist(),
                  stderrs=stderrs_C.tolist() if stderrs_C.any() else [])
