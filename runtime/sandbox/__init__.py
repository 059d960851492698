"""What a sandbox is made of: plan, cgroup, mounts, identity, pid 1."""
