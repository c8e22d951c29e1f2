"""What a laboratory asks for: workflows, the batch, results, reports, review, the command line."""
