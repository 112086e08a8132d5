"""Turns a function into a Hydra command: configuration from conf/, and one clear line for every mistake of a user."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from realm_train.errors import BadInput
from realm_train.mistakes import explain

CONF = Path(__file__).resolve().parent.parent / "conf"
VERSION_BASE = "1.3"

# Hydra starts the function and writes nothing: a run's folder is ours.
QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")

SWITCHES = {"-h", "--help", "--hydra-help", "--version", "--resolve", "-r", "--run", "-m", "--multirun"}
SWITCHES |= {"-sc", "--shell-completion"}
FLAGS_WITH_VALUE = {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name"}
FLAGS_WITH_VALUE |= {"-cd", "--config-dir", "-i", "--info", "--experimental-rerun"}

Main = Callable[[DictConfig], None]


def command(config: str) -> Callable[[Main], Callable[..., None]]:
    """Makes `main(cfg)` a command configured by `conf/<config>.yaml`; called with a config it runs as it is.

    A user's mistake ends in one line, `error: …`, and exit code 2.
    """

    def decorate(main: Main) -> Callable[..., None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            with one_line_errors():  # also in here, where Hydra would add a line of its own
                refuse_missing(cfg)
                main(cfg)

        @functools.wraps(main)
        def run(cfg: DictConfig | None = None) -> None:
            if cfg is not None:
                return main(cfg)
            with one_line_errors(groups_in=(CONF / config).parent):
                folder, name = locate(config)
                takes_paths = "runs" in OmegaConf.load(folder / f"{name}.yaml")
                flags, overrides = to_overrides(sys.argv[1:], takes_paths=takes_paths)
                sys.argv[1:] = [*flags, "--", *defaults(folder), *overrides]
                os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the report of errors is ours
                hydra.main(config_path=str(folder), config_name=name, version_base=VERSION_BASE)(task)()

        return run

    return decorate


def compose(config: str, *overrides: str) -> DictConfig:
    """The configuration that the command `config` would get with these overrides, without running it."""
    folder, name = locate(config)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(folder), version_base=VERSION_BASE):
        return hydra.compose(name, overrides=[*defaults(folder), *overrides])


def resolved(cfg: DictConfig) -> dict:
    """The configuration as plain dicts and lists, interpolations filled in."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def package_folder(package: str, *inside: str) -> str:
    """The path of an installed package, or of something in it, found without an import; BadInput if there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"the package {package} is not installed; install it (pip install -e '.[quickstart]' has ours)")
    path = Path(spec.submodule_search_locations[0], *inside)
    if not path.exists():
        raise BadInput(f"{path}: the installed package {package} has no such file; install the tested version of it")
    return str(path)


OmegaConf.register_new_resolver("package", package_folder, replace=True)


def locate(config: str) -> tuple[Path, str]:
    """The folder and the name of a command's configuration; groups are looked up beside it, then in conf/."""
    path = CONF / f"{config}.yaml"
    if not path.is_file():
        raise BadInput(f"{path}: not found; install from a checkout of the repository with pip install -e .")
    return path.parent, path.stem


def defaults(folder: Path) -> list[str]:
    """What every command tells Hydra before the user's own words, which win."""
    return [*QUIET] if folder == CONF else [*QUIET, f"hydra.searchpath=[{quoted(f'file://{CONF}')}]"]


def quoted(text: str) -> str:
    """A string as Hydra's override grammar reads it back unchanged."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def to_overrides(argv: list[str], *, takes_paths: bool) -> tuple[list[str], list[str]]:
    """Hydra's own flags, and the overrides that `--key value`, `--key=value` and bare paths of runs stand for."""
    words, flags, overrides, runs = list(argv), [], [], []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in SWITCHES:
            flags.append(word)
        elif name in FLAGS_WITH_VALUE:
            flags += [word] if equals or not words or not is_value(words[0]) else [word, words.pop(0)]
        elif word.startswith("--"):
            if not equals:
                value = "true" if not words or not is_value(words[0]) else words.pop(0)
            overrides.append(f"{name[2:].replace('-', '_')}={value}")
        elif takes_paths and Path(word).exists():
            runs.append(word)
        elif equals or word.startswith("~"):
            overrides.append(word)
        else:
            raise BadInput(f"got {word!r}, expected key=value{' or the folder of a run' if takes_paths else ''}")
    return flags, [*overrides, f"runs=[{','.join(map(quoted, runs))}]"] if runs else overrides


def is_value(word: str) -> bool:
    """Whether a word after `--key` is its value, and neither a flag nor an override of its own."""
    return "=" not in word and not word.startswith("--") and word not in SWITCHES | FLAGS_WITH_VALUE


def refuse_missing(cfg: DictConfig) -> None:
    """Raises BadInput that names every value marked `???` in the configuration and not given."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise BadInput(f"no value for {', '.join(missing)}; give it as {' '.join(f'{key}=…' for key in missing)}")


@contextmanager
def one_line_errors(groups_in: Path | None = None) -> Iterator[None]:
    """Ends the process with one line on stderr when the user made a mistake; a bug keeps its traceback.

    `groups_in` is where the command's config groups are, so that a typo in one can be told from a typo in a key.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        groups = groups_in.glob("*/") if groups_in else ()
        message = explain(error, groups=[group.name for group in groups])
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
