"""What an evaluation leaves: results, samples, tables, figure, page."""
