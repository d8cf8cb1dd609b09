"""Follows what a script does from its syntax tree alone: unpacked, indexed, followed. Nothing is run."""
