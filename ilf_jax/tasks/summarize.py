"""Summaries of posts and articles, the task of the paper: a "TL;DR:" policy, refined with feedback."""

import re

from ilf_jax.tasks import prompts
from ilf_jax.tasks.task import Task

_POLICY = """\
Title: {title}

{document}

TL;DR:"""

# What shifts between documents stands before what shifts between candidates; the cue comes last, so that a plain
# language model goes on with the summary itself and a chat model is told plainly to write nothing else.
_REFINE = """\
Rewrite the summary of the text below so that it does what the feedback asks. \
Keep to what the text says. Answer with the improved summary only, in one or two sentences.

Title: {title}

Text: {document}

Summary: {draft}

Feedback on the summary: {feedback}

Improved TL;DR:"""

_REFINE_ALONE = """\
Rewrite the summary of the text below so that it is a better one. \
Keep to what the text says. Answer with the improved summary only, in one or two sentences.

Title: {title}

Text: {document}

Summary: {draft}

Improved TL;DR:"""

_CRITIC = """\
Read the text and its summary. Say in one or two sentences what matters most for making the summary better: \
what it leaves out, gets wrong, or says unclearly. Do not write a new summary.

Title: {title}

Text: {document}

Summary: {draft}

Feedback on the summary:"""

_COMPARE = """\
Here is a text with two summaries of it. Decide which one tells a busy reader more truthfully and more clearly \
what matters in the text.

Title: {title}

Text: {document}

Summary A: {first}

Summary B: {second}

Which summary is better? Answer with the letter A or B.
Answer:"""

_RATE = """\
Here is a text with a summary of it. Decide whether the summary is good: true to the text, clear, \
and about what matters in it.

Title: {title}

Text: {document}

Summary: {draft}

Is this a good summary? Answer Yes or No.
Answer:"""

# The head of every judge prompt is the same but for the opening words: {refinement} comes after all that the N
# candidates of a document share.
_JUDGE_HEAD = """\
{opening}

Title: {{title}}

Text: {{document}}

First summary: {{draft}}

Feedback on the first summary: {{feedback}}

Second summary: {{refinement}}

{question}
Answer:"""

_JUDGE = (
    (
        "A summary of a text was given feedback, and then written anew.",
        "Does the second summary do what the feedback asks? Answer Yes or No.",
        ("Yes", "No"),
    ),
    (
        "Below are a text, a first summary of it, a reader's feedback, and a second summary.",
        "Would the reader who gave the feedback now be satisfied with the second summary? Answer Yes or No.",
        ("Yes", "No"),
    ),
    (
        "You check whether writers listen to the feedback that they are given.",
        "Has the fault that the feedback points out been put right in the second summary? Answer Yes or No.",
        ("Yes", "No"),
    ),
    (
        "Judge a claim about a summary that was revised after feedback.",
        "Claim: the second summary takes the feedback into account. True or False?",
        ("True", "False"),
    ),
    (
        "An editor read a summary and commented on it; the writer then handed in another one.",
        "Statement: what the editor asked for is found in the second summary. True or False?",
        ("True", "False"),
    ),
)

# Alike up to and with the second summary; the questions are short, for each is computed for each candidate.
_TREE_HEAD = """\
A summary of a text was given feedback, and then written anew.

Title: {title}

Text: {document}

First summary: {draft}

Feedback on the first summary: {feedback}

Second summary: {refinement}

"""

_TREE = (
    (_TREE_HEAD + "Does the second summary follow the feedback? Yes or No?\nAnswer:", "Yes", "No"),
    (_TREE_HEAD + "Is the fault now put right? Yes or No?\nAnswer:", "Yes", "No"),
    (_TREE_HEAD + "Would the reader be content? Yes or No?\nAnswer:", "Yes", "No"),
    (_TREE_HEAD + "The feedback was taken into account. True or False?\nAnswer:", "True", "False"),
    (_TREE_HEAD + "What was asked for is there. True or False?\nAnswer:", "True", "False"),
)


class Summarize(Task):
    """Summarise `document` (with an optional `title`); source of the shape of the prompts: arXiv 2303.16755."""

    name = "summarize"
    stop = ("\n",)
    refinement_cue = "Improved TL;DR:"
    prompts = prompts.PromptSet(
        policy=_POLICY,
        refine=_REFINE,
        refine_alone=_REFINE_ALONE,
        critic=_CRITIC,
        judge=tuple(
            (_JUDGE_HEAD.format(opening=opening, question=question), yes, no)
            for opening, question, (yes, no) in _JUDGE
        ),
        judge_tree=_TREE,
        compare=_COMPARE,
        rate=(_RATE, "Yes", "No"),
    )

    def postprocess(self, text: str) -> str:
        """Summary fit for use, by the rules of the paper, in this order.

        Drop leading characters that are neither letters nor digits; cut at the first newline; collapse spaces; drop
        an unfinished last sentence, that is all after the last of `. ? !`, where any of the three occurs.
        """
        text = re.sub(r"^[\W_]+", "", text).partition("\n")[0]
        text = re.sub(r"\s+", " ", text).strip()
        end = max(text.rfind(mark) for mark in ".?!")
        return text[: end + 1] if end >= 0 else text
