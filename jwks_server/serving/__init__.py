"""The public listener: sockets, TLS, HTTP. It writes nothing that is published."""
