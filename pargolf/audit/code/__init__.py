"""What a script does, from its syntax tree alone: unpacked, indexed, followed; nothing is run."""
