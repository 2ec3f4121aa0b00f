"""Serves the reviewing page: people write feedback on drafts, and compare systems, in a browser.

ilf-jax review --workdir=DIR                   the drafts that a run, or a baseline of it, waits for
                                               (config.feedback.source='human')
ilf-jax review --data=FILE                     any documents and drafts, before any run exists: .jsonl, .csv, .parquet
ilf-jax review --pairs=FILE                    what `ilf-jax compare --export=FILE` wrote
ilf-jax review ... --import=FILE [--replace]   puts reviews from a file in, and ends
ilf-jax review ... --export=FILE               writes all reviews to a .jsonl or .csv file, and ends

python -m ilf_jax.review is the same. The page is at the link that is printed; Ctrl-C ends the server.
"""

import asyncio
import contextlib
import ipaddress
import pathlib
import signal
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from ilf_jax import config as config_lib
from ilf_jax.config_sections import Config
from ilf_jax.data import reviewed
from ilf_jax.errors import InputError
from ilf_jax.review import entries, exchange, locks, rounds
from ilf_jax.review.outbox import Outbox
from ilf_jax.review.store import Store
from ilf_jax.runtime import files, last_defence, storage

_WORKDIR = flags.DEFINE_string("workdir", None, "The work folder of a run that waits for feedback.")
_DATA = flags.DEFINE_string("data", None, "A file of documents and drafts to review.")
_PAIRS = flags.DEFINE_string("pairs", None, "A file of pairs that `compare --export` wrote; answers go into it.")
_STATE = flags.DEFINE_string("state", None, "Local folder of the store; unset: review/ in the work folder, or "
                             "FILE.review beside --data or --pairs. Needed where --workdir is in a bucket.")
_FIELDS = flags.DEFINE_list("fields", [], "With --data: where the fields are, document=article,draft=a.b for example.")
_ENCODING = flags.DEFINE_string("encoding", "", "Of files that are read; unset: UTF-8.")
_IMPORT = flags.DEFINE_string("import", None, "Put the reviews of this .jsonl or .csv file in, and end.")
_REPLACE = flags.DEFINE_bool("replace", False, "With --import: put them in the place of what is stored.")
_EXPORT = flags.DEFINE_string("export", None, "Write all reviews to this .jsonl or .csv file, and end.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; others than this machine's own need --token.")
_PORT = flags.DEFINE_integer("port", 8765, "Port; 0: any that is free.", lower_bound=0, upper_bound=65535)
_TOKEN = flags.DEFINE_string("token", "", "Instead of a random token for each browser: one for all, at least 20 "
                             "characters long.")
_NAMES = flags.DEFINE_list("names", [], "With --host: further host names by which browsers may reach the page.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "Reviewers wanted for each item; unset: config.review.overlap.",
                                lower_bound=1, upper_bound=100)
_GUIDELINES = flags.DEFINE_string("guidelines", None, "Markdown file for reviewers; unset: config.review.guidelines.")
_CLASSES = flags.DEFINE_list("classes", None, "Of the most important point; unset: config.review.classes.")
_CRITERIA = flags.DEFINE_list("criteria", None, "Of comparisons, beside which is better; unset: "
                              "config.review.criteria.")
_RATING = flags.DEFINE_integer("rating", None, "Highest rating; unset: config.review.rating.", lower_bound=0,
                               upper_bound=10)
_WITH_MODEL = flags.DEFINE_bool("with_model", False, "Load the run's refiner and policy: refinements and colours.")
_ORDER = flags.DEFINE_enum("order", "given", ["given", "gain"], "Of the queue; gain: drafts on which refinements "
                           "differ most come first (--with_model).")
_SHORTEST_TOKEN = 20
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def _config(workdir: storage.Path | None) -> Config:
    if workdir is None or not (workdir / "config.json").exists():
        return Config()
    return config_lib.read(files.read_sealed(workdir / "config.json"))


def _form(config: Config) -> entries.Form:
    review = config.review
    guidelines = review.guidelines
    if _GUIDELINES.value:
        try:
            guidelines = storage.local(_GUIDELINES.value).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as e:
            raise InputError(f"--guidelines={_GUIDELINES.value}: cannot be read as UTF-8 text: {e}") from e
    return entries.Form(
        classes=tuple(review.classes if _CLASSES.value is None else _CLASSES.value),
        rating=review.rating if _RATING.value is None else _RATING.value,
        criteria=tuple(review.criteria if _CRITERIA.value is None else _CRITERIA.value),
        guidelines=guidelines, overlap=_OVERLAP.value or review.overlap)


def _state_folder(workdir: storage.Path | None) -> pathlib.Path:
    """Where the store is. Raises InputError if that is unclear."""
    if _STATE.value:
        if "://" in _STATE.value:
            raise InputError(f"--state={_STATE.value}: the store is a database, and must be in a local folder")
        return storage.local(_STATE.value).absolute()
    if workdir is not None:
        if not storage.is_local(workdir):
            raise InputError(f"--workdir={workdir}: is in a bucket, which cannot hold a database; name a local folder "
                             "for it with --state=DIR. What is submitted goes to the bucket")
        return pathlib.Path(workdir) / "review"
    path = storage.local(_DATA.value or _PAIRS.value or "").absolute()
    return path.with_name(f"{path.name}.review")


def _fields() -> dict[str, str]:
    pairs = {}
    for text in _FIELDS.value:
        name, sign, path = text.partition("=")
        if name not in rounds.FIELDS or not sign:
            raise InputError(f"--fields={text}: write FIELD=PATH; fields are {', '.join(rounds.FIELDS)}")
        pairs[name] = path
    return pairs


def _rounds(workdir: storage.Path | None, state: pathlib.Path) -> list[rounds.Round]:
    """What there is to review. Raises InputError if that is nothing."""
    found = []
    if _DATA.value:
        found.append(rounds.of_data(storage.local(_DATA.value), _fields(), _ENCODING.value, state / "reviews.jsonl"))
    if workdir is not None and not _DATA.value:
        waiting = rounds.of_run(workdir)
        if waiting is not None:
            found.append(waiting)
    if _PAIRS.value:
        found.append(rounds.of_pairs(storage.local(_PAIRS.value)))
    if not found:
        raise InputError(f"--workdir={workdir}: the run does not wait for feedback; start it with "
                         "--config.feedback.source=human first, or name drafts with --data=FILE")
    return found


@contextlib.contextmanager
def _open(state: pathlib.Path, config: Config) -> Iterator[Store]:
    with locks.exclusive(state):
        store = Store(state / "review.sqlite", _form(config))
        try:
            yield store
        finally:
            store.close()


def _check_address() -> str:
    """The address to listen on. Raises InputError where anybody in the network could read along without a token."""
    host = _HOST.value
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if _TOKEN.value and len(_TOKEN.value) < _SHORTEST_TOKEN:
        raise InputError(f"--token: has {len(_TOKEN.value)} characters; give at least {_SHORTEST_TOKEN}, hard to guess")
    if not loopback and not _TOKEN.value:
        raise InputError(f"--host={host}: others can reach the page there; give a --token of at least "
                         f"{_SHORTEST_TOKEN} characters, too")
    return host


def _listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, _PORT.value))
    except OSError as e:
        listening.close()
        raise InputError(f"--host={host} --port={_PORT.value}: cannot listen there: {e.strerror or e}; --port=0 takes "
                         "any that is free") from e
    return listening


def allowed_hosts(host: str, names: Sequence[str], port: int) -> frozenset[str]:
    """What may stand in a request's header Host."""
    given = f"[{host}]" if ":" in host else host
    own = {*_LOOPBACK, given.lower(), *(name.lower() for name in names)}
    if host in ("0.0.0.0", "::"):
        own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(own | {f"{name}:{port}" for name in own})


def _serve(store: Store, workdir: storage.Path | None, state: pathlib.Path) -> None:
    import uvicorn

    from ilf_jax.review.desk import Desk
    from ilf_jax.review.guards import Access
    from ilf_jax.review.web_app import make_app

    host = _check_address()
    opened = _rounds(workdir, state)
    load_learner: Callable[[rounds.WaitingRun], Any] | None = None
    if _WITH_MODEL.value:
        if not any(round_.run for round_ in opened):
            raise InputError("--with_model needs --workdir=DIR of a run that waits for feedback, and no --data: the "
                             "refiner and the policy of that iteration are loaded")
        from ilf_jax.review.learner import Learner  # loads jax

        load_learner = Learner
    elif _ORDER.value == "gain":
        raise InputError("--order=gain needs --with_model: refinements are drawn for it")
    desk = Desk(store, opened, workdir=workdir if not _DATA.value else None, by_gain=_ORDER.value == "gain",
                load_learner=load_learner)
    listening = _listen(host)
    try:
        port = listening.getsockname()[1]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host

        def show(token: str, words: str = "for another browser") -> None:
            print(f"{words}: http://{shown}:{port}/enter?token={urllib.parse.quote(token)}", flush=True)

        access = Access(store, _TOKEN.value, show)
        show(access.token, "reviewing page")
        print("add &reviewer=NAME to say who reviews; Ctrl-C ends the server", flush=True)
        app = make_app(desk, access, allowed_hosts(host, _NAMES.value, port), f"ilf_review_{port}")
        server = uvicorn.Server(uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none",
            lifespan="off", limit_concurrency=512, timeout_keep_alive=30, h11_max_incomplete_event_size=64 << 10,
            timeout_graceful_shutdown=5))
        before = signal.getsignal(signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve(sockets=[listening]))
        signal.signal(signal.SIGINT, before)
    finally:
        listening.close()
        desk.close()


@last_defence.guarded("reviewing", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Exit code 0 once the server was ended, or the file written; 2 where the input is at fault."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; flags begin with --")
    if not (_WORKDIR.value or _DATA.value or _PAIRS.value):
        raise InputError("--workdir=DIR of a run, --data=FILE or --pairs=FILE is needed: what is to be reviewed")
    # A baseline is reviewed on its run's page: two stores would overwrite each other's results.
    workdir = reviewed.run_of(storage.path(_WORKDIR.value)) if _WORKDIR.value else None
    config, state = _config(workdir), _state_folder(workdir)
    if _REPLACE.value and not _IMPORT.value:
        raise InputError("--replace goes with --import=FILE")
    with _open(state, config) as store:
        if _IMPORT.value:
            given = list(exchange.read_rows(storage.local(_IMPORT.value), _ENCODING.value))
            opened = _rounds(workdir, state)
            for round_ in opened:
                round_.enter(store)
            count = exchange.import_reviews(store, given, _REPLACE.value)
            Outbox(store, opened).close()  # the run, too, has them now
            print(f"{_IMPORT.value}: {count} reviews put in")
        elif _EXPORT.value:
            print(f"{_EXPORT.value}: {_write(store)} reviews")
        else:
            _serve(store, workdir, state)
    return 0


def _write(store: Store) -> int:
    path = storage.local(_EXPORT.value or "")
    if path.exists() and not _REPLACE.value:
        raise InputError(f"--export={path}: exists; choose another name")
    rows = exchange.review_rows(store)
    files.write_atomically(path, exchange.to_csv(rows) if path.suffix == ".csv" else exchange.to_json_lines(rows))
    return len(rows)


