import json

from gateway.cli.tree import forest, lines

ZYGOTES = [
    {
        "id": "z-1",
        "runtime": "python3.11",
        "state": "ready",
        "environments": ["e"],
        "memory_bytes": 30 << 20,
        "functions": ["report", "other"],
        "meant_for": ["report"],
        "owner": "numbers",
        "reason": "",
    },
    {"id": "z-2", "runtime": "python3.11", "state": "failed", "environments": ["f"], "reason": "imports: no memory"},
    {"id": "base-python3.11", "runtime": "python3.11", "state": "ready", "environments": [], "functions": ["hello"]},
    {"id": "base-python3.13", "runtime": "python3.13", "state": "starting", "environments": []},
]
SANDBOXES = [
    {"id": "z-1.4", "zygote": "z-1", "state": "standby", "function": None, "kind": None},
    {
        "id": "z-1.3",
        "zygote": "z-1",
        "state": "frozen",
        "function": "report",
        "kind": "helped",
        "memory_bytes": 2 << 20,
    },
    {"id": "b.1", "zygote": "base-python3.11", "state": "busy", "function": "hello", "kind": "helped"},
    {"id": "z-1.5", "zygote": "z-1", "state": "standby", "function": None, "kind": None},
    {"id": "old.1", "zygote": "z-0", "state": "idle", "function": "report", "kind": "helped"},
]


def test_the_tree_shows_who_came_from_whom():
    assert list(lines(forest(SANDBOXES, ZYGOTES))) == [
        "python3.11",
        "├─ base-python3.11  base zygote, ready",
        "│  └─ b.1  hello, helped, busy",
        "├─ z-1  package zygote, ready, 30 MiB, was a sandbox of numbers, for report",
        "│  ├─ z-1.3  report, helped, frozen, 2 MiB",
        "│  └─ 2 standbys",
        "└─ z-2  package zygote, failed, imports: no memory",
        "python3.13",
        "└─ base-python3.13  base zygote, starting",
        "(runtime unknown)",
        "└─ z-0, gone",
        "   └─ old.1  report, helped, idle",
    ]


def test_a_zygote_that_was_made_for_nobody_tells_whom_it_can_help():
    zygote = {"id": "z", "runtime": "python3.11", "state": "ready", "environments": ["e"], "functions": ["a", "b"]}
    assert list(lines(forest([], [zygote])))[1] == "└─ z  package zygote, ready, can help a b"


def test_what_would_drive_the_terminal_is_not_printed():
    zygote = {"id": "z", "runtime": "python3.11", "state": "failed", "environments": [], "reason": "a\x1b[2J\nb"}
    assert list(lines(forest([], [zygote])))[1].endswith("a?[2J?b")


def test_every_sandbox_stands_in_the_nested_json(pagurus, gateway):
    gateway.answer("GET", "/v1/sandboxes", {"sandboxes": SANDBOXES})
    gateway.answer("GET", "/v1/zygotes", {"zygotes": ZYGOTES})
    found = json.loads(pagurus("ps", "--tree", "--json").stdout)["runtimes"]
    assert [tree["runtime"] for tree in found] == ["python3.11", "python3.13", None]
    sandboxes = [one["id"] for tree in found for zygote in tree["zygotes"] for one in zygote["sandboxes"]]
    assert sorted(sandboxes) == sorted(one["id"] for one in SANDBOXES)
    assert pagurus("ps", "--tree").stdout.startswith("python3.11\n├─ base-python3.11")


def test_an_empty_node_says_so(pagurus, gateway):
    gateway.answer("GET", "/v1/sandboxes", {"sandboxes": []})
    gateway.answer("GET", "/v1/zygotes", {"zygotes": []})
    assert pagurus("ps", "--tree").stdout == "no zygotes\n"
