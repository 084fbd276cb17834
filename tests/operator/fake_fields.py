"""Merging of objects: JSON merge patch, and server-side apply with field owners."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
Path = tuple[str, ...]


def merged(old: Json, patch: Json) -> Json:
    """JSON merge patch: None removes."""
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            before = new.get(key)
            new[key] = merged(before if isinstance(before, dict) else {}, value)
        else:
            new[key] = value
    return new


def apply(old: Json, body: Json, manager: str, owners: dict[str, Json]) -> tuple[Json, str]:
    """Server-side apply: what the manager named before and names no more goes.

    Gives the new object, and a field that another manager owns with another value ("" = none).
    """
    before = owners.get(manager, {})
    others = [leaf for name, one in owners.items() if name != manager for leaf in leaves(one)]
    conflict = ""
    for path, value in leaves(body):
        taken = [theirs for p, theirs in others if p == path and theirs != value]
        if taken and path[0] not in ("apiVersion", "kind") and path[:2] != ("metadata", "name"):
            conflict = ".".join(path)
    kept_by_others = {path for path, _ in others}
    wanted = {path for path, _ in leaves(body)}
    new = _copy(old)
    for path, _ in leaves(before) if before else ():
        if path not in wanted and path not in kept_by_others:
            _remove(new, path)
    for path, value in leaves(body):
        _set(new, path, value)
    status = new.get("status", {})
    if "conditions" in status:
        # An item of which nothing is owned any more goes as a whole.
        status["conditions"] = [c for c in status["conditions"] if "type" in c]
    return new, conflict


def leaves(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Every field with its value; conditions are a map by their type, other lists are one value."""
    if isinstance(value, list) and path and path[-1] == "conditions":
        return [leaf for item in value for leaf in leaves(item, (*path, f"[{item.get('type')}]"))]
    if not isinstance(value, dict) or not value:
        return [(path, value)]
    return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _step(container: Any, key: str, *, make: bool) -> Any:
    """One step down; `[Type]` finds an item of a list of conditions."""
    if key.startswith("["):
        found = next((i for i in container if i.get("type") == key[1:-1]), None)
        if found is None and make:
            found = {"type": key[1:-1]}
            container.append(found)
        return found
    return container.get(key)


def _set(new: Json, path: Path, value: Any) -> None:
    at: Any = new
    for n, key in enumerate(path[:-1]):
        below = _step(at, key, make=True)
        if not isinstance(below, dict | list):
            below = [] if path[n + 1].startswith("[") else {}
            at[key] = below
        at = below
    at[path[-1]] = _copy(value)


def _remove(new: Json, path: Path) -> None:
    at: Any = new
    for key in path[:-1]:
        at = _step(at, key, make=False)
        if at is None:
            return
    if isinstance(at, dict):
        at.pop(path[-1], None)
