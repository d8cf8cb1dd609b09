"""Runs the submission's own evaluation small in the sandbox, and judges it from outside."""
