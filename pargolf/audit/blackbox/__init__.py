"""The submission's own evaluation, run small in the sandbox and judged from outside."""
