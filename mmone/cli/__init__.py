"""The command ``mmone``: a module a subcommand."""
