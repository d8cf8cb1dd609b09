"""Reads what a submission says: its folders, its files, its numbers and the lines that give them."""
