"""Runs: a recipe that is read, trained in a folder, found again, judged; and particle flows of the command line."""
