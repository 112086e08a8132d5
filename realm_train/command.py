"""Turns a function into a Hydra command: configuration from conf/, and one clear line for every mistake of a user."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from realm_train.errors import BadInput

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
            with one_line_errors():
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
        elif equals or word.startswith("~"):
            overrides.append(word)
        elif takes_paths and Path(word).exists():
            runs.append(word)
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
def one_line_errors() -> Iterator[None]:
    """Ends the process with one line on stderr when the user made a mistake; a bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def explain(error: BaseException) -> str | None:
    """What the user did wrong, in one line, or None if the error is a bug of ours."""
    cause = error.__cause__
    match error:
        case BadInput():
            return str(error)
        case InstantiationException():
            return explain_instantiation(error)
        case OverrideParseException():
            return f"cannot read {error.override!r} ({first_line(error)}); {WRITE_OVERRIDES}"
        case MissingConfigException(missing_cfg_file=str(), options=list()):
            return explain_option(error.missing_cfg_file, error.options)
        case HydraException() if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return explain_key(typed_key(error) or str(cause.full_key), cause)
        case HydraException() if isinstance(cause, OmegaConfBaseException):
            return f"{first_line(error)}: {first_line(cause)}"
        case InterpolationResolutionError():
            refused = isinstance(error.__context__, BadInput | InterpolationResolutionError)
            return explain(error.__context__) if refused else f"{first_line(error)}, asked for by {error.full_key}"
        case MissingMandatoryValue():
            return f"no value for {error.full_key}; give it as {error.full_key}=…"
        case HydraException() | yaml.YAMLError():
            return " ".join(str(error).split())
    return None


WRITE_OVERRIDES = "write key=value, and quote what holds commas, brackets or equals signs: 'key=\"a, b\"'"


def first_line(error: BaseException) -> str:
    """The error's message up to its first line break."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def explain_option(path: str, options: list[str]) -> str:
    """Names the options of a config group, the nearest first."""
    group, _, wanted = path.removesuffix(".yaml").rpartition("/")
    near = difflib.get_close_matches(wanted, options, n=3)
    there = near + sorted(set(options) - set(near))
    return f"no {group}={wanted}; there are: {', '.join(there) or 'none'}"


def typed_key(error: HydraException) -> str | None:
    """The whole key as the user typed it, which Hydra keeps only in its message."""
    found = re.search(r"Could not override '([^']+)'", str(error))
    return found and found[1]


def explain_key(typed: str, error: OmegaConfBaseException) -> str:
    """Names the keys nearest to an unknown one."""
    keys = known_keys(error.parent_node._get_root())
    near = [key for key in keys if key.rpartition(".")[2] == typed][:3]
    near = near or difflib.get_close_matches(typed, keys, n=3)
    top = [key for key in keys if "." not in key]
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(top)}"
    return f"no key {typed!r}; {hint}"


def known_keys(root: DictConfig) -> list[str]:
    """Every dotted key and every config group that an override may name."""
    groups = [folder.name for folder in sorted(CONF.iterdir()) if folder.is_dir()]
    tree = OmegaConf.to_container(root, resolve=False)
    tree.pop("hydra", None)
    return list(dict.fromkeys([*dotted(tree), *groups]))


def dotted(tree: dict, prefix: str = "") -> Iterator[str]:
    """The keys of nested dicts, outer before inner."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def explain_instantiation(error: InstantiationException) -> str | None:
    """Finds the user's mistake in what Hydra wraps around a failed `_target_`."""
    cause = error.__cause__
    if isinstance(cause, ImportError) and "Error locating target" in str(error):
        return f"{first_line(error).partition(', set env')[0]}: {first_line(cause)}"
    if isinstance(cause, TypeError) and "argument" in str(cause) and not inside_target(cause):
        return f"{first_line(error).rstrip(':')}: {first_line(cause)}; mend the settings of this _target_"
    if cause is None:
        return " ".join(str(error).split())
    return explain(cause)


def inside_target(error: BaseException) -> bool:
    """Whether the target's own code ran before it failed: then its arguments fitted its signature."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    return not last.tb_frame.f_globals.get("__name__", "").startswith("hydra.")
