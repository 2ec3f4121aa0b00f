"""Where items to review come from: a run or a baseline that waits, a file of documents and drafts, a file of pairs.

Each is a round of the store, and names the file in which what came of it is left.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ilf_jax import config as config_lib
from ilf_jax.config import Config
from ilf_jax.data import judged_pairs, reviewed
from ilf_jax.data.field_paths import MISSING, look_up, to_text
from ilf_jax.errors import InputError
from ilf_jax.review import exchange
from ilf_jax.review.store import NewItem, Store
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json_lines, read_sealed

FIELDS = ("id", "document", "draft", "title")


@dataclasses.dataclass(frozen=True)
class WaitingRun:
    """What waits for people: a run, or one of its baselines.

    Attributes:
        workdir: its work folder.
        iteration: the one that waits.
        config: its own.
    """

    workdir: storage.Path
    iteration: int
    config: Config


@dataclasses.dataclass(frozen=True)
class Round:
    """Items that are reviewed together.

    Attributes:
        name: in the store, and for people.
        source: file that the items come from.
        items: in its order.
        said: (file:line, row) of what the source says of them already.
        results: file that takes what people say.
        by_line: a line is added for each change; otherwise the answers of pairs are written into `results` itself.
        run: what waits for the items to be reviewed; None: nothing does.
    """

    name: str
    source: storage.Path
    items: list[NewItem]
    said: list[tuple[str, dict[str, Any]]]
    results: storage.Path
    by_line: bool = True
    run: WaitingRun | None = None

    def enter(self, store: Store) -> None:
        """Puts items into the store, and what the source says of those on which the store has nothing yet.

        Raises:
            InputError: the store has other texts under the same ids, or what the source says is not valid.
        """
        store.add_items(self.name, self.items, str(self.source))
        by_key = {item.key: item for item in store.items(self.name)}
        begun = {review.item for review in store.reviews() if review.status != "pending"}
        new = [(where, row) for where, row in self.said if by_key[row["id"]].id not in begun]
        exchange.import_reviews(store, new, replace=False, round_=self.name)


def waiting_name(workdir: storage.Path) -> str | None:
    """The name of the round that `of_run` would give; None where nothing waits.

    Raises:
        InputError: a manifest is damaged.
    """
    folder = _waiting_folder(workdir)
    return _name(workdir, folder) if folder is not None else None


def _waiting_folder(workdir: storage.Path) -> storage.Path | None:
    """The folder of the feedback stage that waits: the run's, else of the one baseline that it has come to."""
    folders = map(reviewed.waiting, (workdir, *reviewed.waiting_baselines(workdir)))
    return next((folder for folder in folders if folder is not None), None)


def _name(workdir: storage.Path, folder: storage.Path) -> str:
    iteration, waits = folder.parent.name, folder.parent.parent
    return iteration if waits == workdir else f"{waits.name}, {iteration}"


def of_run(workdir: storage.Path) -> Round | None:
    """The iteration of a run, or of one of its baselines, that waits for feedback; None where none does.

    Raises:
        InputError: it is no work folder, or a file is damaged.
    """
    if not (workdir / "config.json").exists():
        raise InputError(f"--workdir {workdir}: is not a work folder, it has no config.json; give the --workdir of a "
                         "run, or --data=FILE to review drafts without one")
    folder = _waiting_folder(workdir)
    if folder is None:
        return None
    waits = folder.parent.parent
    run = WaitingRun(waits, int(re.sub(r"\D", "", folder.parent.name)),
                     config_lib.read(read_sealed(waits / "config.json")))
    path = folder / reviewed.FILE
    wanted: dict[str, dict[str, Any]] = {}
    for number, row in read_json_lines(path):
        if not all(isinstance(row.get(name), str) for name in ("id", "document", "draft")):
            raise InputError(f"{path}:{number}: a line is an object with the texts id, document, draft and feedback")
        wanted[row["id"]] = row
    said = []
    for i, by_hand in reviewed.by_hand(path, wanted).items():
        feedback = by_hand.feedback.strip()
        if feedback or by_hand.status == reviewed.SKIPPED:
            said.append((str(path), {"id": i, "feedback": feedback, "human_refinement": by_hand.refinement,
                                     "status": "submitted" if feedback else by_hand.status}))
    items = [NewItem(i, row["document"], row["draft"], str(row.get("title", ""))) for i, row in wanted.items()]
    return Round(_name(workdir, folder), path, items, said, folder / reviewed.REVIEWS, run=run)


def of_data(path: pathlib.Path, fields: Mapping[str, str], encoding: str, results: pathlib.Path) -> Round:
    """The documents and drafts of a JSON Lines or CSV file.

    Args:
        fields: field of `FIELDS` -> dotted path in the rows.

    Raises:
        InputError: a line is damaged, has no document or draft, or an id appears twice.
    """
    items: list[NewItem] = []
    said = []
    seen: set[str] = set()
    for number, (where, row) in enumerate(exchange.read_rows(path, encoding), start=1):
        texts = {}
        for name in FIELDS:
            value = look_up(row, fields.get(name, name))
            if value is MISSING and name in ("document", "draft"):
                raise InputError(f"{where}: has no {fields.get(name, name)!r}; name the field of the {name} with "
                                 f"--fields={name}=PATH")
            texts[name] = "" if value is MISSING else to_text(f"{where}: {name}", value)
        key = texts["id"] or f"row-{number:06d}"
        if key in seen:
            raise InputError(f"{where}: the id {key!r:.60} appears twice")
        if not texts["document"].strip():
            raise InputError(f"{where}: the document is empty")
        seen.add(key)
        items.append(NewItem(key, texts["document"], texts["draft"], texts["title"]))
        if any(row.get(name) for name in ("feedback", "status")):
            said.append((where, {**{k: v for k, v in row.items() if k in exchange.COLUMNS}, "id": key,
                                 "draft": texts["draft"]}))
    if not items:
        raise InputError(f"{path}: has no line to review")
    return Round(path.name, path, items, said, results)


def of_pairs(path: pathlib.Path) -> Round:
    """The pairs that `ilf-jax compare --export` wrote; blinded and in the order of its seed.

    Raises:
        InputError: it is no such file.
    """
    items, said = [], []
    for where, row in judged_pairs.read_pairs(path):
        key = str(row["pair"])
        items.append(NewItem(key, str(row.get("document", "")), row["A"], str(row.get("title", "")), row["B"], True))
        if row["better"]:
            said.append((where, {"id": key, "better": row["better"], "criteria": row["criteria"]}))
    if not items:
        raise InputError(f"{path}: has no pair")
    return Round(f"pairs: {path.name}", path, items, said, path, by_line=False)
