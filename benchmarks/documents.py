"""Documents for the benchmarks: made-up news from a seeded generator, or rows of your own file."""

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

from ilf_jax.records import Example

_TOWNS = ("Harrowfield", "Nordhaven", "Ostermill", "Lake Arden", "Pinewater", "Southgate", "Elmsworth", "Tarrin")
_PEOPLE = ("Mara Lindqvist", "Tomas Okafor", "Elena Brandt", "Yusuf Hadley", "Priya Sandoval", "Joan Whitlock",
           "Dmitri Castell", "Ingrid Moreau", "Samuel Adeyemi", "Keiko Rowan")
_MONTHS = ("January", "February", "March", "April", "June", "September", "October", "November")


@dataclasses.dataclass(frozen=True)
class _Story:
    """Templates for one kind of event: the article, a hasty summary, feedback on it and a better summary."""

    facts: tuple[str, ...]
    draft: str
    feedback: str
    refinement: str


_STORIES = (
    _Story(
        ("The council of {town} voted on Tuesday to close the old iron bridge over the river for {months} months, "
         "after inspectors found cracks in {count} of its supports.",
         "Repairs are expected to cost {cost} million, of which the regional government has agreed to pay half.",
         "About {many} vehicles cross the bridge on a working day, most of them on the way to the industrial estate.",
         "Drivers will be sent over the northern ring road, which the council says adds {minutes} minutes to the trip.",
         "Pedestrians and cyclists may go on using a narrow walkway beside the railway line until the end of {month}."),
        "A bridge in {town} will be closed because it needs repairs, and drivers will have to take another road.",
        "The summary should say how long the bridge stays closed and who pays for the repairs.",
        "The iron bridge in {town} will close for {months} months because of cracks in its supports; the regional "
        "government pays half of the {cost} million that the repairs cost."),
    _Story(
        ("The only hospital in {town} is to lose its emergency ward in {month}, the health board announced on Friday.",
         "Patients who need urgent care will be taken to a larger clinic {minutes} minutes away by ambulance.",
         "The ward treated {many} people last year, although it was planned for little more than half that number.",
         "The board said that {count} doctors had left since the spring and that it had not been able to replace them.",
         "It promised to spend {cost} million on a new day clinic in the same building within {months} months."),
        "The hospital in {town} is going to change, and some patients will be treated somewhere else in future.",
        "It leaves out the main point: the emergency ward closes, and the reason is that doctors have left.",
        "The hospital in {town} closes its emergency ward in {month} because {count} doctors left and could not be "
        "replaced; urgent cases will go to a clinic {minutes} minutes away."),
    _Story(
        ("A maker of glass bottles in {town} said on Monday that it would take on {count} apprentices this autumn, "
         "the largest number in its history.",
         "The company has signed a contract worth {cost} million with a chain of breweries that wants to give up cans.",
         "A second furnace is to be lit in {month}, and it will use a third less gas than the one that it replaces.",
         "Some {many} bottles an hour will leave the new line, all of them made of glass that has been used before.",
         "Neighbours had worried about noise, and the firm has agreed to stop deliveries {minutes} minutes before ten.",
         "Those who finish the training of {months} months are promised a permanent place."),
        "A company that makes bottles in {town} is doing well and plans to buy another furnace this year.",
        "Mention the apprentices, who are what the article is about, and the contract that made this possible.",
        "Thanks to a contract worth {cost} million with a chain of breweries, a bottle maker in {town} takes on "
        "{count} apprentices, more than ever before, and lights a second furnace in {month}."),
    _Story(
        ("After {months} months without a night bus, {town} will have one again from the first of {month}.",
         "The line will run every {minutes} minutes at weekends and stop {count} times between station and harbour.",
         "A trial two years ago carried {many} passengers before the money for it ran out.",
         "This time the owners of bars and theatres have promised to pay {cost} million over four years.",
         "Tickets bought during the day remain valid, and young people under eighteen travel for nothing."),
        "There is going to be a bus at night in {town}, and many people are said to be happy about that.",
        "Say when it starts, how often it runs, and that bars and theatres give the money for it.",
        "From the first of {month} a night bus runs in {town} every {minutes} minutes at weekends, paid for by bars "
        "and theatres, which give {cost} million over four years."),
)

# Remarks that fit any story.
_REMARKS = (
    "\"We have listened to everybody who wrote to us, and this is the best that we could do,\" said {person}, who "
    "leads the project.",
    "{person}, a shopkeeper in the old town, said that she had heard of the plan only from her customers.",
    "Critics had asked for an independent report, but the majority held that there was no time for one.",
    "\"Nobody likes it, but everybody knew that something had to happen sooner or later,\" {person} told reporters.",
    "A petition against the decision was signed by more than two thousand residents within a week.",
    "The opposition wants to come back to the matter when the budget is discussed at the end of the year.",
    "{person}, who teaches economics at the college, called the figures plausible but on the hopeful side.",
    "Other towns along the coast have taken the same road in recent years, with mixed results.",
    "Details are to be explained at a public meeting in the town hall, for which {count} hundred seats are prepared.",
    "\"What counts now is that the work begins on time,\" said {person}, speaker of the residents' association.",
    "The local newspaper had reported on the plans last summer, which the mayor's office denied at the time.",
    "An earlier attempt failed because two of the parties could not agree on where the money should come from.",
    "The decision came after a debate of four hours in which {person} asked twice for a delay.",
    "Whether the schedule can be kept depends not least on the weather, the planners admit.",
)


def made_up(seed: int) -> Iterator[Example]:
    """An endless stream of documents of 150 to 260 words, each with a draft, feedback on it and a better summary."""
    rng = random.Random(seed)
    number = 0
    while True:
        story = _STORIES[number % len(_STORIES)]
        facts = {
            "town": rng.choice(_TOWNS), "month": rng.choice(_MONTHS), "months": rng.randint(3, 18),
            "minutes": rng.randint(10, 45), "count": rng.randint(4, 28), "cost": f"{rng.randint(11, 96) / 10}",
            "many": f"{rng.randint(12, 95) * 100:,}",
        }
        sentences = [fact.format(**facts) for fact in story.facts]
        goal, remarks = rng.randint(150, 245), rng.sample(_REMARKS, len(_REMARKS))
        while remarks and sum(len(s.split()) for s in sentences) < goal:
            sentence = remarks.pop().format(person=rng.choice(_PEOPLE), **facts)
            sentences.insert(rng.randint(1, len(sentences)), sentence)
        yield Example(
            id=f"made_up_{number}", document=" ".join(sentences), draft=story.draft.format(**facts),
            feedback=story.feedback.format(**facts), human_refinement=story.refinement.format(**facts),
        )
        number += 1


def from_file(path: Path) -> Iterator[Example]:
    """Rows that have both feedback and a refinement, from a JSON Lines file with DeFacto's fields."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            feedback, refinement = row["feedback"]["explanation"], row["feedback"]["summary"]
            if (feedback or "").strip() and (refinement or "").strip():
                yield Example(id=f"row_{number}", document=row["article"], draft=row["candidate"],
                              feedback=feedback, human_refinement=refinement)
