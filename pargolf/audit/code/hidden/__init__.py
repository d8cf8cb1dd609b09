"""Finds what a script's text does not show: code made at run time, replaced functions, objects from elsewhere."""
