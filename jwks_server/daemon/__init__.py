"""What does: files, threads, processes, sockets and clocks, around the computation in `core`."""
