"""What several tests share: keys and certificates made once, and a running server."""
