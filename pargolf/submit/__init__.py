"""From runs to a submission: one script, a folder, and nothing in it that was not measured."""
