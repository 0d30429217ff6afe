"""The command line: `serve`, `config`, and the client commands that talk to a running daemon."""
