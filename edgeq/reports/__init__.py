"""A report as a terminal summary, as JSON and as Markdown."""
