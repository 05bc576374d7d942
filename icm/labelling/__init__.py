"""Labelling: from settings to a result file."""
