"""One normalisation of texts: blanks and broken characters, announcements, echoes, half sentences."""

import time

import pytest

from ilf_jax.records import Example
from ilf_jax.tasks import answers
from ilf_jax.tasks.summarize import Summarize
from ilf_jax.tasks.template import TemplateTask
from ilf_jax.tasks.word_removal import WordRemoval

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("text", [
    " a b", "a b\n", "\r\n\ta b \n\n", "\ufeffa b", "a b\ufffd", "\u00a0a b\u200b", "a b"])
def test_clean(text):
    assert answers.clean(text) == "a b"


@pytest.mark.parametrize("announced", [
    "Sure! Here is the improved TL;DR:\n\n", "Improved TL;DR: ", "Here's a revised summary: ", "Summary:\n",
    "**Revised summary:** ", "Of course. Here is a better and shorter version of the summary:\n", "TL;DR: ", "TLDR: ",
    "Certainly! Below is the rewritten text, with your feedback taken in:\n", "Revised version (short): ",
    "I've rewritten it as you asked: ", "Sure!\n", "Okay, here is my version: ", "Answer: ", "# New draft:\n",
    "Thank you for the feedback! Here\u2019s the updated summary:\n",
])
def test_announcements_are_cut_off(announced):
    assert answers.without_preamble(f"{announced}The town bought a bridge.") == "The town bought a bridge."


@pytest.mark.parametrize("text", [
    "Here is what happened: my boss left.", "I sent a text: she said no.",
    "Three things went wrong: rain, wind, a dog.",
    "Here is the reply that I got from my boss: no.", "New York: the city sleeps.", "Sure thing was no sure thing.",
    "The final: nobody scored.", "Great Britain: out of the cup.", "Yes, I did it: twice.", "Title fight: he lost.",
    "My ex wrote: come back.", "Final score 3:2 after extra time.",
    "Better late than never: we met.", "At 5:30 I left.",
    "The text of the law: nobody read it.", "Ok, so I left.", "Response times fell: ten seconds.", "",
    "Great Britain left the club.\nThe rest stayed.", "Thanks to a neighbour the cat was found.\nIt is well.",
    "Yes.\nThe law says so.", "I've improved my life by one habit: running.",
    "I have updated my resume with two changes: shorter and in colour.", "I've edited the photos for years: no more.",
    "This is the final draft I sent my boss: he hated it.", "Here is the new text my ex sent me: I miss you.",
    "The new version: what changes for drivers.", "Draft: the Lakers pick first.", "Final text: I love you.",
    "Version: 2.0 is out.", "Better title: none.", "Summary judgment: thrown out.", "Final result: 3:2.",
    "Here's a summary. The town: a new bridge.", "Summary:3 of 4 voted.", "TL;DR://example.org",
])
def test_what_only_looks_like_one_stays(text):
    assert answers.without_preamble(text) == text


def test_an_answer_that_is_lost_behind_its_announcement_is_empty():
    assert Summarize().read_output("Sure! Here is the improved TL;DR:") == ""
    assert Summarize().has_preamble("Improved TL;DR: It rained.") and not Summarize().has_preamble("It rained.")
    assert WordRemoval().read_output("Summary: a b.") == "Summary: a b."


@pytest.mark.parametrize(("text", "whole"), [
    ("Say where. Say wh", "Say where."), ("Say where", "Say where"), ("Is it 3.5 or 4? It mat", "Is it 3.5 or 4?"),
    ('He said "no." And th', 'He said "no."'), ("All right.", "All right."),
    ("Use v1.2 of i", "Use v1.2 of i"), ("", ""),
])
def test_whole_sentences(text, whole):
    assert answers.whole_sentences(text) == whole


def test_echoes():
    example, feedback = Example("1", "The dog bit the mayor. He resigned."), "Say who bit the mayor."
    task = Summarize()
    assert task.is_echo("say who BIT the mayor", example, feedback)
    assert task.is_echo("The dog bit the mayor: he resigned", example, feedback)
    instruction = next(line for line in task.prompts.refine.splitlines() if len(line.split()) > 8 and "{" not in line)
    assert task.is_echo(instruction, example, feedback)
    assert task.is_echo(" ".join(instruction.split()[:7]) + " and more", example, feedback)
    for fine in ("A dog bit the mayor.", "The mayor resigned.", "", "Say"):
        assert not task.is_echo(fine, example, feedback)
    assert not WordRemoval().is_echo(feedback, example, feedback)


@pytest.mark.parametrize("text", [
    " " * 100_000, "**" * 50_000, "sure, " * 20_000, "Sure." * 20_000, "sure \n" * 20_000, "(" * 100_000,
    "here is " * 20_000,
])
def test_announcements_are_looked_for_in_linear_time(text):
    start = time.perf_counter()
    answers.without_preamble(text)
    answers.without_preamble(f"{text}:")
    assert time.perf_counter() - start < 0.5


def test_every_task_ends_an_output_as_data_does():
    for stop in ((), ("\n",)):
        task = TemplateTask(policy="{document}", stop=stop)
        assert task.postprocess("\u3000a b\u200b \ufffd") == "a b" == answers.clean("\u3000a b\u200b \ufffd")
    assert Summarize().split_feedback("\u200bShorter.\u3000Improved TL;DR: x")[0] == "Shorter."
