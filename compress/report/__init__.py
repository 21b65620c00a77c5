"""What a run tells: report.json and plan.json, the terminal, and a page to read in a browser."""
