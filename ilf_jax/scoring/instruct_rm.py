"""InstructRM (PAPER: R = p(yes) / (p(yes) + p(no)), averaged over an ensemble of prompts)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.evaluation import statistics
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.written_texts import WrittenTexts
from ilf_jax.models import padding
from ilf_jax.records import Scored
from ilf_jax.runtime import progress
from ilf_jax.runtime.pending import Pending
from ilf_jax.scoring import selection
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, ScorerContext, Scores
from ilf_jax.tasks.task import Task

# Documents that are judged in the paper's layout as well, to measure how far the tree layout agrees with it.
_COMPARED_DOCUMENTS = 16
# Programs for that.
_COMPARING = 1


def ensemble(probabilities_CxP: np.ndarray) -> np.ndarray:
    """Mean over the P prompts, for each of C candidates."""
    return probabilities_CxP.mean(axis=-1)


def _ask(
    judge: LanguageModel, task: Task, document: RefinedDocument, prompts: str
) -> answer_scoring.TokenizedQuestions:
    return answer_scoring.ask(judge, document.example.id, [
        task.judge_questions(document.example, document.draft, document.feedback, text, prompts)
        for text in document.candidates])


class InstructRM(Scorer):
    """Asks config.judge whether a candidate takes in the feedback. Prompts share what they have in common."""

    def __init__(self, context: ScorerContext) -> None:
        super().__init__(context)
        self._judge = judge = context.roles.get("judge")
        self._written = written = WrittenTexts("score", context.config.data.too_long)
        # Not through `self`: a cycle would keep the judge's params until the garbage is collected.
        self._questions = LookAhead(
            context.documents, key=lambda d: d.example.id, encode=lambda d: written.fit(
                d.example.id, (d.draft, d.feedback, *d.candidates),
                lambda draft, feedback, *candidates: _ask(judge, context.task, dataclasses.replace(
                    d, draft=draft, feedback=feedback, candidates=candidates), context.config.score.prompts)),
            tokens=lambda asked: asked.together.num_tokens if asked else 0,
            size=lambda d: text_size(d.example.document, d.draft, d.feedback, *d.candidates))
        sample = [questions for questions in self._questions.sample if questions is not None]
        others = _COMPARING if context.config.score.prompts == "tree" else 0
        self._layout = answer_scoring.choose_layout(
            self._judge, sample, self._questions.share, most=padding.MOST_PROGRAMS - others,
            purpose=f"score {context.iteration}")
        if not all(questions.exact for questions in sample):
            progress.log("judge: an answer takes several tokens with this tokenizer; it is scored by the first token "
                         "that distinguishes the answers")

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Sets the device to work and returns. A document whose texts are too long has scores of 0, and no others."""
        questions = [self._questions.encoded(d) for d in documents]
        asked = [of_one for of_one in questions if of_one is not None]
        pending = answer_scoring.start_scoring(self._judge, asked, self.context.config.score.batch_size, self._layout)

        def scores(probabilities: list[np.ndarray]) -> list[Scores]:
            found = iter(probabilities)
            return [Scores(np.zeros(len(d.candidates))) if of_one is None else self._scores(next(found), of_one)
                    for d, of_one in zip(documents, questions, strict=True)]

        return pending.map(scores)

    def _scores(self, scores_CxP: np.ndarray, asked: answer_scoring.TokenizedQuestions) -> Scores:
        return Scores(ensemble(scores_CxP), scores_CxP.tolist(),
                      asked.work(self._judge.architecture, self._layout.together))

    def metrics(self, scored: Mapping[str, Scored]) -> list[statistics.Metric]:
        """For the tree layout: rank correlation with the paper's layout, and how often the picks agree."""
        too_long = self._written.metrics(self.context.documents, lambda d: d.example.id, self._questions.encoded)
        if self.context.config.score.prompts != "tree":
            return too_long
        documents = [d for d in self.context.documents[:_COMPARED_DOCUMENTS] if scored[d.example.id].prompt_scores]
        if too_long or not documents:  # the other layout's prompts may be too long, too
            return too_long
        probabilities = answer_scoring.favourable_probabilities(
            self._judge, [_ask(self._judge, self.context.task, d, "paper") for d in documents],
            self.context.config.score.batch_size, _COMPARING)
        same_pick, correlations = [], []
        for document, scores_CxP in zip(documents, probabilities, strict=True):
            row = scored[document.example.id]
            N = len(row.scores)  # behind the candidates the draft may have been scored, too
            by_paper = ensemble(scores_CxP)[:N]
            usable = [self.context.task.is_usable(document.example, text) for text in document.candidates[:N]]
            same_pick.append(selection.pick(by_paper, usable) == row.chosen)
            rho = statistics.rank_correlation(row.scores, by_paper.tolist())
            if rho is not None:
                correlations.append(rho)
        metrics = [statistics.proportion("same_pick_as_paper_layout", same_pick)]
        if correlations:
            metrics.append(statistics.mean("rank_correlation_with_paper_layout", correlations))
        return metrics
