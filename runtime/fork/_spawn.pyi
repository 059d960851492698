def confine(program: bytes, /) -> None: ...
def configure(program: bytes, /) -> None: ...
def spawn(
    control: int,
    invocation: int,
    stdout: int,
    stderr: int,
    cgroup: int,
    tasks: tuple[int, ...],
    net: int,
    mnt: int,
    hostname: str,
    uid: int,
    reports: bool,
    /,
) -> tuple[int, int]: ...
def timings() -> tuple[int, int, int]: ...
