"""The pipeline: label, train and evaluate from one file."""
