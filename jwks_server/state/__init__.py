"""What outlives the process: the keys that are owed, in the state directory."""
