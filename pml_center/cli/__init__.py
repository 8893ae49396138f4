"""The command line: one module a command."""

from pml_center.names import require

require(__name__, "cyclopts", "packaging", "rich", "threadpoolctl", "yaml")

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import TextIOWrapper
from typing import Any, TextIO

from cyclopts import App, CycloptsError, Parameter

from pml_center import __version__
from pml_center.cli.config_file import check_numbers, read_config_file
from pml_center.training.interrupt import describe_death, is_dead_worker

app = App(
    name="pml-center",
    help="Train with center loss and the softmax family of pytorch-metric-learning, and measure what comes of it.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    config=(read_config_file, check_numbers),
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),  # --recall-at 1 2 4
    help_epilogue="Any command takes --quiet, for results and warnings alone, and --debug, to see where an error comes "
    "from.",
)
app.register_install_completion_command(help="Install completion for the shell in use, and exit.")
# By path, so that --help does not wait for torch.
app.command("pml_center.cli.demo:demo", help="See what center loss does, on embedded handwritten digits.")
app.command("pml_center.cli.train:train", help="Fit an embedding on one data set and measure it on what was held out.")
app.command("pml_center.cli.resume:resume", help="Go on with a run that stopped, as if it never had.")
app.command("pml_center.cli.compare:compare", help="Find out which loss is best, and whether the difference is real.")
app.command(
    "pml_center.cli.eval:run_protocols", name="eval", help="Measure a model, or embeddings, by one protocol or several."
)
app.command("pml_center.cli.embed:embed", help="Write the embeddings of images to a folder.")
app.command("pml_center.cli.search:search", help="Find the images that are most like others.")
data_app = App(name="data", help="Look after data sets.")
data_app.command("pml_center.cli.data:check", help="Find what is wrong with a data set, all of it in one pass.")
app.command(data_app)
app.command("pml_center.cli.report:report", help="Write the page of a run: what it is worth, with images and plots.")
app.command("pml_center.cli.export:export", help="Write the model of a run for timm to load, or as ONNX.")
app.command("pml_center.cli.losses:losses", help="List the losses, or tell all of one.")
app.command("pml_center.cli.models:models", help="List the models, by a pattern.")
app.command("pml_center.cli.doctor:doctor", help="Look at this installation: what is there, and what is broken.")
recipes = App(name="recipes", help="Recipes of training, to own and edit.")
recipes.command("pml_center.cli.recipes:ls", help="List them.")
recipes.command("pml_center.cli.recipes:cp", help="Copy one, for train --config.")
app.command(recipes)

USER_ERRORS = (ValueError, TypeError, OSError)  # of the arguments and the data; a command is to know no other
WORDS = {"root": "data", "level": "--ci-level"}  # of functions, and what a user typed in their place
OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # those OSErrors which are nobody's mistake


def main(arguments: list[str] | None = None) -> None:
    """Run a command. What goes wrong ends in one sentence on stderr; ``--debug`` shows where.

    Exit codes: 1 for a run that failed, 2 for mistakes in the arguments or in the data, 3 for a package that is
    missing, 130 for an interrupt.

    Args:
        arguments: of the command line; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("pml_center").setLevel(logging.WARNING if "--quiet" in arguments else logging.INFO)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # paths may be any bytes, and are printed as they are
    logging.getLogger("huggingface_hub").propagate = False  # it prints by itself, and would say everything twice
    try:
        with _terminable(), _progress(shown=not {"--quiet", "--json"} & set(arguments)):
            app([argument for argument in arguments if argument not in ("--debug", "--quiet")], exit_on_error=False)
            sys.stdout.flush()
    except CycloptsError:  # printed already
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(f"pml-center: {str(interrupt) or 'interrupted'}", file=sys.stderr)  # str: any exception is true
        sys.exit(130)
    except BrokenPipeError:  # what reads our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if "--debug" in arguments:
            raise
        print(f"pml-center: {_message(error)}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    if isinstance(error, ImportError):
        return 3
    failed = isinstance(error, OSError) and error.errno in OF_THE_MACHINE
    return 2 if isinstance(error, USER_ERRORS) and not failed else 1


def _message(error: Exception) -> str:
    message = str(error)
    if is_dead_worker(error):
        return describe_death(error)
    if "DataLoader worker process" in message:  # there, the message is a whole traceback
        message = message.strip().splitlines()[-1].partition(": ")[2]
    word, _, rest = message.partition(" must ")
    message = f"{WORDS[word]} must {rest}" if word in WORDS else message
    if isinstance(error, (*USER_ERRORS, ImportError, FloatingPointError)) or type(error).__module__.startswith("pml_"):
        return message
    return f"{type(error).__name__}: {message}. Add --debug to see where."


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, as queues send it, ends a command as Ctrl-C does, unless it is ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Progress bars appear where standard error is a terminal: unless they are to be shown, it says that it is none."""
    if shown:
        yield
        return
    with redirect_stderr(_NoTerminal(sys.stderr)):  # type: ignore[type-var]
        yield


class _NoTerminal:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return False
