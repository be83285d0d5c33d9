"""Opens the tree, reads and builds: blocking code for processes that may crash or hang. It imports no asyncio."""
