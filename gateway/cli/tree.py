"""`pagurus ps --tree`: which process came from which. Runs in `pagurus`."""

from collections.abc import Iterable, Iterator
from typing import Any

from gateway.cli import output

Row = dict[str, Any]


def forest(sandboxes: Iterable[Row], zygotes: Iterable[Row]) -> list[Row]:
    """Runtimes with their zygotes, base zygotes first; zygotes with their sandboxes and standbys.

    A sandbox whose zygote is no more stands below one with the state `gone`: a zygote is dropped before what it forked.
    """
    nodes: dict[str, Row] = {}
    for zygote in zygotes:
        nodes[str(zygote.get("id"))] = {**zygote, "sandboxes": []}
    for sandbox in sandboxes:
        identifier = str(sandbox.get("zygote"))
        gone: Row = {"id": identifier, "runtime": None, "state": "gone", "sandboxes": []}
        nodes.setdefault(identifier, gone)["sandboxes"].append(sandbox)
    runtimes: dict[str | None, list[Row]] = {}
    for node in nodes.values():
        node["sandboxes"].sort(key=_sandbox_order)
        runtimes.setdefault(node.get("runtime"), []).append(node)
    return [
        {"runtime": runtime, "zygotes": sorted(found, key=lambda node: (bool(node.get("environments")), node["id"]))}
        for runtime, found in sorted(runtimes.items(), key=lambda item: (item[0] is None, item[0] or ""))
    ]


def lines(trees: Iterable[Row]) -> Iterator[str]:
    """The forest as text, a line a node."""
    for tree in trees:
        yield output.plain(tree["runtime"] or "(runtime unknown)")
        yield from _branches([(_zygote_line(node), _sandbox_lines(node)) for node in tree["zygotes"]])


def _branches(nodes: list[tuple[str, list[str]]]) -> Iterator[str]:
    for number, (head, leaves) in enumerate(nodes):
        is_last = number == len(nodes) - 1
        yield ("└─ " if is_last else "├─ ") + output.plain(head)
        stem = "   " if is_last else "│  "
        for place, leaf in enumerate(leaves):
            yield stem + ("└─ " if place == len(leaves) - 1 else "├─ ") + output.plain(leaf)


def _zygote_line(node: Row) -> str:
    kind = "" if node["state"] == "gone" else "  package zygote" if node.get("environments") else "  base zygote"
    parts = [f"{node['id']}{kind}, {node['state']}"]
    if node.get("memory_bytes"):
        parts.append(output.size(node["memory_bytes"]))
    if node.get("owner"):
        parts.append(f"was a sandbox of {node['owner']}")
    meant, able = list(node.get("meant_for") or ()), list(node.get("functions") or ())
    if meant:
        parts.append("for " + " ".join(meant))
    elif able and node.get("environments"):
        parts.append("can help " + " ".join(able))
    if node.get("reason"):
        parts.append(str(node["reason"]))
    return ", ".join(parts)


def _sandbox_lines(node: Row) -> list[str]:
    """A line a sandbox; standbys, which are all alike, in one."""
    found = [_sandbox_line(one) for one in node["sandboxes"] if one.get("state") != "standby"]
    standbys = sum(one.get("state") == "standby" for one in node["sandboxes"])
    if standbys:
        found.append(f"{standbys} {'standby' if standbys == 1 else 'standbys'}")
    return found


def _sandbox_line(sandbox: Row) -> str:
    parts = [f"{output.text(sandbox.get('id'))}  {output.text(sandbox.get('function'))}"]
    parts += [str(sandbox[key]) for key in ("kind", "state") if sandbox.get(key)]
    if sandbox.get("memory_bytes"):
        parts.append(output.size(sandbox["memory_bytes"]))
    return ", ".join(parts)


def _sandbox_order(sandbox: Row) -> tuple[bool, str, str]:
    return sandbox.get("state") == "standby", str(sandbox.get("function")), str(sandbox.get("id"))
