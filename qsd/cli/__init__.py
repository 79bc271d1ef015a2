"""The command line: one thin verb per stage. ``qsd`` and ``lightning`` are the same program."""

import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import NamedTuple

from qsd import __version__
from qsd.cli.config_files import with_config_files
from qsd.cli.help_pages import written
from qsd.cli.values import with_values
from qsd.support.errors import QsdError, printable
from qsd.support.stops import stoppable


class _Verb(NamedTuple):
    module: str
    summary: str


VERBS = {
    "compress": _Verb("compress", "make a pipeline small: the whole road in one command"),
    "demo": _Verb("demo", "run the whole road on the shipped miniature, measure it and draw it"),
    "graph": _Verb("graph", "trace a denoiser and draw its graph"),
    "bank": _Verb("bank", "quantize every weight layer of a denoiser by every option"),
    "probe": _Verb("probe", "measure what each option of each layer does alone, on a few images"),
    "label": _Verb("label", "measure random configs (FID, KID, CLIP, PSNR, ...) into a store"),
    "store": _Verb("store", "look into a store: `store info FILE`"),
    "fit": _Verb("fit", "train a ranker on a store (Lightning)"),
    "validate": _Verb("fit", "validate a ranker checkpoint (Lightning)"),
    "test": _Verb("fit", "test a ranker against the baselines (Lightning)"),
    "predict": _Verb("fit", "predict with a ranker checkpoint (Lightning)"),
    "tune": _Verb("tune", "study the ranker's architecture and hyper-parameters with Optuna"),
    "search": _Verb("search", "search configs under a size budget with a trained ranker"),
    "measure": _Verb("measure", "measure configs from files: verify what a search found"),
    "explain": _Verb("explain", "say what each layer costs, and which layers' errors add up or cancel"),
    "report": _Verb("report", "write one self-contained HTML page of a run"),
    "study": _Verb("study", "score the answers to a blind study of `qsd report --study`"),
    "export": _Verb("export", "write a quantized denoiser that diffusers loads"),
    "finetune": _Verb("finetune", "train what an export stores beside its codes; its size stays"),
    "profile": _Verb("profile", "time and memory of an export beside its full-precision pipeline"),
    "zoo": _Verb("zoo", "train the shipped miniatures anew: `zoo train NAME`"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        args: the command line without the program's name; None takes the process's own.

    Returns:
        The exit code: 0; 2 for what the user can mend, said in one line on standard error; 128 and the number
        of the signal that stopped it.
    """
    words = list(sys.argv[1:] if args is None else args)
    with stoppable() as stops:
        try:
            return _run(words)
        except QsdError as error:
            return _fail(str(error), 2)
        except KeyboardInterrupt as stop:
            return _stopped(getattr(stop, "signum", signal.SIGINT))
        except SystemExit:
            if stops.signum is None:
                raise
            return _stopped(stops.signum)
        except BrokenPipeError:
            os.close(sys.stdout.fileno())  # the reader left (`| head`): not an error, and no late flush
            return 0
        except Exception as error:
            message = _of_the_disk(error)
            if message is None:
                raise
            return _fail(message, 2)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"qsd {__version__}")
        return 0
    words = with_values(words)
    verb = VERBS.get(words[0])
    if verb is None:
        return _other_program(words)
    page = written(words)
    if page is not None:
        print(page, end="")
        raise SystemExit(0)
    from qsd.cli.allowed import check_classes
    from qsd.support.hashing import verification

    checked = check_classes(with_config_files([word for word in words if word != "--no-verify"]))
    module = importlib.import_module(f"qsd.cli.{verb.module}")
    with verification("--no-verify" not in words):
        module.run(checked)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"qsd: {printable(message)}", file=sys.stderr)
    return code


def _stopped(signum: int) -> int:
    return _fail("stopped; run the same command again to go on", 128 + signum)


def _of_the_disk(error: Exception) -> str | None:
    """What to tell about a disk that is full or may not be written; None if the error is another."""
    text = os.strerror(errno.ENOSPC)
    if text in str(error):  # some libraries know no OSError
        return f"{text.lower()}; make room and run the same command again"
    if not isinstance(error, OSError) or error.errno is None:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{os.strerror(error.errno).lower()}; check the path and what it permits, and run it again"


def _help() -> str:
    lines = [f"  {name:<10}{verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: qsd VERB [options]      (`lightning` is the same program)",
            "",
            "Finds out which parts of a diffusion model can be stored in few bits, and ships the result.",
            "",
            *lines,
            "",
            "`qsd VERB --help` explains a verb; --max-bits and --max_bits are one.",
            "A --config that is no path is looked up among the shipped YAML.",
            "A settings file may name classes of Lightning, torch and qsd; --allow MODULE adds one.",
            "--no-verify skips the hashes by which every reader notices damage.",
            "Start with `qsd demo --out runs/demo`, then `qsd compress YOUR_PIPELINE --max-bits 3.5`.",
        ]
    )


def _other_program(words: list[str]) -> int:
    """Hands a verb that is not ours to lightning-sdk, whose script has the same name, if it is there."""
    try:
        scripts = distribution("lightning-sdk").entry_points.select(group="console_scripts", name="lightning")
    except PackageNotFoundError:
        raise QsdError(
            f"no verb {words[0]!r}; qsd has {', '.join(VERBS)} "
            "(for Lightning's cloud verbs `pip install lightning-sdk`)"
        ) from None
    program: Callable[[], int | None] = next(iter(scripts)).load()
    sys.argv = ["lightning", *words]
    return program() or 0
