"""What a user did wrong, told in one line: Hydra's and OmegaConf's errors, read for what they mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from realm_train.errors import BadInput

WRITE_OVERRIDES = "write key=value, and quote what holds commas, brackets or equals signs: 'key=\"a, b\"'"


def explain(error: BaseException, *, groups: Iterable[str] = ()) -> str | None:
    """The user's mistake behind an error, or None if it is a bug of ours; `groups` are config groups that exist."""
    cause = error.__cause__
    match error:
        case BadInput():
            return one_line(error)
        case InstantiationException():
            return explain_instantiation(error)
        case OverrideParseException():
            return f"cannot read {error.override!r} ({first_line(error)}); {WRITE_OVERRIDES}"
        case MissingConfigException(missing_cfg_file=str(path), options=list(options)):
            return explain_option(path, options)
        case HydraException() if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return explain_key(typed_key(error) or str(cause.full_key), cause, groups)
        case HydraException() if isinstance(cause, OmegaConfBaseException):
            return f"{first_line(error)}: {first_line(cause)}"
        case InterpolationResolutionError():
            return explain_interpolation(error)
        case MissingMandatoryValue():
            return f"no value for {error.full_key}; give it as {error.full_key}=…"
        case HydraException() | yaml.YAMLError():
            return one_line(error)
        case ValueError() if raised_by_hydra(error):
            return one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """The error's message with its line breaks taken out."""
    return " ".join(str(error).split())


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


def beside(typed: str, tree: dict) -> list[str]:
    """The keys of the innermost group of a dotted key that there is."""
    *groups, _ = typed.split(".")
    prefix = ""
    for group in groups:
        if not isinstance(tree.get(group), dict):
            break
        tree, prefix = tree[group], f"{prefix}{group}."
    return [f"{prefix}{key}" for key in tree if not key.startswith("_")]


def explain_key(typed: str, error: OmegaConfBaseException, groups: Iterable[str]) -> str:
    """Names the keys nearest to an unknown one, or those there are."""
    tree = OmegaConf.to_container(error.parent_node._get_root(), resolve=False)
    tree.pop("hydra", None)
    near = nearest(typed, [*dict.fromkeys([*dotted(tree), *groups])])
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(beside(typed, tree))}"
    return f"no key {typed!r}; {hint}"


def nearest(typed: str, keys: list[str]) -> list[str]:
    """The keys that may be meant: of a similar name in the same place, of the same name elsewhere, or else similar."""
    place, _, name = typed.rpartition(".")
    same = [key for key in keys if key.rpartition(".")[2] == name]
    beside = [key for key in keys if key.rpartition(".")[0] == place]
    return [*close(name, beside), *same][:3] or close(name, keys)


def close(name: str, keys: list[str]) -> list[str]:
    """At most three keys whose last part is like `name`, the nearest first."""
    last = {key: key.rpartition(".")[2] for key in keys}
    like = difflib.get_close_matches(name, sorted({*last.values()}), n=3)
    return sorted((key for key in keys if last[key] in like), key=lambda key: like.index(last[key]))[:3]


def dotted(tree: dict, prefix: str = "") -> Iterator[str]:
    """The keys of nested dicts, outer before inner."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def explain_interpolation(error: InterpolationResolutionError) -> str | None:
    """What a `${…}` could not find; a resolver's own BadInput says it better."""
    refused = error.__context__
    if isinstance(refused, BadInput | InterpolationResolutionError):
        return explain(refused)
    return first_line(error)


def explain_instantiation(error: InstantiationException) -> str | None:
    """Finds the user's mistake in what Hydra wraps around a `_target_` that failed; None if the target itself did."""
    cause = error.__cause__
    if cause is None:
        return one_line(error)
    if "Error locating target" in str(error):
        return f"{first_line(error).partition(', set env')[0]}: {one_line(cause)}"
    if isinstance(cause, TypeError) and raised_by_hydra(cause):  # its call did not fit the signature
        return f"{first_line(error).rstrip(':')}: {first_line(cause)}; mend the settings of this _target_"
    return explain(cause)


def raised_by_hydra(error: BaseException) -> bool:
    """Whether the error came from Hydra's own lines, not from anything that they called."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("hydra.")
