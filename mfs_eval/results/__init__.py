"""Results: schema, rows, statistics, report and plots."""
