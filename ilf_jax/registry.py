"""What a configuration may choose by name: tasks, feedback sources, scorers and objectives, built in or a user's own.

A choice is the name of a built-in one, a name given to `ilf_jax.register`, `file:PATH:NAME` (a function or class in a
Python file) or `module:PACKAGE.MODULE:NAME` (one that can be imported). Built-in ones are names and places here, and
are imported at first use, so that reading a configuration loads no jax.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any

from ilf_jax.errors import InputError, near_path


@dataclasses.dataclass
class Registry:
    """Choices of one kind.

    Attributes:
        kind: what they are, for messages ("scorer").
        builtins: name -> ('module:NAME', one line of doc).
    """

    kind: str
    builtins: Mapping[str, tuple[str, str]]
    _registered: dict[str, Any] = dataclasses.field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Names to choose from, built-in ones first."""
        return (*self.builtins, *self._registered)

    def register(self, name: str, target: Any) -> None:
        """Adds a choice: a function or class, or where to import it from ('module:NAME').

        Raises:
            InputError: the name is a built-in one, or has a colon, which is kept for file: and module:.
        """
        if name in self.builtins or ":" in name or not name:
            raise InputError(f"register: {name!r} cannot name a {self.kind}; choose a name that is not built in and "
                             "has no colon")
        self._registered[name] = target

    def check(self, choice: str, where: str) -> None:
        """Raises InputError naming `where` unless `choice` is a known name, or has the form of a place."""
        if choice in self.names():
            return
        scheme, _, place = choice.partition(":")
        if scheme in ("file", "module"):
            if not all(place.rpartition(":")[::2]):
                form = "file:PATH:NAME" if scheme == "file" else "module:PACKAGE.MODULE:NAME"
                raise InputError(f"{where}: {choice!r} is not of the form {form}")
            return
        near = difflib.get_close_matches(choice, self.names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where}: {choice!r} is not one of {', '.join(map(repr, self.names()))}, file:PATH:NAME or "
                         f"module:PACKAGE.MODULE:NAME{hint}")

    def check_place(self, choice: str, where: str) -> None:
        """Raises InputError naming `where` if the file of file:PATH:NAME is not there. Runs nothing."""
        if choice.startswith("file:") and choice not in self.names():
            try:
                _checked_file(choice.removeprefix("file:").rpartition(":")[0])
            except InputError as e:
                raise InputError(f"{where}: {e}") from e

    def canonical(self, choice: str) -> str:
        """The choice as configurations keep it: a path below the current folder is relative to it.

        A config file that names itself by `__file__` gets a relative or an absolute path, depending on what loaded it.
        """
        path, _, name = choice.removeprefix("file:").rpartition(":")
        if not choice.startswith("file:") or choice in self.names():
            return choice
        return f"file:{from_here(pathlib.Path(path))}:{name}"

    def load(self, choice: str) -> Any:
        """The function or class that a choice names.

        Raises:
            InputError: it is not there, or its file cannot be run.
        """
        if choice in self.builtins:
            return _imported(self.builtins[choice][0])
        if choice in self._registered:
            target = self._registered[choice]
            return _imported(target) if isinstance(target, str) else target
        scheme, _, place = choice.partition(":")
        where, _, name = place.rpartition(":")
        if scheme == "file":
            return _attribute(load_file(where), name, where)
        return _imported(place)

    def source_hash(self, choice: str) -> str | None:
        """Digest of a user's code, so that a resumed run notices a change; None for a built-in choice.

        It covers the file that defines the choice, not what that file imports.
        """
        if choice in self.builtins:
            return None
        if choice.startswith("file:"):
            path = choice.removeprefix("file:").rpartition(":")[0]
            source = _checked_file(path).read_bytes()
        else:
            source = _source(self.load(choice), choice).encode()
        return hashlib.sha256(source).hexdigest()[:16]


TASKS = Registry("task", {
    "summarize": ("ilf_jax.tasks.summarize:Summarize", "summaries of posts and articles"),
    "word_removal": ("ilf_jax.tasks.word_removal:WordRemoval", "sentences that call somebody names"),
    "template": ("ilf_jax.tasks.template:TemplateTask", "the prompts of config.template"),
})
FEEDBACK = Registry("feedback source", {
    "recorded": ("ilf_jax.feedback.recorded:Recorded", "feedback in the data, about the draft in the data"),
    "oracle": ("ilf_jax.feedback.oracle:Oracle", "a program, for tasks that have one"),
    "critic": ("ilf_jax.feedback.critic:Critic", "a model: config.critic"),
    "human": ("ilf_jax.feedback.human:Human", "a file for people to fill in while the run waits"),
    "none": ("ilf_jax.feedback.withheld:Withheld", "drafts are refined without feedback"),
})
SCORERS = Registry("scorer", {
    "instruct_rm": ("ilf_jax.scoring.instruct_rm:InstructRM", "an ensemble of questions to config.judge"),
    "embedding": ("ilf_jax.scoring.embedding:Embedding", "similarity to the feedback, by config.embedder"),
    "reward_model": ("ilf_jax.scoring.reward_model:RewardModel", "config.reward_model"),
    "random": ("ilf_jax.scoring.baselines:Random", "any candidate"),
    "longest": ("ilf_jax.scoring.baselines:Longest", "the candidate with the most characters"),
    "first": ("ilf_jax.scoring.baselines:First", "the first candidate"),
})
OBJECTIVES = Registry("objective", {
    "nll": ("ilf_jax.training.objectives.nll:NextToken", "imitate the picked text"),
    "weighted": ("ilf_jax.training.objectives.weighted:Weighted", "all candidates, weighted by softmax(beta R)"),
    "dpo": ("ilf_jax.training.objectives.dpo:Dpo", "prefer the target to the draft, or the best candidate to the "
            "worst"),
    "fcp": ("ilf_jax.training.objectives.fcp:FeedbackConditional", "the draft, given the feedback on it"),
    "sdpo": ("ilf_jax.training.objectives.sdpo:SelfDistillation", "draft's tokens as a teacher sees them that has read "
             "the feedback"),
    "sdft": ("ilf_jax.training.objectives.sdft:FromDemonstration", "as sdpo; the teacher has read the refinement"),
    "rltf_sd": ("ilf_jax.training.objectives.rltf_sd:SelfDistilledReward", "refinements, by what they gain on the "
                "draft"),
    "feedback_modelling": ("ilf_jax.training.objectives.feedback_modelling:FeedbackModelling", "nothing but the "
                           "feedback, given the draft; beside another objective: finetune.feedback_weight"),
    "grpo": ("ilf_jax.training.objectives.grpo:Grpo", "fresh drafts, by their reward within the group"),
})
_BY_KIND = {"task": TASKS, "feedback": FEEDBACK, "scorer": SCORERS, "objective": OBJECTIVES}


def register(kind: str, name: str, target: Any) -> None:
    """Makes a function or class of yours a choice of the configuration.

    Args:
        kind: "task", "feedback", "scorer" or "objective".
        name: how the configuration calls it.
        target: the function or class, or 'module:NAME'.

    Raises:
        InputError: no such kind, or the name is taken by a built-in one.
    """
    if kind not in _BY_KIND:
        raise InputError(f"register: {kind!r} is not one of {', '.join(_BY_KIND)}")
    _BY_KIND[kind].register(name, target)


def from_here(path: pathlib.Path) -> pathlib.Path:
    """Relative where it is below the current folder: a run that was begun by one path is resumed by the other, too."""
    here = pathlib.Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def load_file(path: str) -> types.ModuleType:
    """Runs a Python file as a module. The same file, unchanged, is run once in a process.

    Raises:
        InputError: there is no such file, or it raises; the file and line are named.
    """
    place = _checked_file(path)
    # Named by its content: classes in it can be pickled, and two files of the same name do not collide.
    name = f"_ilf_jax_user_{hashlib.sha256(str(place).encode() + place.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        del sys.modules[name]
        raise
    except Exception as e:
        del sys.modules[name]
        raise InputError(f"{place_of_error(e, path)}: {type(e).__name__}: {e}") from e
    return module


def call_user(function: Callable[..., Any], about: str, *arguments: Any) -> Any:
    """What a user's function returns.

    Args:
        about: what it was called for, for the message ("document 'a'").

    Raises:
        InputError: it raised; says where in the user's code, and about what.
    """
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as e:
        name = getattr(function, "__name__", type(function).__name__)
        place = place_of_error(e, _file_of(function))
        raise InputError(f"{place}: {name}() failed on {about}: {type(e).__name__}: {e}") from e


def place_of_error(error: BaseException, path: str | None) -> str:
    """FILE:LINE of the innermost frame in the file `path`, or of the innermost frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    wanted = pathlib.Path(path).resolve() if path else None
    own = [frame for frame in frames if wanted is not None and pathlib.Path(frame.filename).resolve() == wanted]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def _checked_file(path: str) -> pathlib.Path:
    place = pathlib.Path(os.path.expanduser(path))
    if not place.is_file():
        near = near_path(place)
        hint = f"; did you mean {near}?" if near is not None else f" (looked from {pathlib.Path.cwd()})"
        raise InputError(f"{path}: there is no such Python file{hint}")
    return place


def _imported(place: str) -> Any:
    module, _, name = place.rpartition(":")
    try:
        imported = importlib.import_module(module)
    except InputError:
        raise
    except Exception as e:
        where = place_of_error(e, None)
        raise InputError(f"module:{place}: cannot be imported: {where}: {type(e).__name__}: {e}") from e
    return _attribute(imported, name, module)


def _attribute(module: types.ModuleType, name: str, where: str) -> Any:
    if not hasattr(module, name):
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        near = difflib.get_close_matches(name, public, n=1)
        raise InputError(f"{where}: has no function or class {name}{f'; did you mean {near[0]}?' if near else ''}")
    return getattr(module, name)


def _definition(target: Any) -> Any:
    """The function or class behind a partial or an instance."""
    while isinstance(target, functools.partial):
        target = target.func
    return target if inspect.isroutine(target) or inspect.isclass(target) else type(target)


def _file_of(target: Any) -> str | None:
    try:
        return inspect.getsourcefile(_definition(target))
    except TypeError:  # built into Python
        return None


def _source(target: Any, name: str) -> str:
    """The text of the file that defines what a user registered; of a function typed into a shell, its byte code.

    Raises:
        InputError: neither can be had, so that a resumed run could not notice a change.
    """
    path = _file_of(target)
    if path is not None and pathlib.Path(path).is_file():
        return pathlib.Path(path).read_text(encoding="utf-8")
    code = getattr(_definition(target), "__code__", None)
    if code is None:
        raise InputError(f"{name}: its source cannot be found; define it in a file")
    return repr(_byte_code(code))


def _byte_code(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_byte_code(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    return code.co_code, code.co_names, constants
