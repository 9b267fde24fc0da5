"""The `tlp` command: one thin module a verb."""
