"""`python -m jwks_server` is the `jwks-server` command."""

from jwks_server.cli import main

if __name__ == "__main__":
    main()
