"""The reader processes as the server sees them: started, given jobs, replaced where they crash or hang."""
