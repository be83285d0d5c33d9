"""What every package but `core` may use of the machine: its clocks, its log lines, its table of mounts."""
