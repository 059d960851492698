"""What the kernel counts by user: inotify, timers, queued signals, message queues. Runs in children of pagurusd.

A thing that is made in a user namespace counts for its user there, and for the namespace's owner in the one above.
With root as the owner, a single sandbox could use up what root's own services on the host have of each. So a range's
first uid owns its namespace, and each uid in it may have a small part only.
"""

import os

import prctl

from runtime import syscalls

# Of each uid of the namespace (user_namespaces(7)); the host's own limit, mostly 128 inotify instances, then holds
# for all sandboxes of one zygote together.
NAMESPACE_LIMITS = {
    "max_user_namespaces": 0,
    "max_time_namespaces": 0,
    **{f"max_{kind}_namespaces": 8192 for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts")},
    "max_inotify_instances": 16,
    "max_inotify_watches": 4096,
    "max_fanotify_groups": 0,
    "max_fanotify_marks": 0,
}


def own_namespaces_as(uid: int) -> None:
    """Let the user namespace that the caller, root, makes next belong to `uid`. The capabilities stay."""
    prctl.securebits.no_setuid_fixup = True  # a new user namespace begins with the usual bits again
    os.setresuid(-1, uid, -1)


def limit_namespaces() -> None:
    """Write the limits of the caller's user namespace; /proc is its own. What a kernel lacks it does not count."""
    for name, limit in NAMESPACE_LIMITS.items():
        try:
            syscalls.write_file(f"/proc/sys/user/{name}", str(limit))
        except FileNotFoundError:
            if name == "max_user_namespaces":
                raise
