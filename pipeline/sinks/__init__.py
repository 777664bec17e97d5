"""Where labels go. The run's own record, `parts`, is always written."""
