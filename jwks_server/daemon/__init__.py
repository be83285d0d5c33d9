"""Wires the parts into one service: settings, start, stop, systemd."""
