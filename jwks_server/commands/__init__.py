"""The commands that do not serve: they read the tree as the server would, in their own process."""
