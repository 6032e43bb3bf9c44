"""Where settings come from: defaults < file < environment < flags and --set. Each value remembers its source.

Whatever is wrong is said with its source, the key, the value and what was expected. An unknown key is never skipped,
except for an environment variable that resembles none of ours.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

try:
    from pydantic import BaseModel, ValidationError
    from pydantic.fields import FieldInfo
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

from troth.server.config import Config, is_loopback
from troth.server.units import DurationMark, SizeMark, format_duration_ms, format_size_bytes, parse_duration_ms
from troth.stores.secrets import without_secrets

DEFAULT_FILE = "troth.toml"
ENVIRONMENT_PREFIX = "TROTH_"
_NOT_OURS = frozenset({"TROTH_ADMIN"})
"""Read by the command line tools, not by the server."""
_KUBERNETES_LINK = re.compile(r"TROTH_(SERVICE_.*|PORT_\d+_.*)")
"""Kubernetes sets these in every pod beside a Service that is called `troth`, and TROTH_PORT=tcp://… with them."""


_BOUNDED_BY = (("retry.min", "retry.max"), ("timeout.default", "timeout.max"))
"""A default must not contradict an upper bound that somebody gave: the left one follows the right one down."""


class ConfigError(Exception):
    """A setting is wrong; the text has one sentence a line."""


class Given(NamedTuple):
    """One value as somebody wrote it, and where."""

    value: object
    source: str


class Row(msgspec.Struct, frozen=True):
    """One setting in force."""

    key: str
    value: str
    source: str
    description: str


class Settings(msgspec.Struct, frozen=True):
    """The settings in force, and where each came from (keys that are absent have their default)."""

    config: Config
    sources: Mapping[str, str]

    def rows(self) -> list[Row]:
        """Every key with its value, source and meaning, in the order of the model."""
        return [
            Row(key, _shown(key, field, self.config), self.sources.get(key, "default"), field.description or "")
            for key, field in known_keys().items()
        ]


def known_keys() -> dict[str, FieldInfo]:
    """All settings as dotted keys."""
    keys: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys |= {f"{name}.{inner}": info for inner, info in section.model_fields.items()}
        else:
            keys[name] = field
    return keys


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    assignments: Iterable[str] = (),
    directory: Path | None = None,
    read_default_file: bool = True,
) -> Settings:
    """Put the layers together. `flags` has dotted keys (None: not given); `assignments` are `KEY=VALUE` of --set.

    Without `file`, a `troth.toml` in `directory` (default: the current one) is read if there is one, unless
    `read_default_file` is false.
    Raises ConfigError with a sentence for each thing that is wrong.
    """
    given: dict[str, Given] = {}
    path = file or (directory or Path()) / DEFAULT_FILE
    if file is not None or (read_default_file and path.is_file()):
        given |= _from_file(path)
    given |= _from_environment(environment or {})
    given |= {key: Given(value, _flag_name(key)) for key, value in (flags or {}).items() if value is not None}
    given |= _from_assignments(assignments)
    _refuse_unknown(given)
    for lower, upper in _BOUNDED_BY:
        if upper in given and lower not in given:
            given |= _lowered(lower, given[upper])
    config = _validate(given)
    _check_whole(config)
    return Settings(config, {key: one.source for key, one in given.items()})


def _flag_name(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _from_file(path: Path) -> dict[str, Given]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    return {key: Given(value, str(path)) for key, value in _flatten(tree, "")}


def _flatten(tree: Mapping[str, object], prefix: str) -> Iterable[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _NOT_OURS or _KUBERNETES_LINK.fullmatch(name):
            continue
        if name == "TROTH_PORT" and "://" in value:
            continue
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if _could_be_ours(key):
            given[key] = Given(value, name)
    return given


def _could_be_ours(key: str) -> bool:
    """False for a variable that resembles no setting: the environment is shared, `TROTH_BIN` may be anybody's."""
    known = known_keys()
    return key in known or "." in key or bool(difflib.get_close_matches(key, known, n=1, cutoff=0.8))


def _from_assignments(assignments: Iterable[str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, such as --set retry.min=50ms")
        given[key.strip()] = Given(value.strip(), f"--set {key.strip()}")
    return given


def _refuse_unknown(given: Mapping[str, Given]) -> None:
    known = known_keys()
    wrong = [
        f"{one.source}: unknown setting {key!r}{_nearest(key, known)}" for key, one in given.items() if key not in known
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _lowered(key: str, upper: Given) -> dict[str, Given]:
    """`key` at the upper bound, if that lies below its default. A bound that is no duration is complained of later."""
    default = known_keys()[key].default
    try:
        bound = parse_duration_ms(upper.value)
    except ValueError:
        return {}
    return {key: upper} if isinstance(default, int) and bound < default else {}


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
    return f"; the nearest known one is {near[0]!r}" if near else ""


def _validate(given: Mapping[str, Given]) -> Config:
    tree: dict[str, object] = {}
    for key, one in given.items():
        section, dot, name = key.rpartition(".")
        if dot:
            branch = tree.setdefault(section, {})
            if isinstance(branch, dict):
                branch[name] = one.value
        else:
            tree[name] = one.value
    try:
        return Config.model_validate(tree)
    except ValidationError as errors:
        raise ConfigError("\n".join(_complaints(errors, given))) from errors


def _complaints(errors: ValidationError, given: Mapping[str, Given]) -> Iterable[str]:
    for error in errors.errors():
        key = ".".join(str(part) for part in error["loc"][:2])
        one = given.get(key) or given.get(str(error["loc"][0]))
        expected = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if one is None:
            yield f"{key}: expected {expected}"
        else:
            yield f"{one.source}: {key} = {one.value!r}: expected {expected}"


def _check_whole(config: Config) -> None:
    """What no single value can tell."""
    if config.retry.max < config.retry.min:
        raise ConfigError("retry.max must not be shorter than retry.min")
    if config.timeout.max < config.timeout.default:
        raise ConfigError("timeout.max must not be shorter than timeout.default")
    for key, host in (("host", config.host), ("admin_host", config.admin_address)):
        if not is_loopback(host) and not config.allow_anonymous:
            raise ConfigError(
                f"{key} = {host!r} lets anybody who reaches this machine end transactions; "
                "listen at 127.0.0.1, or say --allow-anonymous if the network keeps strangers out"
            )


def _value(config: Config, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(key: str, field: FieldInfo, config: Config) -> str:
    value = _value(config, key)
    if value is None:
        return "off" if key.endswith("port") else "unset"
    if key == "store":
        return without_secrets(str(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and any(isinstance(mark, DurationMark) for mark in field.metadata):
        return format_duration_ms(value)
    if isinstance(value, int) and any(isinstance(mark, SizeMark) for mark in field.metadata):
        return format_size_bytes(value)
    return str(value)
