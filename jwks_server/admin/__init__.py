"""The private listener: alive, ready, numbers. It writes nothing."""
