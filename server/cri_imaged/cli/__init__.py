"""The command line: the daemon and its client commands."""
