"""Data sets as they are laid out on the Hugging Face hub: on the hub, in a folder, or in a bucket.

The files of a split are those that the data set card (the YAML header of README.md) names. Without a card they are
found by their names: `data/train-00000-of-00002.parquet`, `train.csv`, `train/part.jsonl`. A folder that
`datasets.save_to_disk` wrote is read, too. Programs that come with a data set are not run.
"""

import dataclasses
import glob
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ilf_jax.data import formats
from ilf_jax.data.rows import Row
from ilf_jax.errors import InputError, near_path
from ilf_jax.runtime import hub, storage

_CARD = "README.md"
_NO_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"(?:.*/)?(\w[\w.-]*?)-\d{5}-of-\d{5}\.[\w.]+")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", re.ASCII)
# Names of a split, as they stand in names of files and folders: the hub's own rule.
_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"),
          "test": ("test", "testing", "eval", "evaluation")}


@dataclasses.dataclass(frozen=True)
class Repository:
    """The files of a data set.

    Attributes:
        uri: what messages call it.
        names: of its files, from its top folder.
        fetch: gives some of them as files on this machine's disk.
    """

    uri: str
    names: Sequence[str]
    fetch: Callable[[Sequence[str]], list[pathlib.Path]]


def check(name: str) -> None:
    """Raises InputError where `read` would, as far as can be seen on this machine at once."""
    if "://" not in name:
        _place(name)


def read(name: str, split: str) -> Iterator[Row]:
    """The rows of a split.

    Args:
        name: a folder, the URI of one in a bucket, or a hub id OWNER/NAME, which may be followed by @REVISION; then
            :CONFIGURATION where the data set has several.
        split: which one.

    Raises:
        InputError: there is no such data set, configuration or split (those that exist are named), the hub cannot be
            reached, or a file is of a format that is not read, or damaged.
    """
    repository, configuration = _open(name)
    splits = splits_of(repository, configuration)
    if split not in splits:
        raise InputError(f"{repository.uri}: has no split {split!r}; there are {', '.join(splits)}")
    if not splits[split]:
        raise InputError(f"{repository.uri}/{_CARD}: the files that it names for the split {split!r} are not there")
    return _rows(repository, splits[split])


def _rows(repository: Repository, names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        if formats.of_name(name) is None:
            raise InputError(f"{repository.uri}: {name} is of a format that is not read; those that are end in "
                             f"{', '.join(formats.ENDINGS)}")
    number = 0
    for name, path in zip(names, repository.fetch(names), strict=True):
        for row in formats.read(formats.of_name(name) or "", path, f"{repository.uri}/{name}"):
            number += 1
            yield dataclasses.replace(row, number=number)


def _place(name: str) -> tuple[str, str | None, storage.Path | None]:
    """(Name without the configuration, the configuration, the folder: None where it is a hub id)."""
    place = storage.path(name)
    configuration = None
    head, _, tail = name.rpartition(":")
    if head and "/" not in tail and not place.is_dir():
        name, configuration, place = head, tail, storage.path(head)
    if place.is_dir():
        return name, configuration, place
    if not _HUB_ID.fullmatch(name):
        raise InputError(f"hf:{name}: there is no such folder, and it is no hub id of the form OWNER/NAME")
    here = storage.local(name)
    if here.parent.is_dir():  # a folder of ours whose name is mistyped, not somebody's data set on the hub
        near = near_path(here)
        raise InputError(f"hf:{name}: the folder {here.parent} has no {here.name}"
                         f"{f'; did you mean {near.name}?' if near is not None else ''}; the hub is not asked for it, "
                         f"because {name.partition('/')[0]}/ is a folder here")
    return name, configuration, None


def _open(name: str) -> tuple[Repository, str | None]:
    """The data set, and the configuration that is asked for."""
    name, configuration, place = _place(name)
    if place is None:
        return _on_hub(name), configuration
    top = name.rstrip("/")
    here = Repository(f"hf:{name}", storage.names_below(place),
                      lambda files: [storage.fetched(f"{top}/{file}") for file in files])
    return here, configuration


def _on_hub(name: str) -> Repository:
    import huggingface_hub

    hub_id, _, revision = name.partition("@")
    asked = hub.ask(lambda: huggingface_hub.HfApi().dataset_info(
        hub_id, revision=revision or None, timeout=hub.SECONDS))

    def fetch(files: Sequence[str]) -> list[pathlib.Path]:
        try:
            folder = pathlib.Path(huggingface_hub.snapshot_download(
                hub_id, repo_type="dataset", revision=revision or None, local_files_only=asked.value is None,
                allow_patterns=[glob.escape(file) for file in files]))
        except Exception as error:  # the client lets through errors of whichever HTTP library it uses
            raise InputError(f"hf:{name}: the Hugging Face hub did not give {files[0]} ({hub.first_line(error)})"
                             ) from error
        return [folder / file for file in files]

    if asked.value is not None:
        return Repository(f"hf:{name}", sorted(file.rfilename for file in asked.value.siblings or ()), fetch)
    try:  # an earlier download may be here
        files = huggingface_hub.get_cached_repo_tree(hub_id, repo_type="dataset", revision=revision or None)
    except Exception as error:
        raise InputError(f"hf:{name}: there is no folder {name} here, and the Hugging Face hub did not give the data "
                         f"set ({asked.reason}); download it elsewhere and name its folder: hf:DIR") from error
    return Repository(f"hf:{name}", sorted(file.path for file in files), fetch)


def splits_of(repository: Repository, configuration: str | None) -> dict[str, list[str]]:
    """Names of the files of each split, in the order in which they are read.

    Raises:
        InputError: there is no such configuration, none is asked for where there are several, or there are no data.
    """
    card = _card(repository)
    if not card:
        if configuration is not None:
            raise InputError(f"{repository.uri}: has no configuration {configuration!r}: its {_CARD} names none")
        found = _by_names(repository.names)
        if not found:
            raise InputError(f"{repository.uri}: {_why_no_data(repository)}")
        return found
    if configuration is None and len(card) > 1:
        default = next((name for name, entry in card.items() if entry.get("default") is True or name == "default"),
                       None)
        if default is None:
            raise InputError(f"{repository.uri}: has several configurations; name one: {repository.uri}:"
                             f"{next(iter(card))}. There are {', '.join(card)}")
        configuration = default
    configuration = configuration or next(iter(card))
    if configuration not in card:
        raise InputError(f"{repository.uri}: has no configuration {configuration!r}; there are {', '.join(card)}")
    return _of_card(repository.names, card[configuration])


def _card(repository: Repository) -> dict[str, Mapping[str, Any]]:
    """The configurations that the data set card names; none without a card, or if it leaves that to names of files."""
    if _CARD not in repository.names:
        return {}
    import yaml

    text = repository.fetch([_CARD])[0].read_text(encoding="utf-8", errors="replace")
    header = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        facts = yaml.safe_load(header[1]) if header else None
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise InputError(f"{repository.uri}/{_CARD}: its header is not valid YAML: {' '.join(str(e).split())[:200]}"
                         ) from e
    entries = facts.get("configs") if isinstance(facts, dict) else None
    if not isinstance(entries, list):
        return {}
    named = {str(entry.get("config_name", "default")): entry for entry in entries if isinstance(entry, dict)}
    return {name: entry for name, entry in named.items() if "data_files" in entry or "data_dir" in entry}


def _of_card(all_names: Sequence[str], entry: Mapping[str, Any]) -> dict[str, list[str]]:
    folder = f"{str(entry.get('data_dir') or '').strip('/')}/".removeprefix("/")
    names = [name for name in all_names if name.startswith(folder)]
    files = entry.get("data_files")
    if files is None:
        return _by_names(names)
    splits: dict[str, list[str]] = {}
    for part in files if isinstance(files, list) else [files]:
        of_part = part if isinstance(part, dict) else {"split": "train", "path": part}
        patterns = of_part.get("path")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            splits.setdefault(str(of_part.get("split", "train")), []).extend(
                name for name in names if _matches(f"{folder}{pattern}", name))
    return splits


def _matches(pattern: str, name: str) -> bool:
    import fsspec.utils  # a fifth of a second, for which no mistake in a configuration is to wait

    try:
        return re.fullmatch(fsspec.utils.glob_translate(pattern), name) is not None
    except (ValueError, re.error):  # no pattern: then it is a name
        return pattern == name


def _by_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Files by split. The first of the rules that says anything about any file holds for all: `datasets` does so, too.

    Where none does, all are 'train'.
    """
    files = [name for name in names if formats.of_name(name) is not None and _is_data(name)]
    rules: list[Callable[[str], str | None]] = [
        _of_shard, lambda name: _of_words(name.split("/")[:-1]), lambda name: _of_words([name.split("/")[-1]])]
    if "dataset_dict.json" in names:  # as save_to_disk leaves it: a folder for each split
        rules = [lambda name: name.partition("/")[0]]
    for rule in rules:
        by_split: dict[str, list[str]] = {}
        for name in files:
            split = rule(name)
            if split is not None:
                by_split.setdefault(split, []).append(name)
        if by_split:
            return dict(sorted(by_split.items()))
    return {"train": files} if files else {}


def _is_data(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith((".", "__")) for part in parts)
    return not hidden and parts[-1] not in _NO_DATA and not parts[-1].startswith("cache-")


def _of_shard(name: str) -> str | None:
    shard = _SHARD.fullmatch(name)
    return shard[1] if shard and shard[1] not in ("data", "part") else None


def _of_words(parts: Sequence[str]) -> str | None:
    for part in parts:
        words = set(re.split(r"[^a-z]+", part.lower()))
        for split, accepted in _WORDS.items():
            if words & set(accepted):
                return split
    return None


def _why_no_data(repository: Repository) -> str:
    programs = [name for name in repository.names if name.endswith(".py")]
    if programs:
        return (f"has no file of data, only a program that loads it ({programs[0]}), which is not run; many data sets "
                "have a copy in Parquet: hf:OWNER/NAME@refs/convert/parquet")
    return f"has no file of data; those that are read end in {', '.join(formats.ENDINGS)}"
