"""What every wing that is not pure may use of the machine: its clocks, its log lines, its table of mounts."""
